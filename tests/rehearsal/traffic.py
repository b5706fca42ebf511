"""Signed deliveries at a steady rate, retried until they are answered 200, and the ledger of what was answered."""

import collections
import hashlib
import heapq
import hmac
import http.client
import json
import queue
import threading
import time
import uuid

from programs import wait_for

NAMESPACE = uuid.UUID("82aa3251-fb12-5533-8215-e473197ca642")
WEBHOOK, WORKSPACE, OBJECT = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
THREADS = 64
# Longer than the bridge waits before it answers.
TIMEOUT = 30


class Delivery:
    """One event; its CloudEvents id is computed here as the reference describes it."""

    def __init__(self):
        self.key = str(uuid.uuid4())
        ids = {"workspace_id": WORKSPACE, "object_id": OBJECT, "record_id": str(uuid.uuid4())}
        event = json.dumps({"event_type": "record.updated", "id": ids, "actor": {"type": "system", "id": None}})
        self.body = f'{{"webhook_id": "{WEBHOOK}", "events": [{event}]}}'.encode()
        digest = hashlib.sha256(event.encode()).hexdigest()
        self.id = str(uuid.uuid5(NAMESPACE, f"{WEBHOOK}\n{self.key}\n0\n{digest}"))
        self.answers = []


class Traffic:
    def __init__(self, port, secret, per_second):
        self.port, self.secret, self.per_second = port, secret, per_second
        self.deliveries, self.due, self.running = [], queue.SimpleQueue(), True
        self.lock = threading.Lock()
        self.retries = []
        self.counts = collections.Counter()
        self.acknowledged = 0
        threading.Thread(target=self.schedule, daemon=True).start()
        for _ in range(THREADS):
            threading.Thread(target=self.send, daemon=True).start()

    def schedule(self):
        slot = time.monotonic()
        while True:
            now = time.monotonic()
            with self.lock:
                while self.retries and self.retries[0][0] <= now:
                    self.due.put(heapq.heappop(self.retries)[2])
            while self.running and slot <= now:
                delivery = Delivery()
                self.deliveries.append(delivery)
                self.due.put(delivery)
                slot += 1 / self.per_second
            time.sleep(0.005)

    def send(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        while True:
            delivery = self.due.get()
            answer = self.attempt(connection, delivery)
            delivery.answers.append(answer)
            with self.lock:
                self.counts[answer] += 1
                if answer == 200:
                    self.acknowledged += 1
                else:
                    # Seldom enough that what waits does not keep the machine busy.
                    wait = min(2 ** len(delivery.answers) / 4, 8)
                    heapq.heappush(self.retries, (time.monotonic() + wait, delivery.key, delivery))

    def attempt(self, connection, delivery):
        """The status of an answer, or "none"."""
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": delivery.key,
            "Attio-Signature": hmac.new(self.secret.encode(), delivery.body, hashlib.sha256).hexdigest(),
        }
        try:
            connection.request("POST", "/webhooks/attio", delivery.body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            connection.close()
            return "none"

    def since(self):
        """The answers since the last call, by status."""
        with self.lock:
            counts, self.counts = self.counts, collections.Counter()
        return counts

    def wait_for_all(self):
        """Waits until every delivery so far is acknowledged."""
        so_far = list(self.deliveries)
        wait_for("every delivery is acknowledged", lambda: all(200 in delivery.answers[-1:] for delivery in so_far))
