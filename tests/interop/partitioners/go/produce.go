// Produces one record for each key on standard input: produce CLIENT SETTING BOOTSTRAP TOPIC
package main

import (
	"context"
	"io"
	"log"
	"os"
	"strings"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

func franz(setting, bootstrap, topic string, keys []string) error {
	if setting != "default" {
		log.Fatal(setting)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.DefaultProduceTopic(topic))
	if err != nil {
		return err
	}
	defer client.Close()
	var records []*kgo.Record
	for _, key := range keys {
		records = append(records, &kgo.Record{Key: []byte(key)})
	}
	return client.ProduceSync(context.Background(), records...).FirstErr()
}

func ibm(setting, bootstrap, topic string, keys []string) error {
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true
	switch setting {
	case "default":
	case "NewReferenceHashPartitioner":
		config.Producer.Partitioner = sarama.NewReferenceHashPartitioner
	case "NewMurmur2Partitioner":
		config.Producer.Partitioner = sarama.NewMurmur2Partitioner
	default:
		log.Fatal(setting)
	}
	producer, err := sarama.NewSyncProducer([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	defer producer.Close()
	var messages []*sarama.ProducerMessage
	for _, key := range keys {
		messages = append(messages, &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(key)})
	}
	return producer.SendMessages(messages)
}

func segmentio(setting, bootstrap, topic string, keys []string) error {
	writer := kafka.Writer{Addr: kafka.TCP(bootstrap), Topic: topic, RequiredAcks: kafka.RequireAll}
	switch setting {
	case "default":
	case "Murmur2Balancer":
		writer.Balancer = kafka.Murmur2Balancer{}
	default:
		log.Fatal(setting)
	}
	var messages []kafka.Message
	for _, key := range keys {
		messages = append(messages, kafka.Message{Key: []byte(key)})
	}
	if err := writer.WriteMessages(context.Background(), messages...); err != nil {
		return err
	}
	return writer.Close()
}

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	clients := map[string]func(setting, bootstrap, topic string, keys []string) error{
		"franz-go": franz, "sarama": ibm, "kafka-go": segmentio,
	}
	client, ok := clients[os.Args[1]]
	if !ok {
		log.Fatal(os.Args[1])
	}
	if err := client(os.Args[2], os.Args[3], os.Args[4], strings.Fields(string(input))); err != nil {
		log.Fatal(err)
	}
}
