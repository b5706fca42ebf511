//! The deliveries of a run, computed from a seed: each can be generated again, byte for byte, to be sent again or
//! compared with the bus, so that none is held in memory.

use std::fmt::Write as _;

use serde_json::Value;

use crate::support::fixtures;
use crate::support::mix::event_id;
use crate::support::request::{Request, SECRET, sign};

/// The kind of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Signed, with so many elements; the one named is no event and belongs in quarantine.
    Good { elements: usize, broken: Option<usize> },
    /// Signed, and not JSON: quarantined whole.
    Garbage,
    /// Signed with another secret.
    Forged,
}

/// One element as it must be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The category of its topic; `quarantine` for what is none.
    pub category: &'static str,
    /// Its partition key; none if it is not documented.
    pub key: Option<String>,
    /// Its bytes.
    pub data: String,
}

/// One type of the catalog.
struct Template {
    event_type: String,
    category: &'static str,
    ids: Vec<String>,
    extra: Vec<String>,
    /// The field that is the partition key.
    key: String,
}

/// All deliveries of one run.
pub struct Plan {
    seed: u64,
    batch: usize,
    templates: Vec<Template>,
    /// Deliveries there are.
    pub deliveries: u32,
    /// Elements that must be stored once everything is acknowledged.
    pub events: u64,
}

/// Precedes the position of an element in its own bytes.
pub const MARK: &str = "\"loss\":\"";

const WEBHOOK: &str = "2c63888f-28f0-4481-be6d-dce7a7ace732";

impl Plan {
    /// As many deliveries as it takes for so many events; batches have at most `batch` of them.
    pub fn new(seed: u64, events: u64, batch: usize) -> Self {
        let catalog = fixtures::json("catalog.json");
        let templates = catalog["events"].as_array().unwrap().iter().map(template).collect();
        let mut plan = Self { seed, batch, templates, deliveries: 0, events: 0 };
        while plan.events < events {
            plan.events += plan.stored(plan.deliveries) as u64;
            plan.deliveries += 1;
        }
        plan
    }

    /// The kind of a delivery.
    pub fn kind(&self, delivery: u32) -> Kind {
        let mut random = self.random(delivery, 0);
        match random.u32(0..100) {
            0..5 => Kind::Forged,
            5..8 => Kind::Garbage,
            8..12 => Kind::Good { elements: 3, broken: Some(random.usize(0..3)) },
            // Larger than one chunk of work of the bridge.
            12 if self.batch > 20 => Kind::Good { elements: 100, broken: None },
            12..40 => Kind::Good { elements: random.usize(2..=self.batch.max(2)), broken: None },
            _ => Kind::Good { elements: 1, broken: None },
        }
    }

    /// Elements of it that must be stored.
    pub fn stored(&self, delivery: u32) -> usize {
        match self.kind(delivery) {
            Kind::Good { elements, .. } => elements,
            Kind::Garbage => 1,
            Kind::Forged => 0,
        }
    }

    /// The request that carries a delivery, the same each time.
    pub fn request(&self, delivery: u32) -> Vec<u8> {
        let body = self.body(delivery);
        let key = key(delivery);
        let request = match self.kind(delivery) {
            Kind::Forged => {
                let signature = match delivery % 3 {
                    0 => "0".repeat(64),
                    1 => sign("another secret, which is not configured", &[body.as_bytes()]),
                    _ => sign(SECRET, &[body.as_bytes(), b" "]),
                };
                Request::unsigned(&body).header("Attio-Signature", signature).header("Idempotency-Key", key)
            }
            _ => Request::keyed(&key, &body),
        };
        request.bytes()
    }

    fn body(&self, delivery: u32) -> String {
        let elements = match self.kind(delivery) {
            Kind::Good { elements, .. } => elements,
            Kind::Forged => 1,
            Kind::Garbage => return self.element(delivery, 0).data,
        };
        let texts: Vec<_> = (0..elements).map(|at| self.element(delivery, at).data).collect();
        format!(r#"{{"webhook_id":"{WEBHOOK}","events":[ {} ]}}"#, texts.join(" ,\n"))
    }

    /// One element; of a forged delivery one that must never be stored.
    pub fn element(&self, delivery: u32, at: usize) -> Expected {
        let position = format!("{MARK}{delivery}.{at}\"");
        let quarantined = |data| Expected { category: "quarantine", key: None, data };
        match self.kind(delivery) {
            Kind::Garbage => return quarantined(format!("{{\"this is no JSON\": {{{position}")),
            Kind::Good { broken: Some(broken), .. } if broken == at => {
                return quarantined(format!("{{\"id\":{{\"record_id\":\"no type\"}},{position}}}"));
            }
            _ => {}
        }
        let mut random = self.random(delivery, 1 + at as u64);
        let template = &self.templates[random.usize(0..self.templates.len())];
        let mut partition_key = String::new();
        let mut data = format!(r#"{{ "event_type":"{}","id":{{"#, template.event_type);
        for (number, name) in template.ids.iter().enumerate() {
            let id = uuid(&mut random);
            let comma = if number > 0 { "," } else { "" };
            let _ = write!(data, r#"{comma}"{name}":"{id}""#);
            if *name == template.key {
                partition_key = id;
            }
        }
        data.push('}');
        for name in &template.extra {
            let id = uuid(&mut random);
            let _ = write!(data, r#","{name}" : "{id}""#);
            if *name == template.key {
                partition_key = id;
            }
        }
        let _ = write!(data, r#","actor":{{"type":"system","id":null}},{position}}}"#);
        Expected { category: template.category, key: Some(partition_key), data }
    }

    /// The CloudEvent's id, by the documented formula.
    pub fn id(delivery: u32, at: usize, data: &str) -> String {
        event_id(&key(delivery), at, data.as_bytes())
    }

    /// The position of an element, from its bytes.
    pub fn position(data: &str) -> Option<(u32, usize)> {
        let (_, after) = data.rsplit_once(MARK)?;
        let (delivery, at) = after.split_once('"')?.0.split_once('.')?;
        Some((delivery.parse().ok()?, at.parse().ok()?))
    }

    /// A random generator for one delivery.
    pub fn random(&self, delivery: u32, what: u64) -> fastrand::Rng {
        // Odd constants, so that neighbours do not have neighbouring seeds.
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (u64::from(delivery) + 1).wrapping_mul(0xd1b5_4a32_d192_ed03)
            ^ (what + 1).wrapping_mul(0x8cb9_2ba7_2f3d_8dd7);
        fastrand::Rng::with_seed(seed)
    }
}

/// The idempotency key of a delivery.
pub fn key(delivery: u32) -> String {
    format!("loss-{delivery}")
}

fn uuid(random: &mut fastrand::Rng) -> String {
    uuid::Builder::from_random_bytes(random.u128(..).to_be_bytes()).into_uuid().to_string()
}

fn template(entry: &Value) -> Template {
    let text = |name: &str| entry[name].as_str().unwrap().to_owned();
    let list = |name: &str| {
        entry[name].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let category = crate::support::consumer::NAMES.into_iter().find(|name| *name == text("category"));
    let key = text("partition_key");
    let key = key.trim_matches(['{', '}']);
    Template {
        event_type: text("event_type"),
        category: category.unwrap(),
        ids: list("id_fields"),
        extra: list("extra_fields"),
        key: key.strip_prefix("id.").unwrap_or(key).to_owned(),
    }
}
