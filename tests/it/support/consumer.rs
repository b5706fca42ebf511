//! What a consumer finds on the topics of one bridge.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::kafka::{Broker, Record};
use super::mix::Want;

/// Every category and the two topics beside them.
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

/// What was found, each copy of it.
#[derive(Debug, Default)]
pub struct Found {
    pub events: BTreeMap<String, Vec<Want>>,
    pub quarantine: Vec<Vec<u8>>,
}

impl Found {
    /// Reads every topic of a prefix to its end.
    pub fn on(broker: &Broker, prefix: &str) -> Self {
        let mut found = Self::default();
        for name in NAMES {
            let topic = format!("{prefix}.{name}");
            broker.read_all(&topic).iter().for_each(|record| found.add(&topic, record));
        }
        found
    }

    fn add(&mut self, topic: &str, record: &Record) {
        assert_eq!(
            record.headers,
            [("content-type".into(), Some(b"application/cloudevents+json; charset=UTF-8".to_vec()))]
        );
        let envelope: Envelope<'_> = serde_json::from_str(record.value()).unwrap();
        assert_eq!(record.key(), envelope.partitionkey, "the key is the partition key");
        match (envelope.data, envelope.data_base64) {
            (Some(data), None) => {
                let want = Want { topic: topic.into(), key: record.key().into(), data: data.get().into() };
                self.events.entry(envelope.id).or_default().push(want);
            }
            (None, Some(raw)) => self.quarantine.push(STANDARD.decode(raw).unwrap()),
            other => panic!("data or data_base64, not {other:?}"),
        }
    }

    /// Copies of one id.
    pub fn copies(&self, id: &str) -> usize {
        self.events.get(id).map_or(0, Vec::len)
    }
}
