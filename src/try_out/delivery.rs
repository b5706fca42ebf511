//! A delivery of the mix with its expected and its actual result. Its events are compared with those that are read.
//!
//! An event is recognised by its data and its delivery's key. What the bridge adds to it, such as its id, is tested by
//! `tests/it/events.rs` and `tests/it/identity.rs`.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::broker::{ReadEvent, data};
use crate::cloudevent::decode::DecodedEvent;
use crate::named_enum::named_enum;
use crate::signing::{Payload, SignedRequest};

#[derive(Clone, Debug)]
pub struct Delivery {
    pub group: Group,
    pub label: String,
    pub sender: Sender,
    pub answer: Answer,
    /// The events that consumers must read, each exactly once.
    pub events: Vec<ExpectedEvent>,
}

named_enum! {
    /// What a delivery tries out: a value of `--mix`, and a line of the summary.
    #[derive(ValueEnum)]
    pub enum Group,
    name {
        /// One event in Attio's envelope
        One = "one event",
        /// Several events in one delivery
        Batch = "several events",
        /// One event in the single-event form, with a timestamped signature
        Timestamped = "timestamped",
        /// Unknown types, a bare event, unusual JSON, no events
        Unusual = "unusual but valid",
        /// A delivery that was sent before
        Repeat = "repeated",
        /// What cannot be an event, and is quarantined
        Broken = "broken",
        /// Forged signatures
        Forged = "forged",
    }
}

#[derive(Clone, Debug)]
pub enum Sender {
    /// The fake Attio, which signs it and retries it.
    Attio(Payload),
    /// A forger, once.
    Forger(SignedRequest),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// `reason` in the body.
    pub reason: String,
    /// The counts in the body of a 200.
    pub counts: Option<Counts>,
}

/// The events of a delivery by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub events: u64,
    /// Published now.
    pub published: u64,
    /// Published before.
    pub duplicates: u64,
    pub filtered: u64,
    pub quarantined: u64,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.events += other.events;
        self.published += other.published;
        self.duplicates += other.duplicates;
        self.filtered += other.filtered;
        self.quarantined += other.quarantined;
    }
}

#[derive(Clone, Debug)]
pub struct Answered {
    pub answer: Answer,
    /// From before the request to after the last byte.
    pub took: Duration,
}

impl Answer {
    /// 200 with these counts; the reason follows from them.
    pub fn ok(counts: Counts) -> Self {
        let reason = match counts {
            Counts { published: 1.., .. } => "accepted",
            Counts { quarantined: 1.., .. } => "quarantined",
            Counts { duplicates: 1.., .. } => "duplicate",
            Counts { filtered: 1.., .. } => "filtered",
            _ => "empty",
        };
        Self { status: 200, reason: reason.into(), counts: Some(counts) }
    }

    pub fn unauthorized() -> Self {
        Self { status: 401, reason: "unauthorized".into(), counts: None }
    }

    pub fn read(status: u16, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default)]
            reason: String,
            #[serde(flatten)]
            counts: Option<Counts>,
        }
        match serde_json::from_slice(body) {
            Ok(Body { reason, counts }) => Self { status, reason, counts },
            Err(error) => Self { status, reason: format!("(unreadable answer: {error})"), counts: None },
        }
    }

    /// Whether it is the expected one. After failed attempts (`retried`) some events may be duplicates that
    /// those attempts published.
    pub fn matches(&self, expected: &Self, retried: bool) -> bool {
        let merged = |counts: Counts| Counts {
            published: 0,
            duplicates: counts.published + counts.duplicates,
            ..counts
        };
        let merged = |answer: &Self| (answer.status, answer.counts.map(merged));
        self == expected || retried && merged(self) == merged(expected)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedEvent {
    pub topic: String,
    /// The CloudEvents `type`.
    pub event_type: String,
    /// Why it is quarantined, if it is.
    pub reason: Option<&'static str>,
    /// The `Idempotency-Key` of its delivery: the CloudEvents `correlationid`.
    pub key: Option<String>,
    /// The data, byte for byte.
    pub data: Bytes,
}

/// Such as `200 accepted (3 events: 2 published, 1 quarantined)`.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)?;
        let Some(Counts { events, published, duplicates, filtered, quarantined }) = self.counts else {
            return Ok(());
        };
        let results = [
            (published, "published"),
            (duplicates, "duplicate"),
            (filtered, "filtered"),
            (quarantined, "quarantined"),
        ];
        let results = results.into_iter().filter(|(count, _)| *count > 0);
        let results: Vec<String> = results.map(|(count, result)| format!("{count} {result}")).collect();
        let colon = if results.is_empty() { "" } else { ": " };
        write!(f, " ({events} event{}{colon}{})", if events == 1 { "" } else { "s" }, results.join(", "))
    }
}

