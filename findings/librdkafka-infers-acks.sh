#!/bin/sh
# librdkafka reports a message as delivered although the broker never acknowledged and never stored it.
#
# Versions   rdkafka 0.39.0 with its bundled librdkafka 2.12.1, on librdkafka's own mock broker
# Expected   `enable.idempotence=true` and `acks=all`: a delivery report without an error means that the
#            broker has acknowledged this message.
# Observed   Two Produce requests of one partition are in flight. The broker answers the first with the
#            retriable NOT_LEADER_FOR_PARTITION and takes the second. Both reports come without an error:
#            the client concludes that the first must have been stored, because a broker that knows this
#            producer would have refused the second's sequence number. A broker that holds no state for the
#            producer on that partition (a new producer, expired producer ids, KIP-360) takes any first
#            sequence number, so that conclusion does not hold. The one visible sign is the report's offset,
#            -1001 (RD_KAFKA_OFFSET_INVALID). Only an offset of 0 or more is the broker's own word.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs cargo, a C and C++ compiler and
# make; takes a few minutes, for it compiles librdkafka.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "infers-acks"
version = "0.0.0"
edition = "2024"

[dependencies]
rdkafka = { version = "=0.39.0", default-features = false, features = ["tokio", "libz"] }
TOML
cat >"$work/src/main.rs" <<'RUST'
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

const TOPIC: &str = "orders";
const PATIENCE: Duration = Duration::from_secs(30);

struct Reports(Sender<(String, Result<i64, String>)>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let (message, error) = match result {
            Ok(message) => (message, None),
            Err((error, message)) => (message, Some(error.to_string())),
        };
        let payload = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
        let _ = self.0.send((payload, error.map_or(Ok(message.offset()), Err)));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = MockCluster::new(1)?;
    cluster.create_topic(TOPIC, 1, 1)?;
    let (reports, reported) = channel();
    let producer: ThreadedProducer<Reports> = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "0")
        .set("batch.num.messages", "1")
        .create_with_context(Reports(reports))?;
    let send = |payload: &str| {
        producer.send(BaseRecord::to(TOPIC).key("k").payload(payload)).map_err(|(error, _)| error)
    };
    send("warm-up")?;
    assert!(reported.recv_timeout(PATIENCE)?.1.is_ok(), "the mock broker works");

    // Slow enough that both requests are in flight before the first is answered.
    cluster.broker_round_trip_time(1, Duration::from_millis(300))?;
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION],
    );
    send("first")?;
    send("second")?;
    for _ in 0..2 {
        let (payload, result) = reported.recv_timeout(PATIENCE)?;
        println!("report: {payload} -> {result:?}");
    }
    cluster.broker_round_trip_time(1, Duration::ZERO)?;
    producer.flush(PATIENCE)?;

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "reader")
        .create()?;
    let (low, high) = consumer.fetch_watermarks(TOPIC, 0, PATIENCE)?;
    println!("stored: {} messages besides the warm-up", high - low - 1);
    Ok(())
}
RUST
observed=$(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo build --quiet && "$work/target/debug/infers-acks" | sort)
printf '%s\n' "$observed"
expected='report: first -> Ok(-1001)
report: second -> Ok(1)
stored: 1 messages besides the warm-up'
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    echo "changed: expected"
    echo "$expected"
    exit 1
fi
