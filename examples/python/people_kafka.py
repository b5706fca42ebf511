"""Keeps a table of people from the states on Kafka: one row for each that exists, as Attio has it."""

import json
import os
import signal
import sqlite3
import sys
import threading

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

TOPIC = os.environ.get("KAFKA_TOPIC", "attio-state.record")


def main():
    table = sqlite3.connect(os.environ.get("PEOPLE", "people.db"))
    table.execute("CREATE TABLE IF NOT EXISTS people (id TEXT PRIMARY KEY, time TEXT, data TEXT)")
    table.execute("CREATE TABLE IF NOT EXISTS positions (part INTEGER PRIMARY KEY, next INTEGER)")
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ.get("KAFKA_BOOTSTRAP", "127.0.0.1:9092"),
            "group.id": "people",  # required by the client; the positions are in the table's own database
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",  # a state of an aborted transaction does not count
        }
    )
    partitions = consumer.list_topics(TOPIC, 10).topics[TOPIC].partitions
    positions = dict(table.execute("SELECT part, next FROM positions"))
    consumer.assign([TopicPartition(TOPIC, part, positions.get(part, OFFSET_BEGINNING)) for part in partitions])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.is_set():
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error() and message.error().code() == KafkaError._AUTO_OFFSET_RESET:
            with table:  # the topic was made anew
                table.execute("DELETE FROM people")
                table.execute("DELETE FROM positions")
            sys.exit("another topic: start again")
        if message.error():
            print(message.error(), file=sys.stderr)
            continue
        with table:  # the row and the position in one transaction: each state counts once
            keep(table, message.key().decode(), message.value())
            position = (message.partition(), message.offset() + 1)
            table.execute("INSERT OR REPLACE INTO positions VALUES (?, ?)", position)
    consumer.close()


def keep(table, record_id, value):
    if value is None:  # a tombstone: deleted, or merged into another
        table.execute("DELETE FROM people WHERE id = ?", (record_id,))
        return
    state = json.loads(value)
    if state.get("attioobject") == "people":
        row = (record_id, state["time"], json.dumps(state["data"]))
        table.execute("INSERT OR REPLACE INTO people VALUES (?, ?, ?)", row)


main()
