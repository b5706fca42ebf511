//! The events that consumers must read, and the comparison with those that they read.
//!
//! [`Rules`] are those of the README's table, written a second time on purpose, without the pipeline's code.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::delivery::ExpectedEvent;
use super::events::{Actor, EventGenerator, GeneratedEvent, GuideEvent};
use super::reading::{ReadEvent, data};
use super::{PREFIX, SOURCE};
use crate::cloudevent::decode::DecodedEvent;

/// The documented namespace of ids.
const NAMESPACE: Uuid = uuid::uuid!("82aa3251-fb12-5533-8215-e473197ca642");

/// Ids that are remembered after they were read, to detect duplicates.
const REMEMBERED: usize = 50_000;

/// The rules for the events of one workspace.
pub struct Rules {
    source: String,
    webhook_id: String,
}

impl Rules {
    /// For a workspace whose id is also in the bridge's configuration.
    pub fn new(events: &EventGenerator) -> Self {
        let source = format!("https://attio.com/workspaces/{}", events.workspace_id);
        Self { source, webhook_id: events.webhook_id.clone() }
    }

    /// An event at an index in Attio's envelope.
    pub fn event(&self, event: &GeneratedEvent, key: &str, index: usize) -> ExpectedEvent {
        let webhook_id = Some(self.webhook_id.as_str());
        self.known(event, Some(id(webhook_id, key, index, &event.json)), webhook_id, Some(key))
    }

    /// An event without an envelope.
    pub fn bare_event(&self, event: &GeneratedEvent, key: &str) -> ExpectedEvent {
        self.known(event, Some(id(None, key, 0, &event.json)), None, Some(key))
    }

    /// An event in the guide's form.
    pub fn guide_event(&self, guide: &GuideEvent) -> ExpectedEvent {
        let mut expected = self.known(&guide.event, Some(guide.event_id.clone()), None, None);
        expected.attributes.insert("time", Some(guide.created_at.clone()));
        expected
    }

    fn known(
        &self,
        event: &GeneratedEvent,
        id: Option<String>,
        webhook_id: Option<&str>,
        key: Option<&str>,
    ) -> ExpectedEvent {
        let mut attributes = self.common(event.name, webhook_id, key);
        attributes.insert("subject", Some(event.subject.clone()));
        attributes.insert("partitionkey", Some(event.entity.clone()));
        attributes.insert("authtype", Some(auth_type(&event.actor).into()));
        attributes.insert("authid", event.actor.id.clone());
        let topic = format!("{PREFIX}.{}", event.category);
        ExpectedEvent { topic, id, attributes, data: Bytes::from(event.json.clone()) }
    }

    /// An event of a type that the catalog does not have, without an actor.
    pub fn unknown(&self, name: &str, category: &str, entity: &str, json: &str, key: &str) -> ExpectedEvent {
        let webhook_id = Some(self.webhook_id.as_str());
        let mut attributes = self.common(name, webhook_id, Some(key));
        attributes.insert("partitionkey", Some(entity.into()));
        attributes.extend(["subject", "authtype", "authid"].map(|name| (name, None)));
        let id = Some(id(webhook_id, key, 0, json));
        ExpectedEvent {
            topic: format!("{PREFIX}.{category}"),
            id,
            attributes,
            data: Bytes::from(json.to_owned()),
        }
    }

    /// A quarantined delivery, or one quarantined element of a delivery. Its id is not documented.
    pub fn quarantined(&self, raw: &str, reason: &str, key: &str, element: Option<usize>) -> ExpectedEvent {
        let absent = ["subject", "authtype", "authid"].map(|name| (name, None));
        let mut attributes = BTreeMap::from(absent);
        attributes.insert("attiowebhookid", element.map(|_| self.webhook_id.clone()));
        attributes.insert("attioindex", element.map(|index| index.to_string()));
        attributes.insert("attiosource", Some(SOURCE.into()));
        attributes.insert("type", Some("dev.attio-bridge.delivery.quarantined".into()));
        attributes.insert("source", Some(self.source.clone()));
        attributes.insert("reason", Some(reason.into()));
        attributes.insert("correlationid", Some(key.into()));
        let data = Bytes::from(raw.to_owned());
        ExpectedEvent { topic: format!("{PREFIX}.quarantine"), id: None, attributes, data }
    }

