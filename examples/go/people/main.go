// Command people keeps a copy of people from the states on Kafka in memory: it prints it, and then each change.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os/signal"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"example/inbox"
	"example/table"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, inbox.Setting("KAFKA_TOPIC", "attio-state.record")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, topic string) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(inbox.Setting("KAFKA_BOOTSTRAP", "127.0.0.1:9092"), ",")...),
		kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), // a state of an aborted transaction does not count
		kgo.KeepControlRecords(),                     // the mark of a transaction may be the last record
	)
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, topic)
	offsets, err2 := admin.ListCommittedOffsets(ctx, topic)
	if err := errors.Join(err, err2, starts.Error(), offsets.Error()); err != nil {
		return fmt.Errorf("where %s begins and ends: %w", topic, err)
	}
	ends := map[int32]int64{} // of the partitions that are not read up to where they end now
	offsets.Each(func(end kadm.ListedOffset) {
		if start, _ := starts.Lookup(topic, end.Partition); start.Offset < end.Offset {
			ends[end.Partition] = end.Offset
		}
	})
	people := table.New(len(ends) == 0)
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		fetches.EachError(func(_ string, partition int32, err error) { log.Printf("%d: %v", partition, err) })
		for record := range fetches.RecordsAll() {
			if !record.Attrs.IsControl() {
				people.Keep(string(record.Key), record.Value)
			}
			if end, reading := ends[record.Partition]; reading && record.Offset+1 >= end {
				if delete(ends, record.Partition); len(ends) == 0 {
					people.Whole()
				}
			}
		}
	}
	return nil
}
