#!/bin/sh
# Two official CloudEvents SDKs give a received event that has no `id` a random one, another at each reading.
#
# Version    cloudevents 2.2.0 (PyPI), cloudevents 10.0.0 (npm)
# Expected   `id` is required, so an event without one is refused when it is read, as the constructor of the Java and Go
#            SDKs or `validate()` would say.
# Observed   `from_kafka`, `from_http` (Python), `Kafka.toEvent` and `HTTP.toEvent` (JavaScript) read a structured event
#            without `id` with no error. Its id is a UUID made at that moment, so the same message read twice is two
#            events: a consumer that drops repeats by `source` and `id` handles it once per delivery, and no check of
#            `event.id` can tell. JavaScript's `validate()` returns true. Python does the same in binary mode when the
#            header `ce_id` is missing, and fills in `time` with the time of reading in both modes. Check the message
#            itself, or in Python pass an event factory.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs python3 with venv, node and npm.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check cloudevents==2.2.0
(cd "$work" && npm install --silent --no-save --no-package-lock cloudevents@10.0.0)

cat >"$work/read.py" <<'PYTHON'
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event

BODY = b'{"specversion":"1.0","source":"urn:a","type":"b","data":{}}'
STRUCTURED = {"content-type": "application/cloudevents+json"}
BINARY = {"specversion": "1.0", "source": "urn:a", "type": "b"}
kafka = {"content-type": b"application/json"} | {f"ce_{name}": value.encode() for name, value in BINARY.items()}
reads = {
    "kafka structured": lambda: from_kafka_event(
        KafkaMessage({name: value.encode() for name, value in STRUCTURED.items()}, None, BODY)
    ),
    "kafka binary": lambda: from_kafka_event(KafkaMessage(kafka, None, b"{}")),
    "http structured": lambda: from_http_event(HTTPMessage(STRUCTURED, BODY)),
}
for name, read in reads.items():
    first, second = read(), read()
    random = first.get_id() and first.get_id() != second.get_id()
    print(f"python {name}: ids differ {random}, time {'invented' if first.get_time() else 'absent'}")
PYTHON
cat >"$work/read.mjs" <<'JS'
import { HTTP, Kafka } from "cloudevents";

const body = '{"specversion":"1.0","source":"urn:a","type":"b","time":"2026-11-24T07:47:53.667Z","data":{}}';
const headers = { "content-type": "application/cloudevents+json" };
const reads = {
  "kafka structured": () => Kafka.toEvent({ headers, value: body }),
  "http structured": () => HTTP.toEvent({ headers, body }),
};
for (const [name, read] of Object.entries(reads)) {
  const [first, second] = [read(), read()];
  console.log(`javascript ${name}: ids differ ${first.id !== second.id}, validate ${first.validate()}`);
}
JS
observed=$("$work/venv/bin/python" "$work/read.py" && cd "$work" && node read.mjs)
printf '%s\n' "$observed"

expected='python kafka structured: ids differ True, time invented
python kafka binary: ids differ True, time invented
python http structured: ids differ True, time invented
javascript kafka structured: ids differ true, validate true
javascript http structured: ids differ true, validate true'
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
