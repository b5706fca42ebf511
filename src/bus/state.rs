//! The port of `state`: publishes the newest state of each entity, and takes events with the promise that they are
//! marked as done only after the states that they led to are stored.
//!
//! # Why the newest state is last
//!
//! A state is true at a time, [`State::at`]: what orders two states of a key is that time, never the order in which
//! they were read or sent. The rule of every writer is [`Version::allows`]: a state may stand behind another of its
//! key only if it is not older, and nothing but another tombstone may stand behind a tombstone.
//!
//! * NATS decides at the moment of storing: a message carries the sequence of the one that its writer has compared
//!   itself with, and the server refuses it if another has come in between ([`super::nats::state`]).
//! * Kafka has no such condition, so the log decides: a writer appends its states in a transaction, reads the partition
//!   up to them, and commits only if the rule holds for what it has appended. Of two records of a key the later writer
//!   has always seen the earlier record, so two records that break the rule are never both committed
//!   ([`super::kafka::state`]).
//!
//! Neither needs to know how many writers there are, or what became of the others: `state run`, `state backfill`,
//! `state diff --repair`, one that was started twice by mistake, one that was killed.

use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::{ReadError, StartError};
use crate::cloudevent::decode::DecodedEvent;
use crate::cloudevent::{CloudEvent, ContentMode};
use crate::pipeline::publish::Destination;

/// The state of an entity. Cheap to clone.
#[derive(Clone, Debug)]
pub struct State {
    /// The topic, or the subject of this entity.
    pub destination: Arc<Destination>,
    /// The entity's id: the key on Kafka.
    pub key: Arc<str>,
    /// When it was true, in milliseconds since 1970. Not used for a tombstone, which is true from then on for ever.
    pub at: i64,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub enum Content {
    Value(Arc<CloudEvent>),
    /// A tombstone, with the event type that its header names.
    Gone(String),
}

impl State {
    pub fn version(&self) -> Version {
        match self.content {
            Content::Value(_) => Version::At(self.at),
            Content::Gone(_) => Version::Gone,
        }
    }
}

/// What decides which of two states of a key is the newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// A value that was true at this time.
    At(i64),
    /// A tombstone. An id is never given to another entity.
    Gone,
}

impl Version {
    /// Whether a state of that version may stand behind one of this version.
    pub fn allows(self, next: Self) -> bool {
        next >= self
    }

    /// The version of a message of a state topic; none for one that is no state.
    pub fn of(headers: &[(String, Bytes)], payload: &Bytes) -> Option<Self> {
        if payload.is_empty() {
            return Some(Self::Gone);
        }
        let event = DecodedEvent::from_message(headers, payload).ok()?;
        let time = OffsetDateTime::parse(event.get("time")?, &Rfc3339).ok()?;
        Some(Self::At(milliseconds(time)))
    }
}

/// What tells the time.
pub type Clock = fn() -> OffsetDateTime;

/// Milliseconds since 1970, as the `time` of an event has them.
pub fn milliseconds(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX)
}

/// The obligation to mark one event as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub u64);

/// A state to publish, none if there is nothing to say, and the events that are done with it.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub state: Option<State>,
    pub events: Vec<Receipt>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, and its events are done.
    Done,
    /// A tombstone is there: dropped, and its events are done.
    Gone,
    /// What is there is newer, or not known to be older: nothing was done. To be read again.
    Newer,
    /// It was true too long ago, by the clock of this writer: nothing was done. To be read again; if it was just read,
    /// that clock is ahead of Attio's.
    TooOld,
    /// The broker does not take it, as long as its limits are what they are: nothing was done.
    TooLarge { bytes: usize },
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// To be tried again with the same changes.
    #[error("{0}")]
    Passing(String),
    /// This writer cannot go on: another has taken its place, or it is not allowed to write.
    #[error("{0}")]
    Lasting(String),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// How to write states.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The consumer group, or the durable consumer, and the first part of the transactional id.
    pub group: String,
    pub role: Role,
    /// The state topics.
    pub addresses: Vec<Arc<str>>,
    /// The prefix of all of them.
    pub prefix: String,
    /// The stream on NATS.
    pub stream: String,
}

/// What `state` needs of the bus.
#[derive(Clone, Debug)]
pub struct Needs {
    pub writer: Writer,
    /// Where the events are that it follows.
    pub events: Vec<Arc<Destination>>,
}

/// Which verb writes. One of each at a time: on Kafka a second one ends the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Run,
    Backfill,
    Repair,
}

impl Role {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Run => "",
            Self::Backfill => "-backfill",
            Self::Repair => "-repair",
        }
    }
}

impl Writer {
    /// The transactional id.
    pub fn name(&self) -> String {
        format!("{}{}", self.group, self.role.suffix())
    }
}

/// The headers and the payload of a state; no payload is a tombstone.
pub(super) struct Encoded {
    pub headers: Vec<(String, String)>,
    pub payload: Option<Vec<u8>>,
}

impl Encoded {
    /// `prefix` is that of attributes in headers: `ce_` on Kafka, `ce-` on NATS.
    pub(super) fn new(state: &State, mode: ContentMode, prefix: &str, content_type: &str) -> Self {
        use crate::cloudevent::{Attribute, structured};
        let event = match &state.content {
            Content::Gone(event_type) => {
                return Self { headers: vec![(format!("{prefix}type"), event_type.clone())], payload: None };
            }
            Content::Value(event) => event,
        };
        if mode == ContentMode::Structured {
            let headers = vec![(content_type.to_owned(), structured::CONTENT_TYPE.to_owned())];
            return Self { headers, payload: Some(structured::encode(event)) };
        }
        let media_type =
            event.get(Attribute::DataContentType).map(|value| (content_type.to_owned(), value.to_owned()));
        let attributes =
            event.binary_headers().map(|(name, value)| (format!("{prefix}{name}"), value.to_owned()));
        Self {
            headers: media_type.into_iter().chain(attributes).collect(),
            payload: Some(event.data().bytes().to_vec()),
        }
    }

    /// Its size, with the names and values of the headers.
    pub(super) fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        headers + self.payload.as_ref().map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_version_is_last_and_nothing_follows_a_tombstone() {
        let (old, new) = (Version::At(1), Version::At(2));
        assert!(old.allows(new) && new.allows(new) && new.allows(Version::Gone));
        assert!(Version::Gone.allows(Version::Gone));
        assert!(!new.allows(old) && !Version::Gone.allows(new));
    }

    #[test]
    fn version_is_the_time_of_the_event() {
        let json = br#"{"specversion":"1.0","time":"1970-01-01T00:00:01.234Z","data":{}}"#;
        assert_eq!(Version::of(&[], &Bytes::from_static(json)), Some(Version::At(1234)));
        assert_eq!(Version::of(&[], &Bytes::new()), Some(Version::Gone));
        assert_eq!(Version::of(&[], &Bytes::from_static(b"{}")), None);
    }
}
