// Consumes Attio's events from Kafka: every event is handled once, however often this program is killed.

import * as cloudevents from "cloudevents";
import { Kafka, logLevel } from "kafkajs";
import { Inbox } from "./inbox.ts";

const { INBOX = "inbox.db", KAFKA_BOOTSTRAP = "127.0.0.1:9092", KAFKA_GROUP = "example" } = process.env;

const inbox = new Inbox(INBOX);
const kafka = new Kafka({ clientId: "example", brokers: KAFKA_BOOTSTRAP.split(","), logLevel: logLevel.ERROR });
const consumer = kafka.consumer({
  groupId: KAFKA_GROUP,
  // After this time the partitions of a killed consumer are given to another one.
  sessionTimeout: 6000,
  heartbeatInterval: 2000,
  // A stop waits for the fetch that is under way.
  maxWaitTimeInMs: 500,
});

await consumer.connect();
// Every category; quarantine is read apart.
await consumer.subscribe({ topics: [/^attio\.[^q].*/], fromBeginning: true });
await consumer.run({
  // Only what eachMessage has returned from is committed.
  autoCommitInterval: 1000,
  eachMessage: async ({ topic, partition, message }) => {
    // The SDK expects texts where the client has bytes.
    const headers = Object.fromEntries(Object.entries(message.headers ?? {}).map(([name, value]) => [name, `${value}`]));
    const key = `${message.key}`;
    inbox.take(`${topic}/${partition}/${message.offset}`, key, headers, message.value ?? Buffer.alloc(0), (value) =>
      cloudevents.Kafka.toEvent({ headers, key, value } as cloudevents.KafkaMessage<string>),
    );
  },
});

for (const signal of ["SIGTERM", "SIGINT"]) {
  // Finishes the message in hand, commits, and leaves the group; then nothing keeps the process alive.
  process.once(signal, () => consumer.disconnect());
}
