//! A message as the bus holds it, and the CloudEvent in it, read without the bridge's own code.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use super::published::ODD;
use crate::support::kafka::Record;
use crate::support::nats::Stored;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Structured,
    Binary,
}

impl Mode {
    pub const ALL: [Self; 2] = [Self::Structured, Self::Binary];

    pub fn name(self) -> &'static str {
        match self {
            Self::Structured => "structured",
            Self::Binary => "binary",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Message {
    /// `topic/partition/offset`, or `stream/sequence`.
    pub position: String,
    /// The Kafka key, or the NATS subject.
    pub key: String,
    pub headers: BTreeMap<String, String>,
    pub value: Vec<u8>,
    /// None if it is no event, or an odd one.
    pub event: Option<Event>,
    /// Whether it may be set aside as well as handled.
    pub is_odd: bool,
}

#[derive(Clone, Debug)]
pub struct Event {
    pub mode: Mode,
    pub attributes: BTreeMap<String, String>,
    pub data: Vec<u8>,
}

impl Event {
    /// What no two events have in common.
    pub fn source_and_id(&self) -> (String, String) {
        (self.attributes["source"].clone(), self.attributes["id"].clone())
    }
}

impl Message {
    pub fn of_kafka(topic: &str, record: Record) -> Self {
        let position = format!("{topic}/{}/{}", record.partition, record.offset);
        let text = |value: Option<Vec<u8>>| String::from_utf8_lossy(&value.unwrap_or_default()).into_owned();
        let key = text(record.key);
        let headers = record.headers.into_iter().map(|(name, value)| (name, text(value))).collect();
        Self::new(position, key, headers, record.value.unwrap_or_default(), "ce_")
    }

    pub fn of_nats(stream: &str, sequence: usize, message: Stored) -> Self {
        let position = format!("{stream}/{sequence}");
        Self::new(position, message.subject, message.headers, message.payload, "ce-")
    }

    fn new(
        position: String,
        key: String,
        headers: BTreeMap<String, String>,
        value: Vec<u8>,
        prefix: &str,
    ) -> Self {
        let is_odd = String::from_utf8_lossy(&value).contains(&format!(r#""source":"{ODD}""#));
        let event = binary(&headers, &value, prefix).or_else(|| structured(&value)).filter(|_| !is_odd);
        Self { position, key, headers, value, event, is_odd }
    }
}

fn binary(headers: &BTreeMap<String, String>, value: &[u8], prefix: &str) -> Option<Event> {
    headers.get(&format!("{prefix}id"))?;
    let attribute = |(name, value): (&String, &String)| {
        let attribute = if name == "content-type" { "datacontenttype" } else { name.strip_prefix(prefix)? };
        // Only the binding for NATS encodes.
        let decoded = || percent_decode_str(value).decode_utf8().expect("text").into_owned();
        Some((attribute.to_owned(), if prefix == "ce-" { decoded() } else { value.clone() }))
    };
    let attributes = headers.iter().filter_map(attribute).collect();
    Some(Event { mode: Mode::Binary, attributes, data: value.to_vec() })
}

fn structured(value: &[u8]) -> Option<Event> {
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(value).ok()?;
    let data = members.remove("data")?.get().as_bytes().to_vec();
    let text = |(name, raw): (String, &RawValue)| Some((name, serde_json::from_str(raw.get()).ok()?));
    let attributes: BTreeMap<String, String> = members.into_iter().map(text).collect::<Option<_>>()?;
    let is_event = ["id", "source", "type"].iter().all(|name| attributes.contains_key(*name));
    is_event.then_some(Event { mode: Mode::Structured, attributes, data })
}
