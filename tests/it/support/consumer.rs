//! Reads back the messages that a bridge published.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::kafka::{Broker, Record};
use super::mix::Want;
use super::nats::{Server, Stored};

/// Every category, `unknown` and `quarantine`.
pub const NAMES: [&str; 15] = [
    "record",
    "list-entry",
    "list",
    "list-attribute",
    "object-attribute",
    "note",
    "task",
    "comment",
    "workspace-member",
    "call-recording",
    "activity",
    "activity-attribute",
    "activity-record",
    "unknown",
    "quarantine",
];

#[derive(Deserialize)]
struct Envelope<'a> {
    id: String,
    partitionkey: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

/// The messages found, with every copy.
#[derive(Debug, Default)]
pub struct Found {
    pub events: BTreeMap<String, Vec<Want>>,
    pub quarantine: Vec<Vec<u8>>,
}

impl Found {
    /// Reads every topic of a prefix to its end.
    pub fn on(broker: &Broker, prefix: &str) -> Self {
        Self::on_topics(broker, NAMES.map(|name| format!("{prefix}.{name}")))
    }

    /// Reads some topics to their end.
    pub fn on_topics(broker: &Broker, topics: impl IntoIterator<Item = String>) -> Self {
        let mut found = Self::default();
        for topic in topics {
            broker.read_all(&topic).iter().for_each(|record| found.add(&topic, record));
        }
        found
    }

    /// Reads a stream to its end; every subject in it is below the prefix.
    pub fn in_stream(server: &Server, stream: &str, prefix: &str) -> Self {
        let mut found = Self::default();
        for message in server.read_all(stream) {
            found.add_stored(prefix, &message);
        }
        found
    }

    fn add(&mut self, topic: &str, record: &Record) {
        assert_eq!(
            record.headers,
            [("content-type".into(), Some(b"application/cloudevents+json; charset=utf-8".to_vec()))]
        );
        let key = self.add_envelope(topic, record.value());
        assert_eq!(record.key(), key, "the key is the partition key");
    }

    fn add_stored(&mut self, prefix: &str, message: &Stored) {
        assert_eq!(message.header("Content-Type"), Some("application/cloudevents+json; charset=utf-8"));
        assert_eq!(message.headers.len(), 3, "{:?}", message.headers);
        let below = message.subject.strip_prefix(prefix).unwrap().trim_start_matches('.');
        let (category, action) = below.split_once('.').unwrap_or((below, ""));
        assert!(!action.contains('.'), "{}", message.subject);
        self.add_envelope(&format!("{prefix}.{category}"), message.text());
    }

    /// Adds an envelope; returns its partition key.
    fn add_envelope(&mut self, topic: &str, text: &str) -> String {
        let envelope: Envelope<'_> = serde_json::from_str(text).unwrap();
        match (envelope.data, envelope.data_base64) {
            (Some(data), None) => {
                let key = envelope.partitionkey.clone();
                let want = Want { topic: topic.into(), key, data: data.get().into() };
                self.events.entry(envelope.id).or_default().push(want);
            }
            (None, Some(raw)) => self.quarantine.push(STANDARD.decode(raw).unwrap()),
            other => panic!("data or data_base64, not {other:?}"),
        }
        envelope.partitionkey
    }

    /// Copies of one id.
    pub fn copies(&self, id: &str) -> usize {
        self.events.get(id).map_or(0, Vec::len)
    }
}
