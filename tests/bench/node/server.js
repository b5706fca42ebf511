// Attio's webhooks to Kafka as a tutorial has it: Express and kafkajs. Verifies, publishes, waits for
// the ack of all replicas, answers. No dedup, no metrics, no log.
const crypto = require("node:crypto");
const express = require("express");
const { Kafka, logLevel } = require("kafkajs");

const { PORT, SECRET, KAFKA_BROKERS, KAFKA_TOPIC } = process.env;

const kafka = new Kafka({ clientId: "tutorial", brokers: KAFKA_BROKERS.split(","), logLevel: logLevel.ERROR });
const producer = kafka.producer({ idempotent: true });
const app = express();

app.post("/webhooks/:source", express.raw({ type: "application/json", limit: "512kb" }), async (req, res) => {
  const claimed = Buffer.from(req.get("Attio-Signature") ?? "", "hex");
  const digest = crypto.createHmac("sha256", SECRET).update(req.body).digest();
  if (claimed.length !== digest.length || !crypto.timingSafeEqual(claimed, digest)) {
    return res.status(401).json({ error: "Invalid signature" });
  }
  const { webhook_id, events } = JSON.parse(req.body);
  const messages = events.map((event, index) => ({
    key: event.id.entry_id ?? event.id.record_id,
    value: JSON.stringify({
      specversion: "1.0",
      id: `${webhook_id}-${req.get("Idempotency-Key")}-${index}`,
      source: `https://attio.com/workspaces/${event.id.workspace_id}`,
      type: `com.attio.${event.event_type}`,
      time: new Date().toISOString(),
      datacontenttype: "application/json",
      data: event,
    }),
  }));
  try {
    await producer.send({ topic: KAFKA_TOPIC, acks: -1, messages });
    res.json({ received: true, events: events.length });
  } catch (error) {
    res.status(503).json({ error: error.message });
  }
});

producer.connect().then(() => app.listen(Number(PORT), "127.0.0.1"));
