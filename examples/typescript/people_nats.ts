// Keeps a copy of people from the states on NATS in memory: what exists, as Attio has it. Prints it, then each change.

import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const { NATS_URL = "nats://127.0.0.1:4222", NATS_STREAM = "ATTIO_STATE" } = process.env;
const { NATS_SUBJECT = "attio-state.record.>" } = process.env;

const people = new Map<string, unknown>();
const print = (id: string) => console.log(`${id}\t${people.has(id) ? JSON.stringify(people.get(id)) : "gone"}`);

const connection = await connect({ servers: NATS_URL.split(","), maxReconnectAttempts: -1 });
// Ordered: it leaves nothing on the server, and begins anew where it was if the connection is lost.
const consumer = await jetstream(connection).consumers.get(NATS_STREAM, { filter_subjects: NATS_SUBJECT });
// The stream has the last message of each subject, so everything is everything that exists, and the tombstones.
let isWhole = (await consumer.info()).num_pending === 0;
const messages = await consumer.consume();
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => messages.stop());

for await (const message of messages) {
  const id = message.subject.split(".").at(-1)!;
  let isNew = false;
  if (message.data.length === 0) {
    isNew = people.delete(id); // a tombstone: deleted, or merged into another
  } else {
    const state = message.json<{ attioobject?: string; data: unknown }>();
    isNew = state.attioobject === "people";
    if (isNew) people.set(id, state.data);
  }
  if (isWhole && isNew) print(id);
  if (!isWhole && message.info.pending === 0) {
    isWhole = true;
    [...people.keys()].forEach(print);
  }
}
await connection.drain();
