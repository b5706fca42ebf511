#!/bin/sh
# An idempotent producer of librdkafka sends the batches of a partition one by one, and uses a core while it waits.
#
# Versions   librdkafka 2.12.1 as rdkafka-sys 4.10.0 builds it in, rdkafka 0.39.0 (crates), and its mock broker
# Expected   With max.in.flight at its default, which is 5 for such a producer, ten batches of a partition take two round trips,
#            and meanwhile the thread that talks to the broker sleeps until an answer comes.
# Observed   Ten batches of 65 messages take ten round trips, ten batches of one message take two: what may be in flight of a
#            partition is five messages, and more only in one batch. While others wait for that, the thread polls its sockets
#            with a timeout of 0, again and again, as their linger is over: its CPU time is most of the time that the broker
#            takes. With a batch.size in which all of it fits, the same messages take one round trip and cost almost nothing. A
#            batch.size below the default, for topics with a small max.message.bytes, is therefore dear wherever messages come
#            in bursts, as in transactions. A real broker (Kafka 4.4) sees the same.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs cargo, a C compiler, make and Linux; builds for
# some minutes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "bursts"
version = "0.0.0"
edition = "2024"

[dependencies]
rdkafka = { version = "=0.39.0", default-features = false }
rdkafka-sys = { version = "=4.10.0", default-features = false }
TOML
cat >"$work/src/main.rs" <<'RUST'
use std::fs;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

const ROUND_TRIP: Duration = Duration::from_millis(400);

/// CPU seconds of the threads that talk to brokers: of this producer, as the mock broker's has another name.
fn used() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    let of = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.rsplit_once(')')?;
        let fields: Vec<f64> = rest.split(' ').filter_map(|field| field.parse().ok()).collect();
        // User and system time in hundredths of a second.
        name.contains("(rdk:broker1").then(|| (fields[10] + fields[11]) / 100.0)
    };
    tasks.flatten().filter_map(of).sum()
}

fn main() {
    let cluster = MockCluster::new(1).expect("a mock broker");
    cluster.create_topic("t", 1, 1).expect("a topic");
    let value = "x".repeat(1_000);
    for (messages, name, limit) in
        [(600, "batch.size", "65536"), (10, "batch.num.messages", "1"), (600, "batch.size", "1000000")]
    {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("enable.idempotence", "true");
        config.set("linger.ms", "50").set(name, limit);
        let producer: ThreadedProducer<DefaultProducerContext> = config.create().expect("a producer");
        let send = || producer.send(BaseRecord::to("t").key("k").payload(&value)).map_err(|(error, _)| error);
        let wait = || while producer.flush(Duration::from_millis(5)).is_err() {};
        send().expect("it has room");
        wait();
        cluster.broker_round_trip_time(1, ROUND_TRIP).expect("there is one");
        let (before, begun) = (used(), Instant::now());
        (0..messages).for_each(|_| send().expect("it has room"));
        wait();
        let (cpu, took) = (used() - before, begun.elapsed().as_secs_f64());
        cluster.broker_round_trip_time(1, Duration::ZERO).expect("there is one");
        eprintln!("{messages} messages, {name} {limit}: {cpu:.2} s of CPU in {took:.2} s");
        let pace = match took / ROUND_TRIP.as_secs_f64() {
            8.0.. => "ten round trips",
            1.8..3.0 => "two round trips",
            ..1.5 => "one round trip",
            _ => "another number of round trips",
        };
        let share = match cpu / took {
            0.4.. => "busy for most of the time",
            ..0.15 => "mostly asleep",
            _ => "busy for some of the time",
        };
        println!("{messages} messages, {name} {limit}: {pace}, {share}");
    }
}
RUST
(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo build --quiet)
observed=$("$work/target/debug/bursts")
printf '%s\n' "$observed"

expected="600 messages, batch.size 65536: ten round trips, busy for most of the time
10 messages, batch.num.messages 1: two round trips, busy for some of the time
600 messages, batch.size 1000000: one round trip, mostly asleep"
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
