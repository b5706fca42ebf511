#!/bin/sh
# A flush of rdkafka's producers that has to wait at all takes 100 ms, however soon the last message is acknowledged.
#
# Versions   rdkafka 0.39.0 with the librdkafka 2.12.1 that rdkafka-sys 4.10.0 builds in (crates), and its mock broker
# Expected   `flush` returns once the last message has its delivery report, as `rd_kafka_flush` does: with a broker that
#            answers after 10 ms, a little later than that.
# Observed   `flush` of this crate calls `rd_kafka_flush` with a timeout of 0, and `poll` in between, for 100 ms at most. That
#            `poll` uses up its time whatever comes, and looks only then whether everything is reported: a flush takes
#            100 ms, of a ThreadedProducer too, whose own thread has got the report. Flushes with a timeout of 5 ms in a loop
#            take what they should. In a loop of transactions, each of which needs a flush, this allows fewer than ten a
#            second.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs cargo, a C compiler and make; builds for some
# minutes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "flushes"
version = "0.0.0"
edition = "2024"

[dependencies]
rdkafka = { version = "=0.39.0", default-features = false }
rdkafka-sys = { version = "=4.10.0", default-features = false }
TOML
cat >"$work/src/main.rs" <<'RUST'
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

const FLUSHES: usize = 41;

/// The median of what a flush takes with one message, in milliseconds.
fn median(producer: &impl Producer<DefaultProducerContext>, send: impl Fn(), within: Duration) -> u128 {
    let mut took: Vec<_> = (0..FLUSHES)
        .map(|_| {
            send();
            let begun = Instant::now();
            while producer.flush(within).is_err() {}
            begun.elapsed().as_millis()
        })
        .collect();
    took.sort();
    took[FLUSHES / 2]
}

fn main() {
    let cluster = MockCluster::new(1).expect("a mock broker");
    cluster.create_topic("t", 1, 1).expect("a topic");
    cluster.broker_round_trip_time(1, Duration::from_millis(10)).expect("there is one");
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers()).set("linger.ms", "0");
    let threaded: ThreadedProducer<DefaultProducerContext> = config.create().expect("a producer");
    let base: BaseProducer = config.create().expect("a producer");
    let record = || BaseRecord::to("t").key("k").payload("v");
    let by_thread = || threaded.send(record()).map_err(|(error, _)| error).expect("it has room");
    let by_caller = || base.send(record()).map_err(|(error, _)| error).expect("it has room");
    let (long, short) = (Duration::from_secs(10), Duration::from_millis(5));
    for (name, took) in [
        ("BaseProducer", median(&base, by_caller, long)),
        ("ThreadedProducer", median(&threaded, by_thread, long)),
        ("ThreadedProducer, 5 ms at a time", median(&threaded, by_thread, short)),
    ] {
        eprintln!("{name}: {took} ms");
        let class = if took >= 80 { "about 100 ms" } else if took <= 40 { "a little more than 10 ms" } else { "between" };
        println!("{name}: {class}");
    }
}
RUST
(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo build --quiet)
observed=$("$work/target/debug/flushes")
printf '%s\n' "$observed"

expected="BaseProducer: about 100 ms
ThreadedProducer: about 100 ms
ThreadedProducer, 5 ms at a time: a little more than 10 ms"
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