    fn common(
        &self,
        name: &str,
        webhook_id: Option<&str>,
        key: Option<&str>,
    ) -> BTreeMap<&'static str, Option<String>> {
        BTreeMap::from([
            ("specversion", Some("1.0".into())),
            ("source", Some(self.source.clone())),
            ("type", Some(format!("com.attio.{name}"))),
            ("datacontenttype", Some("application/json".into())),
            ("attiowebhookid", webhook_id.map(str::to_owned)),
            ("correlationid", key.map(str::to_owned)),
            ("reason", None),
        ])
    }
}

/// UUID version 5 over `<webhook_id>\n<Idempotency-Key>\n<index>\n<hex SHA-256 of the bytes>`.
fn id(webhook_id: Option<&str>, key: &str, index: usize, json: &str) -> String {
    let name =
        format!("{}\n{key}\n{index}\n{}", webhook_id.unwrap_or(""), HEXLOWER.encode(&Sha256::digest(json)));
    Uuid::new_v5(&NAMESPACE, name.as_bytes()).to_string()
}

fn auth_type(actor: &Actor) -> &'static str {
    match actor.kind {
        "workspace-member" => "app_user",
        "api-token" => "api_key",
        "app" => "service_account",
        "system" => "system",
        _ => "unknown",
    }
}

/// Events that must be read, and events that were.
#[derive(Default)]
pub struct ExpectedEvents {
    /// On a shared broker: the CloudEvents source of our events.
    source: Option<String>,
    /// Events to be read with the number of their delivery, in the order of sending.
    open: BTreeMap<u64, (u64, ExpectedEvent)>,
    by_id: HashMap<String, u64>,
    next: u64,
    /// The delivery of each remembered id.
    read: HashMap<String, u64>,
    order: VecDeque<String>,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// An expected event.
    Expected,
    /// An event that was read before.
    Duplicate,
    /// An event of our workspace that this run did not send.
    NotSent,
    /// Not a CloudEvent.
    Unreadable,
    /// From another publisher on a shared broker.
    Foreign,
}

/// What a message is, and how it differs from what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub found: Found,
    /// The delivery that it belongs to.
    pub delivery: Option<u64>,
    /// Differences from what was expected.
    pub differences: Vec<String>,
}

impl Finding {
    fn new(found: Found, delivery: Option<u64>, differences: impl IntoIterator<Item = String>) -> Self {
        Self { found, delivery, differences: differences.into_iter().collect() }
    }
}

impl ExpectedEvents {
    /// For a shared broker: messages with another CloudEvents source are ignored.
    pub fn of_source(source: String) -> Self {
        Self { source: Some(source), ..Self::default() }
    }

    /// Adds the events of a delivery that is about to be sent.
    pub fn add(&mut self, delivery: u64, events: &[ExpectedEvent]) {
        for expected in events {
            if let Some(id) = &expected.id {
                self.by_id.insert(id.clone(), self.next);
            }
            self.open.insert(self.next, (delivery, expected.clone()));
            self.next += 1;
        }
    }

