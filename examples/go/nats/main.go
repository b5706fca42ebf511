// Command nats handles every event on JetStream once: it acknowledges after the event's transaction.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example/inbox"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	box, err := inbox.Open(cmp.Or(os.Getenv("INBOX"), "inbox.db"))
	if err != nil {
		return err
	}
	defer box.Close()
	connection, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		return err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, cmp.Or(os.Getenv("NATS_STREAM"), "ATTIO"), jetstream.ConsumerConfig{
		Durable:        cmp.Or(os.Getenv("NATS_DURABLE"), "example"),
		FilterSubjects: []string{"attio.*.*", "attio.unknown"}, // every category, without quarantine
		AckWait:        10 * time.Second,                       // an event that is not acknowledged comes again
	})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(100))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		switch {
		case ctx.Err() != nil:
			return connection.Flush()
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			log.Print(err) // the connection is lost, and comes back
		case err != nil:
			return err
		default:
			if err := handle(box, message); err != nil {
				return err // not acknowledged: it comes again
			}
			if err := message.Ack(); err != nil {
				return err
			}
		}
	}
}

func handle(box *inbox.Inbox, msg jetstream.Msg) error {
	metadata, err := msg.Metadata()
	if err != nil {
		return err
	}
	message := inbox.Message{
		Position: fmt.Sprintf("%s/%d", metadata.Stream, metadata.Sequence.Stream),
		Key:      msg.Subject(),
		Headers:  map[string]string{},
		Value:    msg.Data(),
	}
	for name := range msg.Headers() {
		message.Headers[name] = msg.Headers().Get(name)
	}
	contentType := cmp.Or(msg.Headers().Get("Content-Type"), msg.Headers().Get("ce-datacontenttype"))
	event, err := inbox.Decode(message, contentType, "ce-")
	if err != nil {
		log.Printf("%s set aside: %v", message.Position, err)
		return box.SetAside(message, err)
	}
	fresh, err := box.Handle(message, event)
	if err == nil {
		log.Printf("%s %s %s new=%t", message.Position, event.Type(), event.ID(), fresh)
	}
	return err
}
