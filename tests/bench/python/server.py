"""Attio's webhooks to Kafka as a tutorial has it: FastAPI and aiokafka. Verifies, publishes, waits for
the ack of all replicas, answers. No dedup, no metrics, no log."""

import asyncio
import hashlib
import hmac
import json
import os
from contextlib import asynccontextmanager
from datetime import datetime, timezone

from aiokafka import AIOKafkaProducer
from fastapi import FastAPI, Header, HTTPException, Request

SECRET = os.environ["SECRET"].encode()
TOPIC = os.environ["KAFKA_TOPIC"]


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["KAFKA_BROKERS"], acks="all", enable_idempotence=True
    )
    await app.state.producer.start()
    yield
    await app.state.producer.stop()


app = FastAPI(lifespan=lifespan)


@app.post("/webhooks/{source}")
async def receive(
    source: str,
    request: Request,
    attio_signature: str = Header(),
    idempotency_key: str = Header(),
):
    body = await request.body()
    digest = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(digest, attio_signature):
        raise HTTPException(401, "Invalid signature")
    delivery = json.loads(body)
    acks = []
    for index, event in enumerate(delivery["events"]):
        ids = event["id"]
        value = {
            "specversion": "1.0",
            "id": f"{delivery['webhook_id']}-{idempotency_key}-{index}",
            "source": f"https://attio.com/workspaces/{ids['workspace_id']}",
            "type": f"com.attio.{event['event_type']}",
            "time": datetime.now(timezone.utc).isoformat(),
            "datacontenttype": "application/json",
            "data": event,
        }
        key = ids.get("entry_id") or ids.get("record_id")
        acks.append(await app.state.producer.send(TOPIC, json.dumps(value).encode(), key.encode()))
    await asyncio.gather(*acks)
    return {"received": True, "events": len(acks)}
