"""Produces one record for each key on standard input: produce.py CLIENT SETTING BOOTSTRAP TOPIC"""

import asyncio
import sys


def confluent_kafka(setting, bootstrap, topic, keys):
    from confluent_kafka import Producer

    more = {} if setting == "default" else {"partitioner": setting}
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5} | more)
    errors = []
    for key in keys:
        producer.produce(topic, key=key, on_delivery=lambda error, _: error and errors.append(error))
    if producer.flush(60) or errors:
        sys.exit(f"not delivered: {errors}")


async def aiokafka(setting, bootstrap, topic, keys):
    from aiokafka import AIOKafkaProducer

    assert setting == "default", setting
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for result in [await producer.send(topic, b"", key=key.encode()) for key in keys]:
            await result


client, *rest = sys.argv[1:]
keys = sys.stdin.read().split()
if client == "confluent-kafka":
    confluent_kafka(*rest, keys)
else:
    asyncio.run({"aiokafka": aiokafka}[client](*rest, keys))
