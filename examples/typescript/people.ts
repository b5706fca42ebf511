// Keeps a copy of people from the states on Kafka in memory: what exists, as Attio has it. Prints it, then each change.

import { randomUUID } from "node:crypto";
import { Kafka, logLevel } from "kafkajs";

const { KAFKA_BOOTSTRAP = "127.0.0.1:9092", KAFKA_TOPIC = "attio-state.record" } = process.env;

const people = new Map<string, unknown>();
const print = (id: string) => console.log(`${id}\t${people.has(id) ? JSON.stringify(people.get(id)) : "gone"}`);

const kafka = new Kafka({ clientId: "people", brokers: KAFKA_BOOTSTRAP.split(","), logLevel: logLevel.ERROR });
const admin = kafka.admin();
await admin.connect();
// Where each partition ends now: behind it are changes.
const offsets = await admin.fetchTopicOffsets(KAFKA_TOPIC);
const filled = offsets.filter(({ low, high }) => BigInt(low) < BigInt(high));
const ends = new Map(filled.map(({ partition, high }) => [partition, BigInt(high)]));
await admin.disconnect();

const keep = (id: string, value: Buffer | null) => {
  const state = value && JSON.parse(`${value}`);
  // Without a value it is a tombstone: deleted, or merged into another.
  if (!state) return people.delete(id);
  if (state.attioobject !== "people") return false;
  people.set(id, state.data);
  return true;
};

// The client wants a group; one of its own that commits nothing reads everything. It leaves out aborted transactions.
const consumer = kafka.consumer({ groupId: `people-${randomUUID()}`, maxWaitTimeInMs: 500 });
consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || process.exit(1));
// Also for a batch of nothing but the marks of transactions, which eachBatch is not called for.
consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload: { partition, lastOffset } }) => {
  const isEnd = BigInt(lastOffset) + 1n >= (ends.get(partition) ?? Infinity);
  if (isEnd && ends.delete(partition) && ends.size === 0) [...people.keys()].forEach(print);
});
await consumer.connect();
await consumer.subscribe({ topics: [KAFKA_TOPIC], fromBeginning: true });
const next = new Map<number, bigint>();
await consumer.run({
  autoCommit: false,
  eachMessage: async ({ partition, message: { key, value, offset } }) => {
    // Without committed positions the client begins anew after each time that it joins the group.
    if (BigInt(offset) < (next.get(partition) ?? 0n)) return;
    next.set(partition, BigInt(offset) + 1n);
    if (keep(`${key}`, value) && ends.size === 0) print(`${key}`);
  },
});
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => consumer.disconnect());
