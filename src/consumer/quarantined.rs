//! A quarantined delivery or event, with everything that its id was made of.

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cloudevent::Data;
use crate::cloudevent::decode::DecodedEvent;
use crate::pipeline::EventPosition;
use crate::pipeline::identify::{Facts, Identity};
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

/// An [`Entry`] with its body.
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
    /// An older bridge wrote it without the source.
    #[error("an older bridge quarantined it without recording the source: add --source NAME")]
    Source,
    /// An older bridge wrote it without its position, and it is not a whole delivery.
    #[error(
        "an older bridge quarantined it without recording its webhook and its index in the delivery, so its id \
         cannot be derived: have the sender deliver it again"
    )]
    Position,
    /// The metadata gives another id.
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

/// What an operator does about a record quarantined for this reason.
pub fn hint(reason: &str) -> &'static str {
    let known = REASONS.into_iter().find(|(known, _)| *known == reason);
    known.map_or("a newer bridge quarantined it: upgrade this one to learn more", |(_, hint)| hint)
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