    /// Compares a message that was read.
    pub fn read(&mut self, read: &ReadEvent) -> Finding {
        let position = format!("{}[{}]@{}", read.topic, read.partition, read.offset);
        let event = match &read.event {
            Ok(event) => event,
            Err(_) if self.source.is_some() => return Finding::new(Found::Foreign, None, None),
            Err(error) => return Finding::new(Found::Unreadable, None, Some(format!("{position}: {error}"))),
        };
        if self.source.is_some() && event.get("source") != self.source.as_deref() {
            return Finding::new(Found::Foreign, None, None);
        }
        let id = event.get("id").unwrap_or_default().to_owned();
        if let Some(delivery) = self.read.get(&id) {
            let difference = format!("{position}: {id} was read before");
            return Finding::new(Found::Duplicate, Some(*delivery), Some(difference));
        }
        let Some(slot) = self.by_id.remove(&id).or_else(|| self.by_data(event)) else {
            let kind = event.get("type").unwrap_or("(no type)");
            return Finding::new(Found::NotSent, None, Some(format!("{position}: {kind} {id} was not sent")));
        };
        let (delivery, expected) = self.open.remove(&slot).expect("the index holds open events only");
        if let Some(id) = &expected.id {
            self.by_id.remove(id);
        }
        self.remember(id, delivery);
        Finding::new(Found::Expected, Some(delivery), differences(&expected, read, event))
    }

    /// Events that have not been read, with their deliveries.
    pub fn open(&self) -> impl Iterator<Item = (u64, &ExpectedEvent)> {
        self.open.values().map(|(delivery, expected)| (*delivery, expected))
    }

    /// Finds an event whose id is not known in advance, or is wrong.
    fn by_data(&self, event: &DecodedEvent) -> Option<u64> {
        let key = event.get("correlationid");
        let matches = |expected: &ExpectedEvent| {
            expected.data == data(event) && expected.attributes["correlationid"].as_deref() == key
        };
        self.open.iter().find(|(_, (_, expected))| matches(expected)).map(|(slot, _)| *slot)
    }

    fn remember(&mut self, id: String, delivery: u64) {
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.read.remove(&oldest);
        }
        self.order.push_back(id.clone());
        self.read.insert(id, delivery);
    }
}

fn differences(expected: &ExpectedEvent, read: &ReadEvent, event: &DecodedEvent) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |name: &str, expected: Option<&str>, got: Option<&str>| {
        if expected != got {
            let shown = |value: Option<&str>| value.map_or("absent".into(), |text| format!("{text:?}"));
            found.push(format!("{name} is {}, expected {}", shown(got), shown(expected)));
        }
    };
    compare("topic", Some(&expected.topic), Some(&read.topic));
    if expected.id.is_some() {
        compare("id", expected.id.as_deref(), event.get("id"));
    }
    for (name, value) in &expected.attributes {
        compare(name, value.as_deref(), event.get(name));
    }
    compare("key", event.get("partitionkey"), Some(read.key_text()));
    if expected.data != data(event) {
        found.push(data_difference(&expected.data, data(event)));
    }
    found
}

