// The database: an event's work and the memory that it is done are one transaction.

import { DatabaseSync } from "node:sqlite";
import type { CloudEvent } from "cloudevents";

const SCHEMA = `
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS event (source TEXT, id TEXT, attributes TEXT, key TEXT, headers TEXT, data BLOB, position TEXT,
    PRIMARY KEY (source, id));
CREATE TABLE IF NOT EXISTS tally (type TEXT PRIMARY KEY, events INTEGER);
CREATE TABLE IF NOT EXISTS record (id TEXT PRIMARY KEY, events INTEGER, merged_into TEXT);
CREATE TABLE IF NOT EXISTS set_aside (position TEXT PRIMARY KEY, reason TEXT, value BLOB);
`;
const REMEMBER = "INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?, ?, ?, ?)";
const COUNT = "INSERT INTO tally VALUES (?, 1) ON CONFLICT DO UPDATE SET events = events + 1";
const SURVIVOR = "SELECT coalesce((SELECT merged_into FROM record WHERE id = ?1), ?1) AS id";
const ADD = "INSERT INTO record VALUES (?, ?, NULL) ON CONFLICT DO UPDATE SET events = events + excluded.events";
const EVENTS = "SELECT coalesce(sum(events), 0) AS events FROM record WHERE id = ?";
const MERGE =
  "INSERT INTO record VALUES (?, 0, ?) ON CONFLICT DO UPDATE SET events = 0, merged_into = excluded.merged_into";
const FOLLOW = "UPDATE record SET merged_into = ? WHERE merged_into = ?";

type Headers = Record<string, string>;
type Event = CloudEvent<{ duplicate_record_id?: unknown } | null>;

export class Inbox {
  private readonly db: DatabaseSync;

  constructor(path: string) {
    this.db = new DatabaseSync(path, { timeout: 60_000 });
    this.db.exec(SCHEMA);
  }

  /** Reads a message and does its work, unless that was done before. What cannot be read is set aside. */
  take(position: string, key: string, headers: Headers, payload: Buffer, read: (text: string) => unknown): void {
    let event: Event;
    let memory: (string | Buffer)[];
    try {
      const binary = "ce_id" in headers || "ce-id" in headers;
      const text = payload.toString();
      // The SDK gives an event without an id a random one: each repeat would be a new event.
      if (!binary && !JSON.parse(text).id) throw new Error("the event has no id");
      event = read(text) as Event;
      const { id, source, type } = event;
      if (![id, source, type].every((value) => value && typeof value === "string"))
        throw new Error("id, source and type are texts");
      const { data, ...attributes } = event.toJSON() as Record<string, unknown>;
      // In binary mode the payload as it came, in structured mode written again from the SDK's values.
      const bytes = binary ? payload : Buffer.from(JSON.stringify(data));
      memory = [source, id, JSON.stringify(attributes), key, JSON.stringify(headers), bytes, position];
    } catch (error) {
      console.error(`${position} is set aside: ${error}`);
      this.db.prepare("INSERT OR IGNORE INTO set_aside VALUES (?, ?, ?)").run(position, String(error), payload);
      return;
    }
    this.db.exec("BEGIN IMMEDIATE");
    try {
      if (this.db.prepare(REMEMBER).run(...memory).changes === 1) this.work(event);
      this.db.exec("COMMIT");
    } catch (error) {
      this.db.exec("ROLLBACK");
      throw error;
    }
  }

  /** Yours to replace: counts the events of each type and each record. */
  private work(event: Event): void {
    this.db.prepare(COUNT).run(event.type);
    const { partitionkey } = event;
    if (!event.type.startsWith("com.attio.record.") || !partitionkey || typeof partitionkey !== "string") return;
    // Events of a record that was merged may come after the merge: they have another key.
    const record = this.db.prepare(SURVIVOR).get(partitionkey)!.id;
    this.db.prepare(ADD).run(record, 1);
    const duplicate = event.data?.duplicate_record_id;
    if (event.type === "com.attio.record.merged" && typeof duplicate === "string" && duplicate !== record) {
      const { events } = this.db.prepare(EVENTS).get(duplicate)!;
      this.db.prepare(ADD).run(record, events);
      this.db.prepare(MERGE).run(duplicate, record);
      this.db.prepare(FOLLOW).run(record, duplicate); // what was merged into the duplicate
    }
  }
}
