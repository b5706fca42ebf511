// Command kafka handles every event on Kafka once: it commits an offset after the event's transaction.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

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
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(cmp.Or(os.Getenv("KAFKA_BOOTSTRAP"), "127.0.0.1:9092"), ",")...),
		kgo.ConsumerGroup(cmp.Or(os.Getenv("KAFKA_GROUP"), "example")),
		kgo.ConsumeRegex(),
		kgo.ConsumeTopics(`^attio\.[^q].*`), // every category, without quarantine
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMaxAge(10*time.Second),                                   // new topics are seen after this time
		kgo.MaxVersions(kversion.FromString(os.Getenv("KAFKA_MAX_VERSION"))), // unset: what the broker speaks
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
	)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance() // leaves the group
	for ctx.Err() == nil {
		fetches := client.PollRecords(ctx, 100)
		fetches.EachError(func(topic string, partition int32, err error) {
			if ctx.Err() == nil {
				log.Printf("%s/%d: %v", topic, partition, err)
			}
		})
		var handled []*kgo.Record
		for record := range fetches.RecordsAll() {
			if ctx.Err() != nil {
				break
			}
			if err := handle(box, record); err != nil {
				return err // nothing of this poll is committed: it comes again
			}
			handled = append(handled, record)
		}
		if err := client.CommitRecords(context.WithoutCancel(ctx), handled...); err != nil {
			log.Printf("commit: %v", err) // what was handled comes again, and is a repeat
		}
		client.AllowRebalance()
	}
	return nil
}

func handle(box *inbox.Inbox, record *kgo.Record) error {
	message := inbox.Message{
		Position: fmt.Sprintf("%s/%d/%d", record.Topic, record.Partition, record.Offset),
		Key:      string(record.Key),
		Headers:  map[string]string{},
		Value:    record.Value,
	}
	for _, header := range record.Headers {
		message.Headers[header.Key] = string(header.Value)
	}
	event, err := inbox.Decode(message, message.Headers["content-type"], "ce_")
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