#[derive(Debug)]
pub struct Report {
    pub number: u64,
    /// When it was sent; after a retry, when the last attempt ended.
    pub at: OffsetDateTime,
    pub delivery: Delivery,
    /// The answer, or why there is none.
    pub answered: Result<Answered, String>,
    pub attempts: u32,
    pub read: Vec<ReadEvent>,
    pub differences: Vec<String>,
    /// When the last attempt ended; none while more may follow.
    pub ended: Option<Instant>,
}

impl Report {
    pub fn new(number: u64, delivery: Delivery) -> Self {
        Self {
            number,
            at: OffsetDateTime::now_utc(),
            delivery,
            answered: Err("not delivered, the webhook is deleted or inactive".to_owned()),
            attempts: 0,
            read: Vec::new(),
            differences: Vec::new(),
            ended: None,
        }
    }

    /// Whether it has ended, and its events were read or have been awaited for `patience`.
    pub fn is_complete(&self, patience: Duration) -> bool {
        self.ended.is_some_and(|ended| self.missing() == 0 || ended.elapsed() >= patience)
    }

    pub fn missing(&self) -> usize {
        self.delivery.events.len().saturating_sub(self.read.len())
    }

    pub fn is_answered_as_expected(&self) -> bool {
        self.answered.as_ref().is_ok_and(|got| got.answer.matches(&self.delivery.answer, self.attempts > 1))
    }

    pub fn answer_text(&self) -> String {
        self.answered.as_ref().map_or_else(Clone::clone, |got| got.answer.to_string())
    }

    /// Adds a difference, and returns it with the delivery's number and label.
    pub fn differ(&mut self, difference: String) -> String {
        let named = format!("#{} {}: {difference}", self.number, self.delivery.label);
        self.differences.push(difference);
        named
    }
}

const REMEMBERED: usize = 50_000;

/// Events that must be read, and events that were.
#[derive(Default)]
pub struct ExpectedEvents {
    /// On a shared broker: the CloudEvents source of our events.
    source: Option<String>,
    /// Events to be read, by key and data, with the number of their delivery.
    open: HashMap<(Option<String>, Bytes), (u64, ExpectedEvent)>,
    /// The delivery of each remembered id.
    read: HashMap<String, u64>,
    order: VecDeque<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Expected,
    Duplicate,
    /// An event of our workspace that this run did not send.
    NotSent,
    Unreadable,
    /// From another publisher on a shared broker.
    Foreign,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub found: Found,
    pub delivery: Option<u64>,
    pub differences: Vec<String>,
}

impl ExpectedEvents {
    /// For a shared broker: messages with another CloudEvents source are ignored.
    pub fn of_source(source: String) -> Self {
        Self { source: Some(source), ..Self::default() }
    }

    pub fn add(&mut self, delivery: u64, events: &[ExpectedEvent]) {
        let slot =
            |event: &ExpectedEvent| ((event.key.clone(), event.data.clone()), (delivery, event.clone()));
        self.open.extend(events.iter().map(slot));
    }

