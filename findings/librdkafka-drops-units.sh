#!/bin/sh
# librdkafka reads the digits of a numeric property and drops what follows: "60s" is 60 milliseconds.
#
# Version    confluent-kafka 2.16.1 (librdkafka 2.16.0); the same in librdkafka 2.12.1
# Expected   A value that is not a number is refused, as "abc" is and as an unknown property is.
# Observed   "60s" for socket.timeout.ms, "16KB" for batch.size and "5s" for linger.ms are accepted without an error or
#            a log line, and are 60 ms, 16 bytes and 5 ms. A producer with them connects and publishes, with
#            time-outs under load that name the network. Only `debug=conf` shows the numbers that are used.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs python3 with venv.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check confluent-kafka==2.16.1

cat >"$work/units.py" <<'PYTHON'
import logging
import re
import sys

from confluent_kafka import KafkaException, Producer

lines = []


class Collect(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())


log = logging.getLogger("librdkafka")
log.setLevel(logging.DEBUG)
log.addHandler(Collect())
written = {"socket.timeout.ms": "60s", "batch.size": "16KB", "linger.ms": "5s"}
producer = Producer({"test.mock.num.brokers": 1, "debug": "conf", **written}, logger=log)
producer.poll(0.2)
# linger.ms is another name of queue.buffering.max.ms.
used = dict(re.findall(r"(socket\.timeout\.ms|batch\.size|queue\.buffering\.max\.ms) = (\d+)", "\n".join(lines)))
print(f"written: {written}; used: {used}")
try:
    Producer({"socket.timeout.ms": "abc"})
    refused = False
except KafkaException as error:
    print(f"refused: {error}")
    refused = True
as_observed = used == {"socket.timeout.ms": "60", "batch.size": "16", "queue.buffering.max.ms": "5"}
sys.exit(0 if as_observed and refused else 1)
PYTHON
"$work/venv/bin/python" "$work/units.py"
