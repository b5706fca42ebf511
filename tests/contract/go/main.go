// Reads each line of standard input, a type and a document, into its generated type, and writes it again.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var given struct {
			Schema string
			Value  json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &given); err != nil {
			panic(err)
		}
		event := types[given.Schema]()
		if err := json.Unmarshal(given.Value, event); err != nil {
			panic(fmt.Errorf("%s: %w: %s", given.Schema, err, given.Value))
		}
		written, err := json.Marshal(event)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(written))
	}
}
