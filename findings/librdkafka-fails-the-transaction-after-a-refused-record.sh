#!/bin/sh
# After a transaction in which the broker refused a record as too large, librdkafka fails the next one, which is sound.
#
# Versions   Apache Kafka 4.4.0, confluent-kafka 2.16.1 (librdkafka 2.16.0); seen with librdkafka 2.12.1 too
# Expected   MSG_SIZE_TOO_LARGE makes a transaction abortable. It is aborted without an error, and a transaction begun
#            after that knows nothing of it.
# Observed   If the refused record was the last of its transaction, the next transaction, of three small records, fails
#            with OUT_OF_ORDER_SEQUENCE_NUMBER, "skipped sequence numbers", and has to be aborted as well; its records
#            end as _PURGE_QUEUE, and only at that abort: `flush` before it uses up its time. The third transaction
#            commits. If the refused record was the first, the records behind it end as _PURGE_QUEUE in the same way,
#            but the next transaction commits. An application that takes the second failure for a lost session, or
#            names its records as faulty, is wrong: they have to be sent once more.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs java 17, mvn and python3 with venv;
# takes about a minute.
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
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check confluent-kafka==2.16.1

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

cat >"$work/transactions.py" <<'PY'
import sys

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

address = sys.argv[1]
admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
admin.list_topics(timeout=60)
limit = {"max.message.bytes": "20000"}
admin.create_topics([NewTopic("states", 1, 1, config=limit)])["states"].result(60)
# Each record is a batch of its own, so that one that is refused is refused alone.
producer = Producer({"bootstrap.servers": address, "transactional.id": "writer", "batch.num.messages": 1, "log_level": 0})
producer.init_transactions(60)


def transaction(name, sizes):
    reports = {}
    producer.begin_transaction()
    for number, size in enumerate(sizes):
        report = lambda error, _, number=number: reports.update({number: error.name() if error else "stored"})
        producer.produce("states", b"x" * size, on_delivery=report)
    late = producer.flush(5)
    try:
        producer.commit_transaction(60)
        end = "committed"
    except KafkaException as raised:
        error = raised.args[0]
        assert error.txn_requires_abort(), error
        producer.abort_transaction(60)
        end = f"{error.name()}, aborted"
    print(f"{name}: {', '.join(reports[number] for number in sorted(reports))}; {'some open' if late else 'none open'} after flush; {end}", flush=True)


transaction("sound", [10] * 3)
transaction("the first is refused", [30000] + [10] * 2)
transaction("sound", [10] * 3)
transaction("the last is refused", [10] * 2 + [30000])
transaction("sound", [10] * 3)
transaction("sound", [10] * 3)
PY
observed=$("$work/venv/bin/python" "$work/transactions.py" "127.0.0.1:$port")
printf '%s\n' "$observed"

expected='sound: stored, stored, stored; none open after flush; committed
the first is refused: MSG_SIZE_TOO_LARGE, _PURGE_QUEUE, _PURGE_QUEUE; some open after flush; MSG_SIZE_TOO_LARGE, aborted
sound: stored, stored, stored; none open after flush; committed
the last is refused: stored, stored, MSG_SIZE_TOO_LARGE; none open after flush; MSG_SIZE_TOO_LARGE, aborted
sound: _PURGE_QUEUE, _PURGE_QUEUE, _PURGE_QUEUE; some open after flush; OUT_OF_ORDER_SEQUENCE_NUMBER, aborted
sound: stored, stored, stored; none open after flush; committed'
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
