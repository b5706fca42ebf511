"""Consumes Attio's events from NATS JetStream: every event is handled once, however often this program is killed."""

import asyncio
import os
import signal
import sys

import nats
from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat
from nats.js.api import AckPolicy, ConsumerConfig

from inbox import Inbox, data_bytes, event_with_id, row_of


async def main():
    inbox = Inbox(os.environ.get("INBOX", "inbox.db"))
    stream = os.environ.get("NATS_STREAM", "ATTIO")
    durable = os.environ.get("NATS_DURABLE", "example")
    client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    jetstream = client.jetstream()
    config = ConsumerConfig(
        durable_name=durable,
        filter_subjects=["attio.*.*", "attio.unknown"],  # every category; quarantine is read apart
        ack_policy=AckPolicy.EXPLICIT,
        # After this time, in seconds, what a killed consumer had in hand is sent again. Longer than the work takes.
        ack_wait=10,
    )
    await jetstream.add_consumer(stream, config)
    consumer = await jetstream.pull_subscribe_bind(durable, stream)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        try:
            [message] = await consumer.fetch(1, timeout=1)
        except nats.errors.TimeoutError:
            continue
        handle(inbox, message)
        await message.ack()
    await client.flush()  # sends the acknowledgements; `drain` would wait half a minute for the subscription
    await client.close()


def handle(inbox, message):
    position = f"{message.metadata.stream}/{message.metadata.sequence.stream}"
    try:
        headers = dict(message.headers or {})
        event = from_http(HTTPMessage(headers, message.data), JSONFormat(), event_with_id)
        data = data_bytes(event, message.data, structured="ce-id" not in headers)
        row = row_of(event, data, message.subject, headers, position)
    except Exception as error:  # whatever the SDK makes of bytes that are no event
        print(f"{position} is set aside: {error}", file=sys.stderr)
        inbox.set_aside(position, repr(error), message.data)
        return
    inbox.handle(event, row)


asyncio.run(main())
