#!/bin/sh
# librdkafka warns that a producer ignores `isolation.level`, and then answers that producer by it.
#
# Versions   rdkafka 0.39.0 (crate; its librdkafka says 2.12.1), Apache Kafka 4.4.0
# Expected   The log says "Configuration property isolation.level is a consumer property and will be ignored by this
#            producer instance", so a producer's `fetch_watermarks` gives the end of the log (the high watermark) with or
#            without it.
# Observed   It is obeyed. While another producer's transaction is open, a plain producer asks for the end of a partition
#            that holds 1 committed message and 3 of the transaction: by default the answer is 1, the last stable offset,
#            as for a consumer that reads committed messages; with the "ignored" read_uncommitted it is 4. A producer that
#            uses the end to tell whether messages of its own are still there reads too low a number, and setting the
#            property that the warning asks to remove is the only way to the true one.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs cargo, a C compiler, make, python3,
# java 17 and mvn; takes some minutes.
set -eu
work=$(mktemp -d)
broker=""
finish() {
    [ -z "$broker" ] || { kill -9 "$broker" && wait "$broker"; } 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

cat >"$work/pom.xml" <<'POM'
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.4.0</version></dependency>
  </dependencies>
</project>
POM
mvn -q -B -f "$work/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$work/jars"

ports=$(python3 -c '
import socket
held = [socket.socket() for _ in range(2)]
for s in held: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in held])')
port=${ports% *}
cat >"$work/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
listeners=PLAIN://127.0.0.1:$port,CTRL://127.0.0.1:${ports#* }
advertised.listeners=PLAIN://127.0.0.1:$port
listener.security.protocol.map=PLAIN:PLAINTEXT,CTRL:PLAINTEXT
inter.broker.listener.name=PLAIN
controller.listener.names=CTRL
controller.quorum.voters=1@127.0.0.1:${ports#* }
log.dirs=$work/data
log.cleaner.dedupe.buffer.size=4194304
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
PROPERTIES
java -Xmx200m -cp "$work/jars/*" kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qk -c "$work/server.properties" >"$work/out" 2>&1
java -Xmx200m -cp "$work/jars/*" kafka.Kafka "$work/server.properties" >"$work/out" 2>&1 &
broker=$!

mkdir "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "isolation"
version = "0.0.0"
edition = "2024"

[dependencies]
rdkafka = { version = "=0.39.0", default-features = false, features = ["libz"] }
TOML
cat >"$work/src/main.rs" <<'RUST'
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::message::DeliveryResult;

const TOPIC: &str = "orders";
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl ClientContext for Lines {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        if facility == "CONFWARN" {
            self.0.lock().expect("no panic").push(text.to_owned());
        }
    }
}

impl ProducerContext for Lines {
    type DeliveryOpaque = ();
    fn delivery(&self, _: &DeliveryResult<'_>, _: ()) {}
}

fn producer(settings: &[(&str, &str)]) -> (BaseProducer<Lines>, Lines) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", std::env::args().nth(1).expect("an address"));
    settings.iter().for_each(|(key, value)| {
        config.set(*key, *value);
    });
    let lines = Lines::default();
    (config.create_with_context(lines.clone()).expect("a client"), lines)
}

fn send(to: &BaseProducer<Lines>, count: usize) {
    for _ in 0..count {
        to.send(BaseRecord::<(), str>::to(TOPIC).payload("x").partition(0)).expect("room");
    }
    to.flush(LIMIT).expect("acknowledged");
}

fn end_for(name: &str, settings: &[(&str, &str)]) {
    let (client, lines) = producer(settings);
    let (_, end) = client.client().fetch_watermarks(TOPIC, 0, LIMIT).expect("an answer");
    client.poll(Duration::from_millis(200));
    let told = lines.0.lock().expect("no panic").iter().any(|line| line.contains("isolation.level") && line.contains("ignored"));
    println!("{name}: end {end}, told that it is ignored: {told}");
}

fn main() {
    send(&producer(&[]).0, 1);
    let (open, _) = producer(&[("transactional.id", "t")]);
    open.init_transactions(LIMIT).expect("a coordinator");
    open.begin_transaction().expect("a transaction");
    send(&open, 3);
    end_for("default", &[]);
    end_for("read_uncommitted", &[("isolation.level", "read_uncommitted")]);
    end_for("read_committed", &[("isolation.level", "read_committed")]);
}
RUST
observed=$(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo run --quiet -- "127.0.0.1:$port" 2>"$work/err") || {
    cat "$work/err"
    exit 1
}
printf '%s\n' "$observed"

expected='default: end 1, told that it is ignored: false
read_uncommitted: end 4, told that it is ignored: true
read_committed: end 1, told that it is ignored: true'
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
