#!/bin/sh
# The CloudEvents SDK for Go cuts `data` after a number that float64 cannot hold, and takes what is left for attributes.
#
# Version    cloudevents/sdk-go/v2 2.16.2 (json-iterator 1.1.12), Go 1.26
# Expected   The SDK hands on `data` of an application/json event as the bytes that came, without parsing numbers:
#            {"n":1E400} alone, 30-digit integers and {"n":1E400,"s":"x"} do come out whole.
# Observed   {"n":1E400,"list":[1],"h":1.5} comes out as {"n":1E400,"list":[1] without an error, and the event has an
#            extension h=1 that nobody sent. With an object in place of the list the event is refused. It takes a list or
#            object that is not empty after the number. json.RawMessage of encoding/json keeps the bytes.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs Go.
set -eu
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"
cat >go.mod <<'MOD'
module finding

go 1.23

require github.com/cloudevents/sdk-go/v2 v2.16.2
MOD
cat >main.go <<'GO'
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/cloudevents/sdk-go/v2/event"
)

func read(data string) (event.Event, error) {
	var e event.Event
	envelope := `{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"application/json","data":`
	err := json.Unmarshal([]byte(envelope+data+"}"), &e)
	fmt.Printf("sent %s\n got %s, extensions %v, error %v\n", data, e.Data(), e.Extensions(), err)
	return e, err
}

func main() {
	whole, err := read(`{"n":1E400,"s":"x"}`)
	asObserved := err == nil && string(whole.Data()) == `{"n":1E400,"s":"x"}`
	cut, err := read(`{"n":1E400,"list":[1],"h":1.5}`)
	asObserved = asObserved && err == nil && string(cut.Data()) == `{"n":1E400,"list":[1]` && len(cut.Extensions()) == 1
	_, err = read(`{"n":1E400,"object":{"a":1},"h":"x"}`)
	asObserved = asObserved && err != nil
	if !asObserved {
		os.Exit(1)
	}
}
GO
go mod tidy >/dev/null 2>&1
go run .
