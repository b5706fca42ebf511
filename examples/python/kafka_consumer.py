"""Consumes Attio's events from Kafka: every event is handled once, however often this program is killed."""

import os
import signal
import sys
import threading

from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka
from cloudevents.core.formats.json import JSONFormat
from confluent_kafka import Consumer

from inbox import Inbox, data_bytes, event_with_id, row_of


def main():
    inbox = Inbox(os.environ.get("INBOX", "inbox.db"))
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ.get("KAFKA_BOOTSTRAP", "127.0.0.1:9092"),
            "group.id": os.environ.get("KAFKA_GROUP", "example"),
            "auto.offset.reset": "earliest",
            # Offsets are stored below, after the work; the client commits what is stored.
            "enable.auto.offset.store": False,
            "auto.commit.interval.ms": 1000,
            # After this time the partitions of a killed consumer are given to another one.
            "session.timeout.ms": 6000,
            # A topic that is new, such as that of the first task, is seen after this time.
            "topic.metadata.refresh.interval.ms": 10000,
        }
    )
    consumer.subscribe([r"^attio\.[^q].*"])  # every category; quarantine is read apart
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.is_set():
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error():
            print(message.error(), file=sys.stderr)
            continue
        handle(inbox, message)
        consumer.store_offsets(message)
    consumer.close()  # commits, and leaves the group


def handle(inbox, message):
    position = f"{message.topic()}/{message.partition()}/{message.offset()}"
    try:
        headers = dict(message.headers() or [])
        event = from_kafka(KafkaMessage(headers, message.key(), message.value()), JSONFormat(), event_with_id)
        data = data_bytes(event, message.value(), structured="ce_id" not in headers)
        texts = {name: (value or b"").decode(errors="replace") for name, value in headers.items()}
        row = row_of(event, data, (message.key() or b"").decode(), texts, position)
    except Exception as error:  # whatever the SDK makes of bytes that are no event
        print(f"{position} is set aside: {error}", file=sys.stderr)
        inbox.set_aside(position, repr(error), message.value())
        return
    inbox.handle(event, row)


main()