/// Where the data begins to differ, with an excerpt of both.
fn data_difference(expected: &[u8], got: &[u8]) -> String {
    const SHOWN: usize = 20;
    let at = expected.iter().zip(got).take_while(|(expected, got)| expected == got).count();
    let shown = |data: &[u8]| String::from_utf8_lossy(&data[at..data.len().min(at + SHOWN)]).into_owned();
    format!("data is {:?} from byte {at} on, expected {:?}", shown(got), shown(expected))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::try_out::delivery::Delivery;
    use crate::try_out::events::EventGenerator;
    use crate::try_out::mix::Mix;

    /// A delivery of three events, and what a consumer reads if all goes well.
    fn delivery() -> (Delivery, Vec<ReadEvent>) {
        let mut mix = Mix::new(EventGenerator::new(), "0123456789abcdef".into(), &[]);
        let delivery =
            std::iter::repeat_with(|| mix.next_delivery()).find(|delivery| delivery.events.len() == 3);
        let delivery = delivery.expect("the mix has a batch");
        let read = delivery.events.iter().map(|expected| read_back(expected, &[], &expected.data)).collect();
        (delivery, read)
    }

    /// The event with changed attributes and data.
    fn read_back(expected: &ExpectedEvent, changes: &[(&str, &str)], data: &[u8]) -> ReadEvent {
        let given = expected.attributes.iter().map(|(name, value)| (*name, value.as_deref()));
        let attributes: BTreeMap<&str, Option<&str>> = given
            .chain([("id", expected.id.as_deref())])
            .chain(changes.iter().map(|(n, v)| (*n, Some(*v))))
            .collect();
        let attributes = attributes.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let attributes: String = attributes
            .map(|(name, value)| format!("{}:{},", Value::from(name), Value::from(value)))
            .collect();
        let json = format!("{{{attributes}\"data\":{}}}", String::from_utf8_lossy(data));
        ReadEvent {
            topic: expected.topic.clone(),
            partition: 0,
            offset: 0,
            key: expected.attributes["partitionkey"].clone().map(Into::into),
            event: DecodedEvent::from_json(json.as_bytes()),
        }
    }

    fn compare(read: &[ReadEvent], delivery: &Delivery) -> (Vec<String>, usize) {
        let mut expected = ExpectedEvents::default();
        expected.add(7, &delivery.events);
        let found = read.iter().flat_map(|read| expected.read(read).differences).collect();
        (found, expected.open().count())
    }

    #[test]
    fn expected_events_in_any_order_have_no_differences() {
        let (delivery, mut read) = delivery();
        read.reverse();
        assert_eq!(compare(&read, &delivery), (Vec::new(), 0));
    }

    #[test]
    fn missing_event_stays_open() {
        let (delivery, read) = delivery();
        assert_eq!(compare(&read[1..], &delivery), (Vec::new(), 1));
    }

    #[test]
    fn duplicate_is_a_difference() {
        let (delivery, mut read) = delivery();
        read.push(read[0].clone());
        let (found, open) = compare(&read, &delivery);
        assert_eq!((found.len(), open), (1, 0));
        assert!(found[0].contains("was read before"), "{found:?}");
    }

    #[test]
    fn event_that_was_not_sent_is_a_difference() {
        let (delivery, mut read) = delivery();
        read.push(self::delivery().1[0].clone());
        let (found, open) = compare(&read, &delivery);
        assert_eq!((found.len(), open), (1, 0));
        assert!(found[0].contains("was not sent"), "{found:?}");
    }

    #[test]
    fn every_change_is_a_difference() {
        let (delivery, read) = delivery();
        let expected = &delivery.events[1];
        let change = |name: &str| read_back(expected, &[(name, "another")], &expected.data);
        let longer = [&expected.data[..expected.data.len() - 1], b" }"].concat();
        let table = [
            ("data", read_back(expected, &[], &longer)),
            ("topic", ReadEvent { topic: "attio.else".into(), ..read[1].clone() }),
            ("key", ReadEvent { key: None, ..read[1].clone() }),
            ("id", change("id")),
            ("subject", change("subject")),
            ("type", change("type")),
            ("reason", change("reason")),
        ];
        for (name, changed) in table {
            let (found, open) = compare(&[read[0].clone(), changed, read[2].clone()], &delivery);
            assert_eq!((found.len(), open), (1, 0), "{name}: {found:?}");
            assert!(found[0].starts_with(&format!("{name} is ")), "{found:?}");
        }
    }

    #[test]
    fn events_of_others_are_ignored_on_a_shared_broker() {
        let (delivery, read) = delivery();
        let source = delivery.events[0].attributes["source"].clone().unwrap();
        let mut expected = ExpectedEvents::of_source(source);
        expected.add(7, &delivery.events);
        assert_eq!(expected.read(&self::delivery().1[0]).found, Found::Foreign);
        assert_eq!(expected.read(&read[0]).found, Found::Expected);
    }

    #[test]
    fn message_that_is_not_a_cloudevent_is_a_difference() {
        let (delivery, mut read) = delivery();
        read[0].event = DecodedEvent::from_json(b"[]");
        let (found, open) = compare(&read, &delivery);
        assert_eq!((found.len(), open), (1, 1));
    }
}
