"""Keeps a table of people from the states on NATS JetStream: one row for each that exists, as Attio has it."""

import asyncio
import json
import os
import signal
import sqlite3

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy


async def main():
    table = sqlite3.connect(os.environ.get("PEOPLE", "people.db"))
    table.execute("CREATE TABLE IF NOT EXISTS people (id TEXT PRIMARY KEY, time TEXT, data TEXT)")
    table.execute("CREATE TABLE IF NOT EXISTS positions (part INTEGER PRIMARY KEY, next INTEGER)")
    client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    row = table.execute("SELECT next FROM positions").fetchone()
    config = ConsumerConfig(
        filter_subject=os.environ.get("NATS_SUBJECT", "attio-state.record.>"),
        ack_policy=AckPolicy.NONE,  # the position is in the table's own database
        # The stream has the newest state of each record only, so this begins with all that exist.
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE if row else DeliverPolicy.ALL,
        opt_start_seq=row[0] if row else None,
        inactive_threshold=30,
    )
    stream = os.environ.get("NATS_STREAM", "ATTIO_STATE")
    created = await client.jetstream().add_consumer(stream, config)
    consumer = await client.jetstream().pull_subscribe_bind(created.name, stream)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        try:
            messages = await consumer.fetch(100, timeout=1)
        except nats.errors.TimeoutError:
            continue
        with table:  # the rows and the position in one transaction: each state counts once
            for message in messages:
                keep(table, message.subject.rsplit(".", 1)[1], message.data)
            position = (0, messages[-1].metadata.sequence.stream + 1)
            table.execute("INSERT OR REPLACE INTO positions VALUES (?, ?)", position)
    await client.close()


def keep(table, record_id, value):
    if not value:  # a tombstone: deleted, or merged into another
        table.execute("DELETE FROM people WHERE id = ?", (record_id,))
        return
    state = json.loads(value)
    if state.get("attioobject") == "people":
        row = (record_id, state["time"], json.dumps(state["data"]))
        table.execute("INSERT OR REPLACE INTO people VALUES (?, ?, ?)", row)


asyncio.run(main())
