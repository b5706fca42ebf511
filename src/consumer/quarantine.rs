//! The quarantine: what a record says, and reading it in bounded memory: first every entry without its body, then
//! bodies in batches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use crate::bus::read::{Begin, Item, Plan, Position};
use crate::bus::{self, Kind, ReadError};
use crate::cloudevent::Data;
use crate::cloudevent::decode::DecodedEvent;
use crate::pipeline::EventPosition;
use crate::pipeline::identify::{Facts, Identity};
use crate::pipeline::publish::Destination;
use crate::pipeline::quarantine;

/// What is known of a quarantined delivery or event, without its body.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: String,
    pub received_at: OffsetDateTime,
    pub reason: String,
    /// The name of its source. An older bridge did not record it: then the event's `source`.
    pub source: String,
    pub idempotency_key: Option<String>,
    pub webhook_id: Option<String>,
    /// The index of the event in its delivery; none for a whole delivery.
    pub index: Option<usize>,
    pub bytes: usize,
}

#[derive(Clone, Debug)]
pub struct Quarantined {
    pub entry: Entry,
    pub raw: Bytes,
    pub event: DecodedEvent,
}

/// What a replay processes the body as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub source: String,
    pub key: Option<String>,
    /// The position of the event in its delivery; none for a whole delivery.
    pub alone: Option<EventPosition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownOrigin {
    #[error("an older bridge quarantined it without recording the source: add --source NAME")]
    Source,
    #[error(
        "an older bridge quarantined it without recording its webhook and its index in the delivery, so its id \
         cannot be derived: have the sender deliver it again"
    )]
    Position,
    #[error(
        "its metadata does not reproduce its id; a replay would publish it under a new id: inspect it with \
         `quarantine show`"
    )]
    Metadata,
}

impl Quarantined {
    /// Reads a quarantine record; none if the event is something else.
    pub fn from_event(event: DecodedEvent) -> Option<Self> {
        let get = |name| event.get(name).map(str::to_owned);
        if event.get("type") != Some(quarantine::TYPE) {
            return None;
        }
        let Data::Binary(raw) = event.data() else { return None };
        let raw = raw.clone();
        let entry = Entry {
            id: get("id")?,
            received_at: OffsetDateTime::parse(event.get("time")?, &Rfc3339).ok()?,
            reason: get("reason")?,
            source: get("attiosource").or(get("source")).unwrap_or_else(|| "-".to_owned()),
            idempotency_key: get("correlationid"),
            webhook_id: quarantine::webhook_id(event.get("attiowebhookid"), event.get("attiowebhookbase64")),
            index: event.get("attioindex").and_then(|index| index.parse().ok()),
            bytes: raw.len(),
        };
        Some(Self { entry, raw, event })
    }

    /// Reads a line that `quarantine export` wrote; none if it is something else.
    pub fn from_line(line: &[u8]) -> Option<Self> {
        Self::from_event(DecodedEvent::from_json(line).ok()?)
    }

    /// What to replay it as, from its metadata alone: its own id proves that the metadata is complete.
    /// `source` is for records of an older bridge.
    pub fn origin(&self, source: Option<&str>) -> Result<Origin, UnknownOrigin> {
        let Entry { id, idempotency_key, webhook_id, index, .. } = &self.entry;
        let recorded = self.event.get("attiosource");
        let alone = recorded.and(*index).map(|index| EventPosition { webhook_id: webhook_id.clone(), index });
        let expected = Identity::of_quarantined(Facts {
            source: "",
            webhook_id: alone.as_ref().and_then(|position| position.webhook_id.as_deref()).unwrap_or(""),
            idempotency_key: idempotency_key.as_deref(),
            index: alone.as_ref().map_or(0, |position| position.index),
            raw: &self.raw,
        });
        if expected.id != *id {
            return Err(if recorded.is_some() { UnknownOrigin::Metadata } else { UnknownOrigin::Position });
        }
        let source = recorded.or(source).ok_or(UnknownOrigin::Source)?.to_owned();
        Ok(Origin { source, key: idempotency_key.clone(), alone })
    }
}

