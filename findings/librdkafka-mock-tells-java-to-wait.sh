#!/bin/sh
# librdkafka's mock broker cannot be spoken to from Java: kafka-clients takes its answer for an order to wait 20 minutes.
#
# Version    confluent-kafka 2.16.1 (librdkafka 2.16.0; the same in 2.12.1), kafka-clients 4.4.0. franz-go 1.22.3 reports
#            "response did not contain enough data to be valid" instead, and connects with MaxVersions(V2_3_0()).
# Expected   The mock cluster speaks the real protocol on a real port, and knows ApiVersions up to version 2. A client that
#            asks with a newer version is answered UNSUPPORTED_VERSION in the layout of version 0, and asks again.
# Observed   The array of that answer is counted in one byte, as only version 3 and later do, so the answer is neither
#            version. Java reads it as an answer of its own version with a throttle time of 0x00120000 ms = 1,179,648 ms (the
#            bytes 0012 are the number of ApiVersions), logs one warning, and sends nothing for that time.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs python3 with venv, a JDK and Maven.
set -eu
work=$(mktemp -d)
trap 'kill "$broker" 2>/dev/null || true; rm -rf "$work"' EXIT
broker=
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check confluent-kafka==2.16.1
for jar in org.apache.kafka:kafka-clients:4.4.0 org.slf4j:slf4j-api:1.7.36 org.slf4j:slf4j-simple:1.7.36; do
    mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -Dartifact="$jar" -DoutputDirectory="$work/lib"
done

cat >"$work/broker.py" <<'PYTHON'
import time

from confluent_kafka import Producer

producer = Producer({"bootstrap.servers": "unused:1", "test.mock.num.brokers": 1})
[broker] = producer.list_topics("topic", 10).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
time.sleep(600)
PYTHON
"$work/venv/bin/python" "$work/broker.py" >"$work/address" 2>"$work/broker.log" &
broker=$!
tries=0
until [ -s "$work/address" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || { cat "$work/broker.log"; exit 1; }
    sleep 0.1
done

cat >"$work/answer.py" <<'PYTHON'
import socket
import struct
import sys

host, port = sys.argv[1].split(":")
for version in 2, 4:
    head = struct.pack(">hhih", 18, version, 7, -1) + (b"\0\x02a\x02b\0" if version > 2 else b"")
    with socket.create_connection((host, int(port)), 30) as broker:
        broker.sendall(struct.pack(">i", len(head)) + head)
        answer = broker.recv(4096)[8:]
    print(f"ApiVersions {version}: error {struct.unpack('>h', answer[:2])[0]}, then {answer[2:].hex()[:32]}")
sys.exit(0 if answer.hex() == "0023" "01" "001200000002" "00000000" else 1)
PYTHON
"$work/venv/bin/python" "$work/answer.py" "$(cat "$work/address")"

cat >"$work/Ask.java" <<'JAVA'
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;

class Ask {
    public static void main(String[] address) {
        Map<String, Object> settings = Map.of("bootstrap.servers", address[0], "default.api.timeout.ms", 20_000,
            "request.timeout.ms", 20_000);
        try (var admin = Admin.create(settings)) {
            System.out.println("nodes: " + admin.describeCluster().nodes().get());
        } catch (Exception error) {
            System.out.println(error.getMessage());
        }
        System.exit(0);
    }
}
JAVA
java -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$work/lib/*" "$work/Ask.java" "$(cat "$work/address")" >"$work/java.log" 2>&1
cat "$work/java.log"
grep -q 'is throttled for 1179648 ms' "$work/java.log"
! grep -q '^nodes' "$work/java.log"
