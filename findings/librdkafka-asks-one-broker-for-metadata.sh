#!/bin/sh
# librdkafka sends every request for metadata to the same broker, though others are connected and idle.
#
# Version    confluent-kafka 2.16.1 (librdkafka 2.16.0); the same code is in librdkafka 2.12.1
# Expected   Of three connected brokers that are idle alike, repeated requests reach each of them sooner or later, so
#            that a client which asks often enough hears from every broker.
# Observed   30 requests, 30 to one broker. librdkafka picks the connected broker that was idle for the fewest whole
#            seconds, and a request makes its broker the least idle one: after two seconds without traffic the
#            first, random choice stays for ever. To hear from a certain broker a client must first send it
#            something else, such as a request for the offsets of a partition that it leads.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs python3 with venv.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check confluent-kafka==2.16.1

cat >"$work/ask.py" <<'PYTHON'
import collections
import logging
import re
import sys
import time

from confluent_kafka import Producer

lines = []


class Collect(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())


log = logging.getLogger("librdkafka")
log.setLevel(logging.DEBUG)
log.addHandler(Collect())
# Brokers inside the client library, as its own tests use them.
producer = Producer({"test.mock.num.brokers": 3, "debug": "protocol,broker"}, logger=log)
connected = set()
for _ in range(50):
    for partition in range(4):
        producer.produce("events", b"x", partition=partition)
    producer.flush(10)
    producer.poll(0.1)
    for line in lines:
        connected.update(re.findall(r"/(\d+): Broker changed state \S+ -> UP", line))
    if len(connected) == 3:
        break
time.sleep(2.1)
producer.poll(0)
lines.clear()
for _ in range(30):
    producer.list_topics("events", timeout=5)
    producer.poll(0)
asked = collections.Counter()
for line in lines:
    for broker in re.findall(r"\[thrd:[^\]]*/(\w+)\].*Sent MetadataRequest", line):
        asked[broker] += 1
print(f"connected: {len(connected)} brokers; asked: {sorted(asked.values())}")
sys.exit(0 if len(connected) == 3 and sorted(asked.values()) == [30] else 1)
PYTHON
"$work/venv/bin/python" "$work/ask.py"
