// Consumes Attio's events from Kafka: every event is handled once, however often this program is killed.

import * as cloudevents from "cloudevents";
import { Kafka, logLevel } from "kafkajs";
import { Inbox } from "./inbox.ts";

const { INBOX = "inbox.db", KAFKA_BOOTSTRAP = "127.0.0.1:9092", KAFKA_GROUP = "example" } = process.env;

const inbox = new Inbox(INBOX);
const kafka = new Kafka({ clientId: "example", brokers: KAFKA_BOOTSTRAP.split(","), logLevel: logLevel.ERROR });
const consumer = kafka.consumer({
  groupId: KAFKA_GROUP,
  // After this time the partitions of a killed consumer are given to another one. Work on one message that takes longer
  // must call `heartbeat`, which eachMessage is given.
  sessionTimeout: 6000,
  heartbeatInterval: 2000,
  // A stop waits for the fetch that is under way.
  maxWaitTimeInMs: 500,
});

const admin = kafka.admin();
const CATEGORIES = /^attio\.[^q].*/; // every category; quarantine is read apart
const list = async () => (await admin.listTopics()).filter((topic) => CATEGORIES.test(topic)).sort();
let topics: string[];

const consume = async () => {
  topics = await list();
  await consumer.subscribe({ topics: [CATEGORIES], fromBeginning: true });
  await consumer.run({
    // Only what eachMessage has returned from is committed.
    autoCommitInterval: 1000,
    eachMessage: async ({ topic, partition, message }) => {
      // The SDK expects texts where the client has bytes.
      const texts = Object.entries(message.headers ?? {}).map(([name, value]) => [name, `${value ?? ""}`]);
      const headers = Object.fromEntries(texts);
      const key = `${message.key ?? ""}`;
      inbox.take(`${topic}/${partition}/${message.offset}`, key, headers, message.value ?? Buffer.alloc(0), (value) =>
        cloudevents.Kafka.toEvent({ headers, key, value } as cloudevents.KafkaMessage<string>),
      );
    },
  });
};

// What the client does not try again: without this the process would end with 0.
consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || process.exit(1));
await Promise.all([consumer.connect(), admin.connect()]);
await consume();

// The client looks for topics only when it subscribes. The first task, for example, makes a new one.
const look = async () => {
  const now = await list().catch(() => topics);
  if (`${now}` !== `${topics}`) await consumer.stop().then(consume);
  setTimeout(look, 10_000).unref();
};
setTimeout(look, 10_000).unref();

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, async () => {
    // The broker may be away.
    setTimeout(() => process.exit(1), 10_000).unref();
    // Finishes the message in hand, commits, and leaves the group; then nothing keeps the process alive.
    await Promise.all([consumer.disconnect(), admin.disconnect()]);
  });
}
