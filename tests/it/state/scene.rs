//! A fake Attio, a real broker, and `state run` between them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use attio_bridge::catalog::{Category, EventType};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::attio::{Attio, KEY};
use crate::support::kafka::Broker;
use crate::support::nats::{Server, Stored};
use crate::support::ports::free_address;
use crate::support::program::{Program, Variables, variables};
use crate::support::scrape::Scrape;
use crate::support::wait::eventually_blocking;
use crate::support::{kafka, nats, unique};

/// How long changes are collected here.
pub const SETTLE: Duration = Duration::from_millis(300);

/// Of a structured event.
pub const MEDIA_TYPE: &str = "application/cloudevents+json; charset=utf-8";

pub enum Bus {
    Kafka(Arc<Broker>),
    Nats(Arc<Server>),
}

pub struct Scene {
    pub attio: Attio,
    pub bus: Bus,
    /// Of the events; that of the states is this and `-state`, which is also the group.
    pub prefix: String,
    pub variables: Variables,
    pub listen: String,
    /// The workspace of the events.
    pub workspace: String,
    /// How far the clock of the bridge is ahead of Attio's.
    pub ahead: Duration,
}

/// A state topic's record: its key, its event, none for a tombstone, and its headers.
#[derive(Clone, Debug)]
pub struct Kept {
    pub key: String,
    pub event: Option<Value>,
    pub headers: BTreeMap<String, String>,
}

impl Kept {
    pub fn time(&self) -> &str {
        self.event.as_ref().and_then(|event| event["time"].as_str()).expect("a value")
    }
}

impl Scene {
    pub fn kafka() -> Self {
        Self::on_kafka(kafka::shared())
    }

