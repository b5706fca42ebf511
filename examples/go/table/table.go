// Package table is the copy of people in memory.
package table

import (
	"encoding/json"
	"fmt"
	"log"
)

// People is what exists, by id, as Attio has it. It prints itself once it is whole, and then each change.
type People struct {
	rows  map[string]json.RawMessage
	whole bool
}

func New(whole bool) *People { return &People{map[string]json.RawMessage{}, whole} }

// Keep takes a state; without a value it is a tombstone: the record is deleted, or merged into another.
func (people *People) Keep(id string, value []byte) {
	var state struct {
		Object string          `json:"attioobject"`
		Data   json.RawMessage `json:"data"`
	}
	if len(value) == 0 {
		if _, known := people.rows[id]; !known {
			return
		}
		delete(people.rows, id)
	} else if err := json.Unmarshal(value, &state); err != nil {
		log.Printf("%s: %v", id, err)
		return
	} else if state.Object != "people" {
		return
	} else {
		people.rows[id] = state.Data
	}
	if people.whole {
		people.print(id)
	}
}

// Whole says that everything that existed at the start was taken.
func (people *People) Whole() {
	people.whole = true
	for id := range people.rows {
		people.print(id)
	}
}

func (people *People) print(id string) {
	if row, exists := people.rows[id]; exists {
		fmt.Printf("%s\t%s\n", id, row)
	} else {
		fmt.Printf("%s\tgone\n", id)
	}
}
