//! What lies in quarantine, with all that its id was made of.

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cloudevent::Data;
use crate::cloudevent::decode::DecodedEvent;
use crate::pipeline::EventPosition;
use crate::pipeline::identify::{Facts, Identity};
use crate::pipeline::quarantine;

/// One piece of quarantine: a whole delivery, or one event of it.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// Its own id.
    pub id: String,
    /// When it was received.
    pub received_at: OffsetDateTime,
    /// Why it is here: a slug.
    pub reason: String,
    /// The bytes as they came.
    pub raw: Bytes,
    /// The wrapper as it was read.
    pub event: DecodedEvent,
}

/// Under what it goes through the pipeline again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The name of the source.
    pub source: String,
    /// The usable idempotency key of the delivery.
    pub key: Option<String>,
    /// Where it was in its delivery; none for a whole one.
    pub alone: Option<EventPosition>,
}

/// Why something cannot be replayed under the id that it would have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplaced {
    /// It is of a bridge that did not note the source.
    #[error("an older bridge put it aside and did not note its source: add --source NAME")]
    Source,
    /// It is of a bridge that did not note its place, and was not alone.
    #[error(
        "an older bridge put it aside and noted neither its webhook nor its place in the delivery, so its id \
         cannot be known: have the sender deliver it again"
    )]
    Place,
    /// The facts give another id.
    #[error(
        "what is noted with it does not give its id, so its event would get another one: look at it with \
         `quarantine show`"
    )]
    Facts,
}

impl Quarantined {
    /// Reads a wrapper; none where it is something else.
    pub fn read(event: DecodedEvent) -> Option<Self> {
        if event.get("type") != Some(quarantine::TYPE) {
            return None;
        }
        let Data::Binary(raw) = event.data() else { return None };
        Some(Self {
            id: event.get("id")?.to_owned(),
            received_at: OffsetDateTime::parse(event.get("time")?, &Rfc3339).ok()?,
            reason: event.get("reason")?.to_owned(),
            raw: raw.clone(),
            event,
        })
    }

    /// Every wrapper of a file that `export` has written; none where it holds something else.
    pub fn read_all(lines: &[u8]) -> Option<Vec<Self>> {
        let lines =
            lines.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        let read = |line: &[u8]| Self::read(DecodedEvent::from_json(line).ok()?);
        lines.map(read).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
    }

    /// The name of its source; where that was not noted, what its events would have as `source`.
    pub fn source(&self) -> &str {
        self.noted("attiosource").or(self.noted("source")).unwrap_or("-")
    }

    /// The usable idempotency key of the delivery.
    pub fn key(&self) -> Option<&str> {
        self.noted("correlationid")
    }

    /// Its place in its delivery, if it is one event of it.
    pub fn index(&self) -> Option<usize> {
        self.noted("attioindex")?.parse().ok()
    }

    /// The webhook that fired.
    pub fn webhook_id(&self) -> Option<String> {
        quarantine::webhook_id(self.noted("attiowebhookid"), self.noted("attiowebhookbase64"))
    }

    fn noted(&self, name: &str) -> Option<&str> {
        self.event.get(name)
    }