    pub fn on_kafka(broker: Arc<Broker>) -> Self {
        let own = variables(&[
            ("BUS__TYPE", "kafka"),
            ("KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap()),
            ("KAFKA__TOPICS__ENSURE", "create"),
            ("KAFKA__TOPICS__PARTITIONS", "3"),
        ]);
        let scene = Self::new(Bus::Kafka(broker), own);
        for kind in ["record", "list-entry"] {
            let Bus::Kafka(broker) = &scene.bus else { unreachable!() };
            broker.create_topic(&format!("{}.{kind}", scene.prefix), 3, &[]);
        }
        scene
    }

    pub fn nats() -> Self {
        Self::on_nats(nats::shared())
    }

    pub fn on_nats(server: Arc<Server>) -> Self {
        let stream = unique("EVENTS").replace('.', "-");
        let own = variables(&[
            ("BUS__TYPE", "nats"),
            ("NATS__SERVERS", &server.url()),
            ("NATS__STREAM__NAME", &stream),
            ("NATS__STREAM__ENSURE", "create"),
            ("STATE__STREAM", &format!("{stream}-STATE")),
        ]);
        let scene = Self::new(Bus::Nats(Arc::clone(&server)), own);
        server.create_stream(&stream, &[&format!("{}.>", scene.prefix)], |_| {});
        scene
    }

    pub fn both() -> [Self; 2] {
        [Self::kafka(), Self::nats()]
    }

    fn new(bus: Bus, own: Variables) -> Self {
        let (attio, prefix, listen) = (Attio::start(), unique("states").replace('.', "-"), free_address());
        let mut all = variables(&[
            ("ROUTE__PREFIX", &prefix),
            ("STATE__PREFIX", &format!("{prefix}-state")),
            ("STATE__GROUP", &format!("{prefix}-state")),
            ("STATE__SETTLE", &format!("{}ms", SETTLE.as_millis())),
            ("STATE__LISTEN", &listen),
            ("ATTIO__API_URL", &attio.url()),
            ("LOG__FORMAT", "json"),
        ]);
        all.push(("ATTIO_API_KEY".into(), KEY.into()));
        all.extend(own);
        let workspace = attio.store().workspace_id.clone();
        Self { attio, bus, prefix, variables: all, listen, workspace, ahead: Duration::ZERO }
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.extend(variables(&[(name, value)]));
    }

    /// Starts `state run`, and waits until it follows.
    pub fn run(&self) -> Program {
        let program = self.start();
        eventually_blocking("state run is ready", || self.get("/readyz").starts_with("HTTP/1.1 200"));
        program
    }

    pub fn start(&self) -> Program {
        Program::start(&["state", "run"], &self.variables)
    }

    /// The answer of its listener, as it came; empty while it does not listen.
    pub fn get(&self, path: &str) -> String {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(&self.listen) {
            let _ = write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let _ = stream.read_to_string(&mut answer);
        }
        answer
    }

    pub fn metrics(&self) -> Scrape {
        let answer = self.get("/metrics");
        let (_, text) = answer.split_once("\r\n\r\n").expect("an answer with a body");
        Scrape::parse(text)
    }

    pub fn object(&self) -> String {
        self.attio.store().objects.iter().find(|object| object.slug == "people").unwrap().id.clone()
    }

    pub fn person(&self, name: &str) -> String {
        self.attio
            .store()
            .create_record("people", BTreeMap::from([("name".to_owned(), json!(name))]))
            .unwrap()
    }

    pub fn rename(&self, id: &str, name: &str) {
        self.attio.store().set(id, "name", json!(name)).unwrap();
    }

    /// Publishes an event of a record as the bridge does.
    pub fn tell(&self, event_type: &str, record: &str) {
        self.tell_more(event_type, record, json!({}));
    }

    /// The same with more members.
    pub fn tell_more(&self, event_type: &str, record: &str, more: Value) {
        self.publish(event_type, record, &self.data(event_type, record, more));
    }

    fn data(&self, event_type: &str, record: &str, more: Value) -> Value {
        let mut data = json!({
            "event_type": event_type,
            "id": { "workspace_id": self.workspace, "object_id": self.object(), "record_id": record, "attribute_id": "a" },
        });
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        data
    }

    /// The address and the text of an event of a record.
    pub fn event(&self, event_type: &str, record: &str) -> (String, String) {
        self.encode(event_type, record, &self.data(event_type, record, json!({})))
    }

    fn encode(&self, event_type: &str, key: &str, data: &Value) -> (String, String) {
        let known = EventType::find(event_type).unwrap();
        let now = (OffsetDateTime::now_utc() + self.ahead).format(&Rfc3339).unwrap();
        let event = json!({
            "specversion": "1.0", "id": unique("event"), "source": format!("https://attio.com/workspaces/{}", self.workspace),
            "type": format!("com.attio.{event_type}"), "time": now, "recordedtime": now, "partitionkey": key,
            "datacontenttype": "application/json", "data": data,
        });
        (format!("{}.{}", self.prefix, known.category.as_str()), event.to_string())
    }

    pub fn publish(&self, event_type: &str, key: &str, data: &Value) {
        let (address, event) = self.encode(event_type, key, data);
        match &self.bus {
            Bus::Kafka(broker) => {
                let headers = [("content-type", Some(MEDIA_TYPE.as_bytes()))];
                broker.publish(&address, Some(key), &headers, Some(event.as_bytes()));
            }
            Bus::Nats(server) => {
                let subject = format!("{address}.{}", EventType::find(event_type).unwrap().action);
                server.publish(&subject, &[("Content-Type", MEDIA_TYPE)], &event);
            }
        }
    }

    /// Publishes an event of a list's entry.
    pub fn tell_entry(&self, event_type: &str, list: &str, entry: &str) {
        let id = json!({ "workspace_id": self.workspace, "list_id": list, "entry_id": entry });
        self.publish(event_type, entry, &json!({ "event_type": event_type, "id": id }));
    }

    /// How many events became this.
    pub fn events(&self, kind: &str, result: &str) -> f64 {
        self.metrics().get("state_events_total", &[("kind", kind), ("result", result)])
    }

    /// The name of the stream with the states.
    pub fn stream(&self) -> &str {
        let stream = self.variables.iter().find(|(name, _)| name.ends_with("STATE__STREAM"));
        &stream.expect("it is on NATS").1
    }

    /// Everything in the topic or the stream with the states of records, in order.
    pub fn kept(&self) -> Vec<Kept> {
        self.kept_of(Category::Record)
    }

    /// The same with the states of that category's entities.
    pub fn kept_of(&self, category: Category) -> Vec<Kept> {
        let parse = |value: &[u8]| serde_json::from_slice(value).ok();
        match &self.bus {
            Bus::Kafka(broker) => {
                let topic = format!("{}-state.{category}", self.prefix);
                if broker.partitions(&topic).is_none() {
                    return Vec::new();
                }
                let text =
                    |bytes: &Option<Vec<u8>>| String::from_utf8(bytes.clone().unwrap_or_default()).unwrap();
                let kept = broker.read_all(&topic).into_iter().map(|record| Kept {
                    key: record.key().to_owned(),
                    headers: record.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
                    event: record.value.as_deref().and_then(parse),
                });
                kept.collect()
            }
            Bus::Nats(server) => {
                let stream = self.variables.iter().find(|(name, _)| name.ends_with("STATE__STREAM")).unwrap();
                let subjects = format!("{}-state.{category}.", self.prefix);
                let all = server.read_all(&stream.1).into_iter();
                let kept = all.filter(|stored| stored.subject.starts_with(&subjects)).map(
                    |Stored { subject, headers, payload }| Kept {
                        key: subject[subjects.len()..].to_owned(),
                        headers,
                        event: parse(&payload),
                    },
                );
                kept.collect()
            }
        }
    }

    /// What is kept of an entity last.
    pub fn last(&self, id: &str) -> Option<Kept> {
        self.kept().into_iter().rfind(|kept| kept.key == id)
    }

    pub fn eventually_named(&self, id: &str, name: &str) -> Kept {
        let mut found = None;
        eventually_blocking("the state has the name", || {
            found = self.last(id).filter(|kept| {
                kept.event.as_ref().is_some_and(|event| event["data"]["values"].to_string().contains(name))
            });
            found.is_some()
        });
        found.unwrap()
    }

    pub fn eventually_gone(&self, id: &str) -> Kept {
        eventually_blocking("a tombstone", || self.last(id).is_some_and(|kept| kept.event.is_none()));
        self.last(id).unwrap()
    }

    /// Waits until every event is done.
    pub fn eventually_done(&self) {
        eventually_blocking("every event is done", || match &self.bus {
            Bus::Kafka(broker) => {
                let topics: Vec<_> =
                    ["record", "list-entry"].map(|kind| format!("{}.{kind}", self.prefix)).into();
                let ends = broker.ends(&topics);
                broker.committed(&format!("{}-state", self.prefix), ends.keys()) == ends
            }
            Bus::Nats(_) => self.metrics().get("state_backlog", &[]) == 0.0,
        });
    }
}
