#!/bin/sh
# After a cluster is replaced behind its address, an idempotent producer's message is acknowledged with an offset
# at which another producer's message is stored; its own is nowhere.
#
# Versions   Apache Kafka 4.4.0, confluent-kafka 2.16.1 (librdkafka 2.16.0)
# Expected   A producer that was running before the broker's storage was formatted anew fails: the new cluster has
#            another cluster id, its topic another topic id, and it never gave this client a producer id.
# Observed   The producer reconnects and keeps its producer id and sequence numbers. The new cluster counts producer
#            ids from the start again, so another producer holds the same id. Where the two sequence numbers meet
#            within the last five batches, the broker takes the message for a retry: the delivery report has no
#            error and names the offset of the other producer's message. Neither side logs anything. Producer ids
#            are unique within one cluster's memory only; a client that outlives it must compare the cluster id.
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

# Starts a broker on empty storage, always at the same address.
start() {
    rm -rf "$work/data"
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
    java -Xmx200m -cp "$work/jars/*" kafka.tools.StorageTool format -t "$1" -c "$work/server.properties" >"$work/out" 2>&1
    java -Xmx200m -cp "$work/jars/*" kafka.Kafka "$work/server.properties" >"$work/out" 2>&1 &
    broker=$!
}

cat >"$work/two.py" <<'PY'
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address = sys.argv[1]


def create_topic():
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    cluster = admin.list_topics(timeout=60).cluster_id
    admin.create_topics([NewTopic("orders", 1, 1)])["orders"].result(60)
    return cluster


def producer():
    return Producer({"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 0, "log_level": 0})


def send(client, text):
    """Sends one message and returns its delivery report: (error, offset)."""
    reports = []
    client.produce("orders", text, on_delivery=lambda error, message: reports.append((error, message.offset())))
    deadline = time.monotonic() + 60
    while not reports and time.monotonic() < deadline:
        client.poll(0.1)
    return reports[0]


def step(line):
    """Asks the shell for the next cluster and waits for it."""
    print(line, flush=True)
    sys.stdin.readline()


first = create_topic()
old = producer()
for number in range(5):
    assert send(old, f"old {number}")[0] is None
step("swap")

second = create_topic()
new = producer()
for number in range(6):
    assert send(new, f"new {number}")[0] is None
error, offset = send(old, "old 5")

reader = Consumer({"bootstrap.servers": address, "group.id": "reader", "log_level": 0})
reader.assign([TopicPartition("orders", 0, 0)])
stored = []
while message := reader.poll(5.0):
    stored.append(message.value().decode())
step(f"clusters differ: {first != second}\nold 5: error {error}, offset {offset}\nstored: {', '.join(stored)}\nend")
PY

mkfifo "$work/answers" "$work/requests"
start MkU3OEVBNTcwNTJENDM2Qk
"$work/venv/bin/python" "$work/two.py" "127.0.0.1:$port" <"$work/answers" >"$work/requests" &
exec 3>"$work/answers" 4<"$work/requests"
read -r request <&4
[ "$request" = swap ]
kill -9 "$broker"
wait "$broker" 2>/dev/null || true
start Q0I3OEVBNTcwNTJENDM2Qk
echo >&3
observed=""
while read -r line <&4 && [ "$line" != end ]; do
    observed="$observed$line
"
done
echo >&3
printf '%s' "$observed"

expected='clusters differ: True
old 5: error None, offset 5
stored: new 0, new 1, new 2, new 3, new 4, new 5
'
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s' "$expected"
    exit 1
fi