    pub fn read(&mut self, read: &ReadEvent) -> Finding {
        let finding = |found, delivery, difference: Option<String>| Finding {
            found,
            delivery,
            differences: difference.into_iter().collect(),
        };
        let position = format!("{}[{}]@{}", read.address, read.partition, read.offset);
        let event = match &read.event {
            Ok(event) => event,
            Err(_) if self.source.is_some() => return finding(Found::Foreign, None, None),
            Err(error) => return finding(Found::Unreadable, None, Some(format!("{position}: {error}"))),
        };
        if self.source.is_some() && event.get("source") != self.source.as_deref() {
            return finding(Found::Foreign, None, None);
        }
        let id = event.get("id").unwrap_or_default();
        if let Some(delivery) = self.read.get(id) {
            let difference = format!("{position}: {id} was read before");
            return finding(Found::Duplicate, Some(*delivery), Some(difference));
        }
        let slot = (event.get("correlationid").map(str::to_owned), data(event).clone());
        let Some((delivery, expected)) = self.open.remove(&slot) else {
            let kind = event.get("type").unwrap_or("(no type)");
            return finding(Found::NotSent, None, Some(format!("{position}: {kind} {id} was not sent")));
        };
        self.remember(id.to_owned(), delivery);
        Finding {
            found: Found::Expected,
            delivery: Some(delivery),
            differences: differences(&expected, read, event),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Events that have not been read, with their deliveries, in the order of sending.
    pub fn open(&self) -> Vec<&(u64, ExpectedEvent)> {
        let mut open: Vec<_> = self.open.values().collect();
        open.sort_by_key(|(delivery, _)| *delivery);
        open
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
    let table = [
        ("topic", Some(expected.topic.as_str()), Some(read.topic())),
        ("type", Some(expected.event_type.as_str()), event.get("type")),
        ("reason", expected.reason, event.get("reason")),
        ("specversion", Some("1.0"), event.get("specversion")),
        ("key", event.get("partitionkey"), Some(read.key_text())),
    ];
    let shown = |value: Option<&str>| value.map_or("absent".into(), |text| format!("{text:?}"));
    let wrong = table.into_iter().filter(|(_, expected, got)| expected != got);
    wrong
        .map(|(name, expected, got)| format!("{name} is {}, expected {}", shown(got), shown(expected)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(name: &str) -> ExpectedEvent {
        let data = format!("{{\"is\":\"{name}\"}}");
        ExpectedEvent {
            topic: "attio.task".into(),
            event_type: "com.attio.task.created".into(),
            reason: None,
            key: Some("key".into()),
            data: data.into(),
        }
    }

    /// What a consumer reads if all goes well, with changed attributes.
    fn read_back(event: &ExpectedEvent, id: &str, changes: &[(&str, &str)]) -> ReadEvent {
        let mut attributes = vec![
            ("specversion", "1.0"),
            ("id", id),
            ("source", "ours"),
            ("type", &event.event_type),
            ("correlationid", "key"),
            ("partitionkey", "entity"),
        ];
        attributes.retain(|(name, _)| changes.iter().all(|(changed, _)| name != changed));
        attributes.extend(changes);
        let attributes: String =
            attributes.iter().map(|(name, value)| format!("\"{name}\":\"{value}\",")).collect();
        let json = format!("{{{attributes}\"data\":{}}}", String::from_utf8_lossy(&event.data));
        ReadEvent {
            address: event.topic.clone(),
            partition: 0,
            offset: 0,
            key: Some("entity".into()),
            event: DecodedEvent::from_json(json.as_bytes()),
        }
    }

    fn compare(read: &[ReadEvent]) -> (Vec<String>, usize) {
        let mut events = ExpectedEvents::default();
        events.add(7, &[expected("one"), expected("two")]);
        let found = read.iter().flat_map(|read| events.read(read).differences).collect();
        (found, events.open().len())
    }

    #[test]
    fn expected_events_in_any_order_have_no_differences_and_a_missing_one_stays_open() {
        let (one, two) = (read_back(&expected("one"), "1", &[]), read_back(&expected("two"), "2", &[]));
        assert_eq!(compare(&[two.clone(), one]), (Vec::new(), 0));
        assert_eq!(compare(&[two]), (Vec::new(), 1));
    }

    #[test]
    fn every_change_is_a_difference() {
        let change = |name| read_back(&expected("one"), "1", &[(name, "another")]);
        let good = read_back(&expected("one"), "1", &[]);
        let table = [
            (vec![good.clone(), good.clone()], "was read before"),
            (vec![good.clone(), read_back(&expected("three"), "3", &[])], "was not sent"),
            (vec![ReadEvent { address: "attio.else".into(), ..good.clone() }], "topic is"),
            (vec![ReadEvent { key: None, ..good.clone() }], "key is"),
            (vec![ReadEvent { event: DecodedEvent::from_json(b"[]"), ..good }], "not a CloudEvent"),
            (vec![change("type")], "type is"),
            (vec![change("reason")], "reason is"),
            (vec![change("correlationid")], "was not sent"),
        ];
        for (read, difference) in table {
            let (found, _) = compare(&read);
            assert!(found.len() == 1 && found[0].contains(difference), "{difference}: {found:?}");
        }
    }

    #[test]
    fn events_of_others_are_ignored_on_a_shared_broker() {
        let mut events = ExpectedEvents::of_source("ours".into());
        events.add(7, &[expected("one")]);
        let foreign = read_back(&expected("one"), "1", &[("source", "theirs")]);
        assert_eq!(events.read(&foreign).found, Found::Foreign);
        assert_eq!(events.read(&read_back(&expected("one"), "1", &[])).found, Found::Expected);
    }
}