/// The reasons for quarantine, each with what an operator does about it.
pub const REASONS: [(&str, &str); 9] = [
    (
        "rejected_by_broker",
        "the broker accepts no message of this size: raise max.message.bytes of the topic, or max_payload and \
         max_msg_size on NATS, then `quarantine replay`",
    ),
    ("not_json", "a sender with the secret sends bodies that are not JSON: find out who else signs with it"),
    (
        "too_deep",
        "its JSON is nested deeper than 64 levels, which Attio never sends: find out who else signs with the secret",
    ),
    (
        "not_an_event",
        "its JSON has neither `events` nor `event_type`: a newer bridge may support it; upgrade, then \
         `quarantine replay`",
    ),
    (
        "too_many_events",
        "it has more than 10,000 events, while Attio sends a few: find out who else signs with the secret",
    ),
    ("not_an_object", NOT_AN_EVENT),
    ("no_event_type", NOT_AN_EVENT),
    ("duplicate_member", "it has a duplicate member, so its meaning is ambiguous: have the sender fix it"),
    (
        "unusable_id",
        "a required id is too long or has characters other than A-Z a-z 0-9 . _ : - : have the sender fix it",
    ),
];

const NOT_AN_EVENT: &str = "this element of `events` is not an event: a newer bridge may support it; upgrade, then `quarantine replay`";

pub fn hint(reason: &str) -> &'static str {
    let known = REASONS.into_iter().find(|(known, _)| *known == reason);
    known.map_or("a newer bridge quarantined it: upgrade this one to learn more", |(_, hint)| hint)
}

/// Bytes of bodies that are in memory at a time; a single larger body is read alone.
const BATCH_BYTES: usize = 8 << 20;

/// Where the quarantine is, and what interrupts reading it.
#[derive(Clone)]
pub struct QuarantineReader {
    pub bus: Kind,
    /// The dead-letter topic or subject.
    pub destination: Arc<Destination>,
    /// Cancelled when reading is to stop.
    pub stop: CancellationToken,
}

/// An entry, and where the broker has its body.
#[derive(Clone, Debug)]
pub struct Stored {
    pub entry: Entry,
    position: Position,
    stored_at: Option<OffsetDateTime>,
}

#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Retention removed it after it was listed.
    #[error("{0} is no longer in the quarantine: the broker has removed it")]
    Gone(String),
}

impl QuarantineReader {
    /// Reads to the end: the wanted entries, each id once, in the order of receipt. `skipped` is called
    /// for each message that is not a quarantine record.
    pub async fn entries(
        &self,
        begin: Begin,
        wanted: impl Fn(&Entry) -> bool,
        mut skipped: impl FnMut(&Item),
    ) -> Result<Vec<Stored>, QuarantineError> {
        let (mut seen, mut entries) = (BTreeSet::new(), Vec::new());
        let accept = |item: Item| {
            match decode(&item) {
                None => skipped(&item),
                Some(Quarantined { entry, .. }) if wanted(&entry) && seen.insert(entry.id.clone()) => {
                    entries.push(Stored { entry, position: item.position, stored_at: item.stored_at });
                }
                Some(_) => {}
            }
            true
        };
        self.read(begin, accept).await?;
        entries.sort_by_key(|stored| stored.entry.received_at);
        Ok(entries)
    }

    pub fn bodies(&self, entries: Vec<Stored>) -> Bodies {
        Bodies { reader: self.clone(), entries: entries.into(), batch: VecDeque::new() }
    }

    /// Reads messages until `accept` answers false, or to the end.
    async fn read(&self, begin: Begin, mut accept: impl FnMut(Item) -> bool) -> Result<(), QuarantineError> {
        let plan = Plan { destinations: vec![Arc::clone(&self.destination)], begin, follow: false };
        let mut reader = bus::read(&self.bus, plan).await?;
        let done = loop {
            let item = tokio::select! {
                () = self.stop.cancelled() => break Err(QuarantineError::Interrupted),
                item = reader.next() => item,
            };
            match item {
                None => break Ok(()),
                Some(Err(error)) => break Err(error.into()),
                Some(Ok(item)) => {
                    if !accept(item) {
                        break Ok(());
                    }
                }
            }
        };
        reader.end().await;
        done
    }
}

fn decode(item: &Item) -> Option<Quarantined> {
    Quarantined::from_event(DecodedEvent::from_message(&item.headers, &item.payload).ok()?)
}

/// Bodies that are read as they are needed.
pub struct Bodies {
    reader: QuarantineReader,
    entries: VecDeque<Stored>,
    batch: VecDeque<Quarantined>,
}

impl Bodies {
    pub async fn next(&mut self) -> Result<Option<Quarantined>, QuarantineError> {
        if self.batch.is_empty() && !self.entries.is_empty() {
            self.batch = self.read_batch().await?;
        }
        Ok(self.batch.pop_front())
    }

