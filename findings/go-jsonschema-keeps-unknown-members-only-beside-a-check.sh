#!/bin/sh
# A Go type generated with `additionalProperties: true` loses unknown members where nothing in it can be invalid.
#
# Version    github.com/atombender/go-jsonschema v0.24.1 (Go module)
# Expected   an object schema that says `additionalProperties: true` becomes a struct with a field
#            AdditionalProperties, which holds the unknown members of a document that was read.
# Observed   both structs have that field, but only one is filled: it is filled by a method UnmarshalJSON, which is
#            generated only for a struct that has something to check (a required member, a pattern, a length). In the
#            other one the member is lost without an error. `"required": []` does not help, a pattern does.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs Go 1.25.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for name in checked unchecked; do
    check=""
    [ "$name" = checked ] && check=', "pattern": "^"'
    printf '{"type": "object", "properties": {"id": {"type": "string"%s}}, "required": [], "additionalProperties": true}\n' \
        "$check" >"$name.json"
done
cat >go.mod <<'MOD'
module finding

go 1.25.0
MOD
cat >main.go <<'GO'
package main

import (
	"encoding/json"
	"fmt"
)

func main() {
	document := []byte(`{"id": "a", "new": 1}`)
	var checked CheckedJson
	var unchecked UncheckedJson
	fmt.Println(json.Unmarshal(document, &checked), checked.AdditionalProperties)
	fmt.Println(json.Unmarshal(document, &unchecked), unchecked.AdditionalProperties)
}
GO
go get -tool github.com/atombender/go-jsonschema@v0.24.1 2>/dev/null
go tool go-jsonschema -p main -o types.go checked.json unchecked.json
go get github.com/go-viper/mapstructure/v2@v2.5.0 2>/dev/null
observed=$(go run .)
printf '%s\n' "$observed"

expected="<nil> map[new:1]
<nil> <nil>"
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
