//! Random deliveries of every kind with their expected results, computed from the documented interface and the
//! catalog, independently of the code of the bridge.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::fixtures;
use super::request::Request;

/// The expected message of one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    pub topic: String,
    pub key: String,
    pub data: String,
}

/// Everything expected on the bus at the end.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Events by their id.
    pub events: BTreeMap<String, Want>,
    /// The raw bytes of quarantined items.
    pub quarantine: BTreeSet<Vec<u8>>,
}

/// One delivery and its expected answer.
#[derive(Clone)]
pub struct Planned {
    pub request: Request,
    pub status: u16,
    /// Events it holds, those to be quarantined included.
    pub events: usize,
    /// The ids it carries, and how many elements of it go to quarantine.
    pub ids: Vec<String>,
    pub quarantined: usize,
}

/// Generates deliveries of every kind, deterministically from a seed.
pub struct Mix {
    random: fastrand::Rng,
    catalog: Vec<Value>,
    prefix: String,
    made: usize,
    pub ledger: Ledger,
}

const WEBHOOK: &str = "2c63888f-28f0-4481-be6d-dce7a7ace732";
const NAMESPACE: Uuid = uuid::uuid!("82aa3251-fb12-5533-8215-e473197ca642");

impl Mix {
    pub fn new(prefix: &str, seed: u64) -> Self {
        let catalog = fixtures::json("catalog.json")["events"].as_array().unwrap().clone();
        let random = fastrand::Rng::with_seed(seed);
        Self { random, catalog, prefix: prefix.into(), made: 0, ledger: Ledger::default() }
    }

    /// Generates deliveries; later ones repeat some of the earlier ones.
    pub fn deliveries(&mut self, count: usize) -> Vec<Planned> {
        let mut planned: Vec<Planned> = Vec::with_capacity(count);
        for _ in 0..count {
            let next = match self.random.u32(0..100) {
                0..15 if !planned.is_empty() => self.repeat(&planned),
                15..23 => self.forged(),
                23..28 => self.garbage(),
                28..33 => self.with_broken_elements(),
                33..35 => self.envelope(&[]),
                35..38 => self.guide_form(),
                38..50 => self.batch(),
                _ => self.single(),
            };
            planned.push(next);
        }
        planned
    }

    /// One event in Attio's envelope.
    pub fn single(&mut self) -> Planned {
        let event = self.event();
        self.envelope(&[event])
    }

    fn batch(&mut self) -> Planned {
        let size = self.random.usize(2..6);
        let events: Vec<_> = (0..size).map(|_| self.event()).collect();
        self.envelope(&events)
    }

    fn repeat(&mut self, planned: &[Planned]) -> Planned {
        planned[self.random.usize(0..planned.len())].clone()
    }

    fn forged(&mut self) -> Planned {
        let (text, ..) = self.event();
        let request = Request::unsigned(text).header("Attio-Signature", "0".repeat(64));
        Planned { request, status: 401, events: 0, ids: vec![], quarantined: 0 }
    }

    fn garbage(&mut self) -> Planned {
        let key = self.key();
        let body = format!("{{\"this is no JSON\": {key}");
        self.ledger.quarantine.insert(body.clone().into_bytes());
        let request = Request::keyed(&key, body);
        Planned { request, status: 200, events: 1, ids: vec![], quarantined: 1 }
    }

