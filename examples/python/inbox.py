"""The database: an event's work and the memory that it is done are one transaction."""

import json
import sqlite3
from datetime import datetime

from cloudevents.core.v1.event import CloudEvent

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS event (source TEXT, id TEXT, attributes TEXT, key TEXT, headers TEXT, data BLOB, position TEXT,
    PRIMARY KEY (source, id));
CREATE TABLE IF NOT EXISTS tally (type TEXT PRIMARY KEY, events INTEGER);
CREATE TABLE IF NOT EXISTS record (id TEXT PRIMARY KEY, events INTEGER, merged_into TEXT);
CREATE TABLE IF NOT EXISTS set_aside (position TEXT PRIMARY KEY, reason TEXT, value BLOB);
"""
REMEMBER = "INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?, ?, ?, ?)"
COUNT = "INSERT INTO tally VALUES (?, 1) ON CONFLICT DO UPDATE SET events = events + 1"
SURVIVOR = "SELECT coalesce((SELECT merged_into FROM record WHERE id = ?1), ?1)"
ADD = "INSERT INTO record VALUES (?, ?, NULL) ON CONFLICT DO UPDATE SET events = events + excluded.events"
EVENTS = "SELECT coalesce(sum(events), 0) FROM record WHERE id = ?"
MERGE = "INSERT INTO record VALUES (?, 0, ?) ON CONFLICT DO UPDATE SET events = 0, merged_into = excluded.merged_into"
FOLLOW = "UPDATE record SET merged_into = ? WHERE merged_into = ?"


class Inbox:
    def __init__(self, path):
        self.db = sqlite3.connect(path, timeout=60, isolation_level=None)
        self.db.executescript(SCHEMA)

    def handle(self, event, row):
        """Does the work of an event, unless it was done before."""
        with self.db:  # commits, or rolls back on an exception
            self.db.execute("BEGIN IMMEDIATE")
            if self.db.execute(REMEMBER, row).rowcount == 1:
                self.work(event)

    def work(self, event):
        """Yours to replace: counts the events of each type and each record."""
        self.db.execute(COUNT, [event.get_type()])
        key, data = event.get_extension("partitionkey"), event.get_data()
        if not event.get_type().startswith("com.attio.record.") or not isinstance(key, str):
            return
        # Events of a record that was merged may come after the merge: they have another key.
        [record] = self.db.execute(SURVIVOR, [key]).fetchone()
        self.db.execute(ADD, [record, 1])
        duplicate = data.get("duplicate_record_id") if isinstance(data, dict) else None
        if event.get_type() == "com.attio.record.merged" and is_id(duplicate) and duplicate != record:
            [events] = self.db.execute(EVENTS, [duplicate]).fetchone()
            self.db.execute(ADD, [record, events])
            self.db.execute(MERGE, [duplicate, record])
            self.db.execute(FOLLOW, [record, duplicate])  # what was merged into the duplicate

    def set_aside(self, position, reason, value):
        """Keeps a message that cannot be read, so that it does not stop those behind it."""
        with self.db:
            self.db.execute("INSERT OR IGNORE INTO set_aside VALUES (?, ?, ?)", [position, reason, value])


def event_with_id(attributes, data):
    """Makes an event for the SDK, which gives one without an id a random one: each repeat would be a new event."""
    if "id" not in attributes:
        raise ValueError("the event has no id")
    return CloudEvent(attributes, data)


def row_of(event, data, key, headers, position):
    """What is remembered of an event. Fails if an attribute is no Unicode text, as JSON's "\\ud800" is none."""
    texts = {name: text(value) for name, value in event.get_attributes().items()}
    attributes = json.dumps(texts, ensure_ascii=False).encode().decode()
    return event.get_source(), event.get_id(), attributes, key, json.dumps(headers), data, position


def text(value):
    return value.isoformat() if isinstance(value, datetime) else value


def is_id(value):
    return isinstance(value, str) and value.isascii()


def data_bytes(event, payload, structured):
    """`data` as bytes: in binary mode the payload as it came, in structured mode written again from the SDK's values."""
    return json.dumps(event.get_data(), separators=(",", ":")).encode() if structured else payload
