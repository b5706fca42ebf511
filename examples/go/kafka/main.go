// Command kafka handles every event on Kafka once: it commits offsets after the events' transactions.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"example/inbox"
)

func main() { inbox.Run(consume) }

func consume(ctx context.Context, box *inbox.Inbox) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(inbox.Setting("KAFKA_BOOTSTRAP", "127.0.0.1:9092"), ",")...),
		kgo.MaxVersions(kversion.FromString(os.Getenv("KAFKA_MAX_VERSION"))), // unset: what the broker speaks
		kgo.ConsumerGroup(inbox.Setting("KAFKA_GROUP", "example")),
		kgo.ConsumeRegex(), kgo.ConsumeTopics(`^attio\.[^q].*`), // every category, without quarantine
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMaxAge(10*time.Second), // new topics are seen after this time
		kgo.SessionTimeout(6*time.Second),  // a killed member's partitions are given away after this time
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.WithLogger(kgo.BasicLogger(os.Stderr, kgo.LogLevelWarn, nil)),
	)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance() // leaves the group
	for ctx.Err() == nil {
		fetches := client.PollRecords(ctx, 100)
		fetches.EachError(func(topic string, partition int32, err error) {
			if ctx.Err() == nil {
				log.Printf("%s/%d: %v", topic, partition, err) // the client tries again
			}
		})
		var handled []*kgo.Record
		for record := range fetches.RecordsAll() {
			if ctx.Err() != nil {
				break
			}
			if err := box.Take(message(record)); err != nil {
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

func message(record *kgo.Record) (inbox.Message, string, string) {
	headers := map[string]string{}
	for _, header := range record.Headers {
		headers[header.Key] = inbox.Text(string(header.Value))
	}
	position := fmt.Sprintf("%s/%d/%d", record.Topic, record.Partition, record.Offset)
	return inbox.Message{Position: position, Key: inbox.Text(string(record.Key)), Headers: headers, Value: record.Value},
		headers["content-type"], inbox.Kafka
}