    fn with_broken_elements(&mut self) -> Planned {
        let serial = self.made;
        let broken = [
            format!("\"no object {serial}\""),
            format!(r#"{{"id":{{"record_id":"no type {serial}"}}}}"#),
            format!(r#"{{"event_type":"task.created","id":{{"task_id":"not an id {serial}"}}}}"#),
            format!(r#"{{"event_type":"task.created","event_type":"task.deleted","x":{serial}}}"#),
        ];
        let bad = broken[self.random.usize(0..broken.len())].clone();
        let (one, other) = (self.event(), self.event());
        self.envelope(&[one, (bad, None), other])
    }

    /// The single event of the project's guide, signed with its timestamp.
    fn guide_form(&mut self) -> Planned {
        let (event_id, record) = (self.uuid(), self.uuid());
        let object = self.uuid();
        let data = json!({
            "event_type": "record.updated",
            "id": { "event_id": event_id },
            "created_at": "2026-11-23T12:00:00.000Z",
            "object": { "id": { "object_id": object }, "api_slug": "people" },
            "record": { "id": { "record_id": record } },
        })
        .to_string();
        let topic = format!("{}.record", self.prefix);
        self.ledger.events.insert(event_id.clone(), Want { topic, key: record, data: data.clone() });
        let now = time::OffsetDateTime::now_utc().unix_timestamp().to_string();
        let request = Request::timestamped(&now, data);
        Planned { request, status: 200, events: 1, ids: vec![event_id], quarantined: 0 }
    }

    /// Elements with their topic and key; those without one are quarantined.
    fn envelope(&mut self, elements: &[(String, Option<(String, String)>)]) -> Planned {
        let key = self.key();
        let mut planned = Planned {
            request: Request::unsigned(""),
            status: 200,
            events: elements.len(),
            ids: vec![],
            quarantined: 0,
        };
        for (index, (data, place)) in elements.iter().enumerate() {
            let Some((topic, partition_key)) = place.clone() else {
                self.ledger.quarantine.insert(data.clone().into_bytes());
                planned.quarantined += 1;
                continue;
            };
            let id = event_id(&key, index, data.as_bytes());
            self.ledger.events.insert(id.clone(), Want { topic, key: partition_key, data: data.clone() });
            planned.ids.push(id);
        }
        let texts: Vec<_> = elements.iter().map(|(text, _)| text.as_str()).collect();
        let body = format!(r#"{{"webhook_id":"{WEBHOOK}","events":[ {} ]}}"#, texts.join(" ,\n"));
        planned.request = Request::keyed(&key, body);
        planned
    }

    /// An event of a known type mostly, with its topic and key.
    fn event(&mut self) -> (String, Option<(String, String)>) {
        let entry = self.catalog[self.random.usize(0..self.catalog.len())].clone();
        let mut ids = Map::new();
        for name in entry["id_fields"].as_array().unwrap() {
            ids.insert(name.as_str().unwrap().into(), self.uuid().into());
        }
        let mut event = Map::new();
        event.insert("event_type".into(), entry["event_type"].clone());
        for name in entry["extra_fields"].as_array().unwrap() {
            event.insert(name.as_str().unwrap().into(), self.uuid().into());
        }
        let path = entry["partition_key"].as_str().unwrap().trim_matches(['{', '}']);
        let key = match path.strip_prefix("id.") {
            Some(name) => ids[name].clone(),
            None => event[path].clone(),
        };
        event.insert("id".into(), ids.into());
        event.insert("actor".into(), json!({ "type": "system", "id": null }));
        let mut topic = format!("{}.{}", self.prefix, entry["category"].as_str().unwrap());
        let mut key = key.as_str().unwrap().to_owned();
        match self.random.u32(0..20) {
            0 => {
                let meeting = self.uuid();
                event.insert("event_type".into(), "meeting.created".into());
                event.insert("id".into(), json!({ "workspace_id": self.uuid(), "meeting_id": meeting }));
                (topic, key) = (format!("{}.unknown", self.prefix), meeting);
            }
            1 => {
                let record = self.uuid();
                event.insert("event_type".into(), "record.exploded".into());
                event.insert("id".into(), json!({ "record_id": record, "attribute_id": self.uuid() }));
                (topic, key) = (format!("{}.record", self.prefix), record);
            }
            _ => {}
        }
        (Value::from(event).to_string(), Some((topic, key)))
    }

    fn key(&mut self) -> String {
        self.made += 1;
        format!("delivery-{}", self.made)
    }

    fn uuid(&mut self) -> String {
        uuid::Builder::from_random_bytes(self.random.u128(..).to_be_bytes()).into_uuid().to_string()
    }
}

/// The id of an event, by the documented formula.
pub fn event_id(key: &str, index: usize, raw: &[u8]) -> String {
    let digest: String = Sha256::digest(raw).iter().map(|byte| format!("{byte:02x}")).collect();
    Uuid::new_v5(&NAMESPACE, format!("{WEBHOOK}\n{key}\n{index}\n{digest}").as_bytes()).to_string()
}
