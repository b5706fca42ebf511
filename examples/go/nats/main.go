// Command nats handles every event on JetStream once: it acknowledges after the event's transaction.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example/inbox"
)

func main() { inbox.Run(consume) }

func consume(ctx context.Context, box *inbox.Inbox) error {
	connection, err := nats.Connect(inbox.Setting("NATS_URL", nats.DefaultURL), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		return err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, inbox.Setting("NATS_STREAM", "ATTIO"), jetstream.ConsumerConfig{
		Durable:        inbox.Setting("NATS_DURABLE", "example"),
		FilterSubjects: []string{"attio.*.*", "attio.unknown"}, // every category, without quarantine
		AckWait:        10 * time.Second,                       // what is not acknowledged comes again after this time
	})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(10)) // what the work finishes within AckWait
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		received, err := messages.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return connection.Flush()
		}
		if errors.Is(err, jetstream.ErrNoHeartbeat) {
			log.Print(err) // the client connects again
			continue
		}
		if err != nil {
			return err
		}
		if err := take(box, received); err != nil {
			return err // not acknowledged: it comes again
		}
	}
}

func take(box *inbox.Inbox, received jetstream.Msg) error {
	metadata, err := received.Metadata()
	if err != nil {
		return err
	}
	headers := map[string]string{}
	for name := range received.Headers() {
		headers[name] = inbox.Text(received.Headers().Get(name))
	}
	position := fmt.Sprintf("%s/%d", metadata.Stream, metadata.Sequence.Stream)
	message := inbox.Message{Position: position, Key: received.Subject(), Headers: headers, Value: received.Data()}
	if err := box.Take(message, headers["Content-Type"], inbox.NATS); err != nil {
		return err
	}
	return received.Ack()
}
