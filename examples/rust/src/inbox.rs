//! Handles every event once: the work and the event's source and id are one transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use cloudevents::event::{AttributeValue, Data, SpecVersion};
use cloudevents::message::{BinaryDeserializer, BinarySerializer, MessageAttributeValue};
use cloudevents::{AttributesReader, Event};
use percent_encoding::percent_decode_str;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use serde::Deserialize;
use serde_json::value::RawValue;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS event (source TEXT, id TEXT, attributes TEXT, key TEXT, headers TEXT, data BLOB,
                                      position TEXT, PRIMARY KEY (source, id));
    CREATE TABLE IF NOT EXISTS tally (type TEXT PRIMARY KEY, events INTEGER);
    CREATE TABLE IF NOT EXISTS record (id TEXT PRIMARY KEY, events INTEGER, merged_into TEXT);
    CREATE TABLE IF NOT EXISTS set_aside (position TEXT PRIMARY KEY, reason TEXT, value BLOB);";

/// What the names of attributes in headers begin with.
pub const KAFKA: &str = "ce_";
pub const NATS: &str = "ce-";

/// What the client read.
pub struct Message {
    /// topic/partition/offset or stream/sequence
    pub position: String,
    /// The key, or the subject.
    pub key: String,
    pub headers: BTreeMap<String, String>,
    pub value: Vec<u8>,
}

/// The consumer's database.
pub struct Inbox(Connection);

impl Inbox {
    /// Creates the database if it is missing. Another process may hold it for up to a minute.
    pub fn open() -> Result<Self> {
        let connection = Connection::open(setting("INBOX", "inbox.db"))?;
        connection.busy_timeout(Duration::from_secs(60))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self(connection))
    }

    /// Does the work of an event that is new, and sets aside what is no event. Acknowledge the message after it.
    pub fn take(&mut self, message: &Message, event: Result<Event>) -> Result<()> {
        let position = &message.position;
        match event {
            Ok(event) => {
                let new = self.handle(message, &event)?;
                eprintln!("{position} {} {} new={new}", event.ty(), event.id());
            }
            Err(error) => {
                let reason = format!("{error:#}");
                eprintln!("{position} set aside: {reason}");
                let insert = "INSERT INTO set_aside VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
                self.0.execute(insert, (position, reason, &message.value))?;
            }
        }
        Ok(())
    }

    fn handle(&mut self, message: &Message, event: &Event) -> Result<bool> {
        let text = |(name, value): (_, AttributeValue)| (name, value.to_string());
        let attributes: BTreeMap<_, _> = event.iter().map(text).collect();
        let data: Vec<u8> = event.data().cloned().map(Vec::try_from).transpose()?.unwrap_or_default();
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let inserted = transaction.execute(
            "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                event.source(),
                event.id(),
                serde_json::to_string(&attributes)?,
                &message.key,
                serde_json::to_string(&message.headers)?,
                &data,
                &message.position,
            ),
        )?;
        if inserted == 1 {
            work(&transaction, event, &data)?;
            transaction.commit()?;
        }
        Ok(inserted == 1)
    }
}

/// Stands for what your consumer does: counts the events of each type and of each record. A record that was merged into
/// another counts there, also when its events come after the merge.
fn work(transaction: &Transaction, event: &Event, data: &[u8]) -> Result<()> {
    let count = "INSERT INTO tally VALUES (?, 1) ON CONFLICT DO UPDATE SET events = events + 1";
    transaction.execute(count, [event.ty()])?;
    let Some(action) = event.ty().strip_prefix("com.attio.record.") else { return Ok(()) };
    let Some(record) = event.extension("partitionkey").map(ToString::to_string) else { return Ok(()) };
    let merged_into = "SELECT merged_into FROM record WHERE id = ? AND merged_into IS NOT NULL";
    let record =
        transaction.query_row(merged_into, [&record], |row| row.get(0)).optional()?.unwrap_or(record);
    let count = "INSERT INTO record VALUES (?, 1, NULL) ON CONFLICT DO UPDATE SET events = events + 1";
    transaction.execute(count, [&record])?;
    let Merge { duplicate_record_id } = serde_json::from_slice(data).unwrap_or_default();
    let Some(duplicate) = duplicate_record_id.filter(|_| action == "merged") else { return Ok(()) };
    if duplicate != record {
        transaction.execute("INSERT INTO record VALUES (?, 0, NULL) ON CONFLICT DO NOTHING", [&duplicate])?;
        let add =
            "UPDATE record SET events = events + (SELECT events FROM record WHERE id = ?2) WHERE id = ?1";
        transaction.execute(add, [&record, &duplicate])?;
        transaction.execute("UPDATE record SET events = 0 WHERE id = ?", [&duplicate])?;
        let point = "UPDATE record SET merged_into = ?1 WHERE id = ?2 OR merged_into = ?2";
        transaction.execute(point, [&record, &duplicate])?;
    }
    Ok(())
}

/// The form of `record.merged` that names the duplicate.
#[derive(Default, Deserialize)]
struct Merge {
    duplicate_record_id: Option<String>,
}

/// Reads an event in structured or binary mode. The attributes of binary mode are in headers with the prefix.
pub fn decode(message: &Message, content_type: &str, prefix: &str) -> Result<Event> {
    if !content_type.starts_with("application/cloudevents+json") {
        let event = BinaryDeserializer::into_event(Binary { message, content_type, prefix })?;
        return checked(event);
    }
    // The SDK gets the attributes only, because it parses data, and refuses or rewrites numbers in it.
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(&message.value)?;
    let data = members.remove("data");
    let mut event: Event = serde_json::from_str(&serde_json::to_string(&members)?)?;
    if let Some(data) = data {
        event.set_data_unchecked(Data::Binary(data.get().into()));
    }
    checked(event)
}

/// The SDK takes empty attributes.
fn checked(event: Event) -> Result<Event> {
    if event.id().is_empty() || event.source().is_empty() || event.ty().is_empty() {
        bail!("empty id, source or type");
    }
    Ok(event)
}

struct Binary<'a> {
    message: &'a Message,
    content_type: &'a str,
    prefix: &'a str,
}

impl BinaryDeserializer for Binary<'_> {
    fn deserialize_binary<R, S: BinarySerializer<R>>(self, mut event: S) -> cloudevents::message::Result<R> {
        let Self { message, content_type, prefix } = self;
        let attribute =
            |name: &str| message.headers.get(&format!("{prefix}{name}")).map_or("", String::as_str);
        let version = SpecVersion::try_from(attribute("specversion"))?;
        let standard = version.attribute_names();
        event = event.set_spec_version(version)?;
        if prefix == KAFKA {
            let value = MessageAttributeValue::String(content_type.to_owned());
            event = event.set_attribute("datacontenttype", value)?;
        }
        for (name, value) in &message.headers {
            // The binding for NATS percent-encodes values.
            let decoded = || percent_decode_str(value).decode_utf8_lossy().into_owned();
            let value = if prefix == NATS { decoded() } else { value.clone() };
            let value = MessageAttributeValue::String(value);
            event = match name.strip_prefix(prefix) {
                None | Some("specversion") => event,
                Some(name) if standard.contains(&name) => event.set_attribute(name, value)?,
                Some(name) => event.set_extension(name, value)?,
            };
        }
        event.end_with_data(message.value.clone())
    }
}

/// A setting from the environment.
pub fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}
