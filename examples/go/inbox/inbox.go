// Package inbox handles every event once: the work and the event's source and id are one transaction.
package inbox

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/binding/spec"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	_ "modernc.org/sqlite"
)

const schema = `
CREATE TABLE IF NOT EXISTS event (source TEXT, id TEXT, attributes TEXT, key TEXT, headers TEXT, data BLOB, position TEXT,
                                  PRIMARY KEY (source, id));
CREATE TABLE IF NOT EXISTS tally (type TEXT PRIMARY KEY, events INTEGER);
CREATE TABLE IF NOT EXISTS record (id TEXT PRIMARY KEY, events INTEGER, merged_into TEXT);
CREATE TABLE IF NOT EXISTS set_aside (position TEXT PRIMARY KEY, reason TEXT, value BLOB);`

// What the names of attributes in headers begin with.
const (
	Kafka = "ce_"
	NATS  = "ce-"
)

// Message is what the client read.
type Message struct {
	Position string // topic/partition/offset or stream/sequence
	Key      string // the key, or the subject
	Headers  map[string]string
	Value    []byte
}

// Inbox is the consumer's database.
type Inbox struct{ db *sql.DB }

// Run opens the database and consumes until SIGTERM or SIGINT.
func Run(consume func(context.Context, *Inbox) error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	box, err := open(Setting("INBOX", "inbox.db"))
	if err == nil {
		err = consume(ctx, box)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// Setting is a variable of the environment, or its default.
func Setting(name, value string) string { return cmp.Or(os.Getenv(name), value) }

// Text is what a client read, in UTF-8.
func Text(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// open creates the database if it is missing. Another process may hold it for up to a minute.
func open(path string) (*Inbox, error) {
	settings := url.Values{"_pragma": {"busy_timeout(60000)", "journal_mode(WAL)"}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", "file:"+path+"?"+settings.Encode())
	if err != nil {
		return nil, err
	}
	_, err = db.Exec(schema)
	return &Inbox{db}, err
}

// Take does the work of an event that is new, and sets aside what is no event. Acknowledge the message after it; after an
// error, don't.
func (i *Inbox) Take(m Message, contentType, prefix string) error {
	e, err := decode(m, contentType, prefix)
	if err != nil {
		log.Printf("%s set aside: %v", m.Position, err)
		_, err = i.db.Exec("INSERT INTO set_aside VALUES (?, ?, ?) ON CONFLICT DO NOTHING", m.Position, err.Error(), m.Value)
		return err
	}
	fresh, err := i.handle(m, e)
	if err == nil {
		log.Printf("%s %s %s new=%t", m.Position, e.Type(), e.ID(), fresh)
	}
	return err
}

// decode reads an event in structured or binary mode. The attributes of binary mode are in headers with the prefix.
func decode(m Message, contentType, prefix string) (*event.Event, error) {
	var e event.Event
	if strings.HasPrefix(contentType, event.ApplicationCloudEventsJSON) {
		// The SDK gets the attributes only, because it cuts data at a number beyond float64, such as 1E400.
		if !utf8.Valid(m.Value) {
			return nil, errors.New("not UTF-8")
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(m.Value, &members); err != nil {
			return nil, err
		}
		data := members["data"]
		delete(members, "data")
		attributes, err := json.Marshal(members)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(attributes, &e); err != nil {
			return nil, err
		}
		e.DataEncoded = data
		return &e, e.Validate()
	}
	version := spec.WithPrefix(prefix).Version(m.Headers[prefix+"specversion"])
	if version == nil {
		return nil, errors.New("no CloudEvent")
	}
	e = event.New(version.String())
	for name, value := range m.Headers {
		if prefix == NATS && strings.HasPrefix(name, prefix) { // its binding percent-encodes values
			decoded, err := url.PathUnescape(value)
			if err != nil {
				return nil, err
			}
			value = Text(decoded)
		}
		if err := version.SetAttribute(e.Context, name, value); err != nil {
			return nil, err
		}
	}
	if prefix == Kafka {
		if err := e.Context.SetDataContentType(contentType); err != nil {
			return nil, err
		}
	}
	e.DataEncoded = m.Value
	return &e, e.Validate()
}

// handle returns false for a repeat.
func (i *Inbox) handle(m Message, e *event.Event) (bool, error) {
	attributes, err := json.Marshal(attributes(e))
	if err != nil {
		return false, err
	}
	headers, err := json.Marshal(m.Headers)
	if err != nil {
		return false, err
	}
	tx, err := i.db.Begin()
	if err != nil {
		return false, err
	}
	defer tx.Rollback()
	inserted, err := tx.Exec("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		e.Source(), e.ID(), string(attributes), m.Key, string(headers), e.Data(), m.Position)
	if err != nil {
		return false, err
	}
	if rows, err := inserted.RowsAffected(); err != nil || rows == 0 {
		return false, err
	}
	if err := work(tx, e); err != nil {
		return false, err
	}
	return true, tx.Commit()
}

// work stands for what your consumer does: it counts the events of each type and of each record. A record that was
// merged into another counts there, also when its events come after the merge.
func work(tx *sql.Tx, e *event.Event) error {
	_, err := tx.Exec("INSERT INTO tally VALUES (?, 1) ON CONFLICT DO UPDATE SET events = events + 1", e.Type())
	if err != nil || !strings.HasPrefix(e.Type(), "com.attio.record.") {
		return err
	}
	record, found := e.Extensions()["partitionkey"].(string)
	if !found {
		return nil
	}
	err = tx.QueryRow("SELECT merged_into FROM record WHERE id = ? AND merged_into IS NOT NULL", record).Scan(&record)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	_, err = tx.Exec("INSERT INTO record VALUES (?, 1, NULL) ON CONFLICT DO UPDATE SET events = events + 1", record)
	if err != nil || e.Type() != "com.attio.record.merged" {
		return err
	}
	var merge struct {
		Duplicate string `json:"duplicate_record_id"`
	}
	if json.Unmarshal(e.Data(), &merge) != nil || merge.Duplicate == "" || merge.Duplicate == record {
		return nil
	}
	_, err = tx.Exec(`
		INSERT INTO record VALUES (?2, 0, NULL) ON CONFLICT DO NOTHING;
		UPDATE record SET events = events + (SELECT events FROM record WHERE id = ?2) WHERE id = ?1;
		UPDATE record SET events = 0 WHERE id = ?2;
		UPDATE record SET merged_into = ?1 WHERE id = ?2 OR merged_into = ?2`, record, merge.Duplicate)
	return err
}

func attributes(e *event.Event) map[string]string {
	all := map[string]string{}
	for _, attribute := range spec.VS.Version(e.SpecVersion()).Attributes() {
		if value := attribute.Get(e.Context); value != nil {
			all[attribute.Name()], _ = types.Format(value)
		}
	}
	for name, value := range e.Extensions() {
		all[name], _ = types.Format(value)
	}
	return all
}
