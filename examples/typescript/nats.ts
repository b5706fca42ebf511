// Consumes Attio's events from NATS JetStream: every event is handled once, however often this program is killed.

import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, nanos } from "@nats-io/transport-node";
import { HTTP } from "cloudevents";
import { Inbox } from "./inbox.ts";

const { INBOX = "inbox.db", NATS_URL = "nats://127.0.0.1:4222", NATS_STREAM = "ATTIO" } = process.env;
const { NATS_DURABLE = "example" } = process.env;

const inbox = new Inbox(INBOX);
const connection = await connect({ servers: NATS_URL.split(","), maxReconnectAttempts: -1 });
const manager = await jetstreamManager(connection);
await manager.consumers.add(NATS_STREAM, {
  durable_name: NATS_DURABLE,
  // Every category; quarantine is read apart.
  filter_subjects: ["attio.*.*", "attio.unknown"],
  ack_policy: AckPolicy.Explicit,
  // After this time what a killed consumer had in hand is sent again: longer than the work of `max_messages` takes.
  ack_wait: nanos(10_000),
});
const consumer = await jetstream(connection).consumers.get(NATS_STREAM, NATS_DURABLE);
const messages = await consumer.consume({ max_messages: 10 });
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => messages.stop());
}

for await (const message of messages) {
  // Names are case-sensitive here: it is Content-Type, and ce-id.
  const headers = Object.fromEntries([...(message.headers ?? [])].map(([name, values]) => [name, values.join()]));
  // The binding for NATS percent-encodes attributes, which the SDK does not know.
  const decode = ([name, value]: [string, string]) => [name, /^ce-/.test(name) ? decodeURIComponent(value) : value];
  inbox.take(`${NATS_STREAM}/${message.seq}`, message.subject, headers, Buffer.from(message.data), (body) =>
    HTTP.toEvent({ headers: Object.fromEntries(Object.entries(headers).map(decode)), body }),
  );
  message.ack();
}
await connection.drain();