    /// Under what it is replayed: what is noted with it, and nothing guessed. `source` is for what an
    /// older bridge put aside. Its own id is the proof that these were the facts.
    pub fn origin(&self, source: Option<&str>) -> Result<Origin, Unplaced> {
        let noted = self.noted("attiosource");
        let alone = noted
            .and_then(|_| self.index())
            .map(|index| EventPosition { webhook_id: self.webhook_id(), index });
        let proof = Identity::of_quarantined(Facts {
            source: "",
            webhook_id: alone.as_ref().and_then(|place| place.webhook_id.as_deref()).unwrap_or(""),
            idempotency_key: self.key(),
            index: alone.as_ref().map_or(0, |place| place.index),
            raw: &self.raw,
        });
        if proof.id != self.id {
            return Err(if noted.is_some() { Unplaced::Facts } else { Unplaced::Place });
        }
        let source = noted.or(source).ok_or(Unplaced::Source)?.to_owned();
        Ok(Origin { source, key: self.key().map(str::to_owned), alone })
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match &*self.reason {
            "rejected_by_broker" => {
                "the broker takes no message of this size: raise max.message.bytes of the topic or max_payload \
                 and max_msg_size of NATS, then `quarantine replay`"
            }
            "not_json" => "whoever has the secret sent what is no JSON: look who else signs with it",
            "too_deep" => {
                "its JSON nests deeper than 64: no event of Attio does; look who else signs with the secret"
            }
            "not_an_event" => {
                "its JSON has neither `events` nor `event_type`: a newer bridge may know it; update, then \
                 `quarantine replay`"
            }
            "too_many_events" => "it holds more than 10,000 events: Attio sends a few; look who else signs",
            "not_an_object" | "no_event_type" => {
                "this element of `events` is no event: a newer bridge may know it; update, then `quarantine replay`"
            }
            "duplicate_member" => {
                "a member occurs twice, so it can be read in two ways: have the sender correct it"
            }
            "unusable_id" => {
                "an id that its type needs has characters outside A-Z a-z 0-9 . _ : - or is too long: have the \
                 sender correct it"
            }
            _ => "a newer bridge put it aside: update this one to learn more",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(more: &str, id: &str) -> Quarantined {
        let json = format!(
            r#"{{"id":"{id}","type":"{}","time":"2026-11-24T10:00:00.000Z","reason":"not_json","correlationid":"k"{more},"data_base64":"eA=="}}"#,
            quarantine::TYPE
        );
        Quarantined::read(DecodedEvent::from_json(json.as_bytes()).unwrap()).unwrap()
    }

    fn id(webhook_id: &str, index: usize) -> String {
        let facts = Facts { source: "", webhook_id, idempotency_key: Some("k"), index, raw: b"x" };
        Identity::of_quarantined(facts).id
    }

    const NOTED: &str = r#","attiosource":"attio""#;

    #[test]
    fn what_is_noted_is_what_it_is_replayed_under() {
        let whole = wrapped(NOTED, &id("", 0)).origin(None).unwrap();
        assert_eq!((whole.source.as_str(), whole.key.as_deref(), whole.alone), ("attio", Some("k"), None));
        let more = format!(r#"{NOTED},"attioindex":"3","attiowebhookid":"w""#);
        let place = EventPosition { webhook_id: Some("w".into()), index: 3 };
        assert_eq!(wrapped(&more, &id("w", 3)).origin(None).unwrap().alone, Some(place));
        let more = format!(r#"{NOTED},"attioindex":"3","attiowebhookbase64":"dyDDqQ==""#);
        let place = EventPosition { webhook_id: Some("w é".into()), index: 3 };
        assert_eq!(wrapped(&more, &id("w é", 3)).origin(None).unwrap().alone, Some(place));
    }

    #[test]
    fn nothing_is_guessed() {
        assert_eq!(wrapped("", &id("", 0)).origin(None), Err(Unplaced::Source));
        assert_eq!(wrapped("", &id("", 0)).origin(Some("attio")).unwrap().source, "attio");
        assert_eq!(wrapped("", &id("w", 0)).origin(Some("attio")), Err(Unplaced::Place));
        let more = format!(r#"{NOTED},"attioindex":"0""#);
        assert_eq!(wrapped(&more, &id("w", 0)).origin(None), Err(Unplaced::Facts));
    }

    #[test]
    fn a_file_of_something_else_is_none() {
        let line = wrapped(NOTED, "i").event.to_json();
        assert_eq!(
            Quarantined::read_all(format!("{line}\n\n{line}\n").as_bytes()).map(|all| all.len()),
            Some(2)
        );
        assert!(Quarantined::read_all(b"").is_none());
        assert!(Quarantined::read_all(br#"{"event_type":"a.b"}"#).is_none());
    }

    #[test]
    fn every_reason_has_a_hint() {
        use crate::pipeline::parse::Unusable;
        let slugs = [
            Unusable::NotJson,
            Unusable::TooDeep,
            Unusable::NotAnEvent,
            Unusable::TooManyEvents,
            Unusable::NotAnObject,
            Unusable::NoEventType,
            Unusable::DuplicateMember,
            Unusable::UnusableId,
        ]
        .map(Unusable::slug);
        for slug in slugs.into_iter().chain(["rejected_by_broker"]) {
            let mut piece = wrapped(NOTED, "i");
            piece.reason = slug.into();
            assert!(!piece.hint().contains("newer bridge put it aside"), "{slug}");
        }
    }
}
