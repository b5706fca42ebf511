// Command people_nats keeps a copy of people from the states on JetStream in memory: it prints it, and then each change.
package main

import (
	"context"
	"errors"
	"log"
	"os/signal"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example/inbox"
	"example/table"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	connection, err := nats.Connect(inbox.Setting("NATS_URL", nats.DefaultURL), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		return err
	}
	// Ordered: it leaves nothing on the server, and begins anew where it was if the connection is lost.
	subjects := []string{inbox.Setting("NATS_SUBJECT", "attio-state.record.>")}
	consumer, err := js.OrderedConsumer(ctx, inbox.Setting("NATS_STREAM", "ATTIO_STATE"),
		jetstream.OrderedConsumerConfig{FilterSubjects: subjects})
	if err != nil {
		return err
	}
	whole := consumer.CachedInfo().NumPending == 0
	people := table.New(whole)
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if errors.Is(err, jetstream.ErrNoHeartbeat) {
			continue // the client connects again
		}
		if err != nil {
			return err
		}
		subject := message.Subject()
		people.Keep(subject[strings.LastIndex(subject, ".")+1:], message.Data())
		// The stream has the last message of each subject: all that exist, and the tombstones.
		if info, err := message.Metadata(); err == nil && !whole && info.NumPending == 0 {
			whole = true
			people.Whole()
		}
	}
}