    async fn read_batch(&mut self) -> Result<VecDeque<Quarantined>, QuarantineError> {
        let mut bytes = 0;
        let fits = |stored: &&Stored| {
            bytes += stored.entry.bytes;
            bytes <= BATCH_BYTES
        };
        let count = self.entries.iter().take_while(fits).count().max(1);
        let wanted: Vec<Stored> = self.entries.drain(..count.min(self.entries.len())).collect();
        let mut missing: BTreeMap<Position, usize> =
            wanted.iter().enumerate().map(|(at, stored)| (stored.position, at)).collect();
        let mut found: Vec<Option<Quarantined>> = vec![None; wanted.len()];
        // Times may decrease with positions if a broker's clock was set back: then read from the beginning.
        let oldest = wanted.iter().map(|stored| stored.stored_at).min().flatten();
        for begin in oldest.map(Begin::At).into_iter().chain([Begin::Beginning]) {
            let accept = |item: Item| {
                if let Some(at) = missing.remove(&item.position) {
                    found[at] = decode(&item);
                }
                !missing.is_empty()
            };
            self.reader.read(begin, accept).await?;
            if missing.is_empty() {
                break;
            }
        }
        let body = |(stored, found): (Stored, Option<Quarantined>)| {
            found.ok_or(QuarantineError::Gone(stored.entry.id))
        };
        wanted.into_iter().zip(found).map(body).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantined(more: &str, id: &str) -> Quarantined {
        let json = format!(
            r#"{{"id":"{id}","type":"{}","time":"2026-11-24T10:00:00.000Z","reason":"not_json","correlationid":"k"{more},"data_base64":"eA=="}}"#,
            quarantine::TYPE
        );
        Quarantined::from_line(json.as_bytes()).unwrap()
    }

    fn id(webhook_id: &str, index: usize) -> String {
        let facts = Facts { source: "", webhook_id, idempotency_key: Some("k"), index, raw: b"x" };
        Identity::of_quarantined(facts).id
    }

    const SOURCE: &str = r#","attiosource":"attio""#;

    #[test]
    fn origin_is_what_the_metadata_says() {
        let whole = quarantined(SOURCE, &id("", 0)).origin(None).unwrap();
        assert_eq!((whole.source.as_str(), whole.key.as_deref(), whole.alone), ("attio", Some("k"), None));
        for (webhook, webhook_id) in
            [(r#""attiowebhookid":"w""#, "w"), (r#""attiowebhookbase64":"dyDDqQ==""#, "w é")]
        {
            let more = format!(r#"{SOURCE},"attioindex":"3",{webhook}"#);
            let alone = EventPosition { webhook_id: Some(webhook_id.into()), index: 3 };
            assert_eq!(quarantined(&more, &id(webhook_id, 3)).origin(None).unwrap().alone, Some(alone));
        }
    }

    #[test]
    fn origin_of_an_older_bridge_needs_a_source_and_a_whole_delivery() {
        let older = quarantined("", &id("", 0));
        assert_eq!(older.origin(None), Err(UnknownOrigin::Source));
        assert_eq!(older.origin(Some("attio")).unwrap().source, "attio");
        assert_eq!(quarantined("", &id("w", 0)).origin(Some("attio")), Err(UnknownOrigin::Position));
        let more = format!(r#"{SOURCE},"attioindex":"0""#);
        assert_eq!(quarantined(&more, &id("w", 0)).origin(None), Err(UnknownOrigin::Metadata));
    }

    #[test]
    fn lines_of_something_else_are_not_records() {
        let line = quarantined(SOURCE, "i").event.to_json();
        assert_eq!(Quarantined::from_line(line.as_bytes()).map(|one| one.entry.bytes), Some(1));
        assert!(Quarantined::from_line(b"").is_none());
        assert!(Quarantined::from_line(br#"{"event_type":"a.b"}"#).is_none());
    }

    #[test]
    fn every_reason_has_a_hint() {
        use std::collections::BTreeSet;

        use crate::pipeline::parse::Unusable;
        let slugs = Unusable::ALL.map(Unusable::slug);
        let reasons: BTreeSet<&str> = slugs.into_iter().chain(["rejected_by_broker"]).collect();
        assert_eq!(REASONS.into_iter().map(|(reason, _)| reason).collect::<BTreeSet<_>>(), reasons);
    }
}
