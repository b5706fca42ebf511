#!/bin/sh
# A producer is told another error for the same fault, depending on how many records of the batch have it.
#
# Versions   Apache Kafka 4.4.0, confluent-kafka 2.16.1 (librdkafka 2.16.0)
# Expected   A topic takes no record with a stamp that is older than an hour, and answers INVALID_TIMESTAMP. Each
#            record with such a stamp fails with that error, and a good one of the same batch with another.
# Observed   If one record of a batch has an old stamp, it and every good one fail with INVALID_TIMESTAMP (32): what is
#            at fault is not told. If two have one, both fail with INVALID_RECORD (87), the good ones with
#            _INVALID_DIFFERENT_RECORD (-138), and none with INVALID_TIMESTAMP, which is what the broker answered. Whoever
#            handles refused records by their code meets either, as the load decides what shares a batch.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs java 17, mvn and python3 with venv;
# takes about a minute.
set -eu
work=$(mktemp -d)
broker=""
finish() {
    [ -z "$broker" ] || kill -9 "$broker" 2>/dev/null || true
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
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check confluent-kafka==2.16.1

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
port=$(free_port)
controller=$(free_port)
cat >"$work/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
listeners=PLAIN://127.0.0.1:$port,CTRL://127.0.0.1:$controller
advertised.listeners=PLAIN://127.0.0.1:$port
listener.security.protocol.map=PLAIN:PLAINTEXT,CTRL:PLAINTEXT
inter.broker.listener.name=PLAIN
controller.listener.names=CTRL
controller.quorum.voters=1@127.0.0.1:$controller
log.dirs=$work/data
auto.create.topics.enable=false
PROPERTIES
java -Xmx200m -cp "$work/jars/*" kafka.tools.StorageTool format -t 4L6g3nShT-eMCtK--X86sw -c "$work/server.properties" \
    >"$work/out" 2>&1
java -Xmx200m -cp "$work/jars/*" kafka.Kafka "$work/server.properties" >"$work/out" 2>&1 &
broker=$!

cat >"$work/batches.py" <<'PY'
import sys
import time

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

address = sys.argv[1]
hour = 3_600_000
admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
admin.list_topics(timeout=60)
topic = NewTopic("orders", 1, 1, config={"message.timestamp.before.max.ms": str(hour)})
admin.create_topics([topic])["orders"].result(60)
now = int(time.time() * 1000)
for ages in ([2, 0], [2, 0, 2]):
    # One batch: nothing is sent for half a second.
    client = Producer({"bootstrap.servers": address, "linger.ms": 500, "log_level": 0})
    reports = {}
    for number, age in enumerate(ages):
        client.produce(
            "orders",
            str(number),
            timestamp=now - age * hour,
            on_delivery=lambda error, message: reports.update({int(message.value()): error.code()}),
        )
    client.flush(30)
    told = ", ".join(f"{age} h old: {reports[number]}" for number, age in enumerate(ages))
    print(told)
PY
"$work/venv/bin/python" "$work/batches.py" "127.0.0.1:$port" | tee "$work/told"
cat >"$work/expected" <<'TOLD'
2 h old: 32, 0 h old: 32
2 h old: 87, 0 h old: -138, 2 h old: 87
TOLD
if cmp -s "$work/told" "$work/expected"; then
    echo "as described"
else
    printf 'changed; expected\n'
    cat "$work/expected"
    exit 1
fi
