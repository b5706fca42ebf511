//! A delivery of the mix, its expected result and its actual one.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::reading::ReadEvent;
use crate::fake_attio::post::Reply;
use crate::signing::{Payload, SignedRequest};

/// A delivery that is about to be sent.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What it tries out.
    pub group: Group,
    /// A few words about it.
    pub label: String,
    /// Who sends it.
    pub sender: Sender,
    /// The expected answer.
    pub answer: Answer,
    /// The events that consumers must read, each exactly once.
    pub events: Vec<ExpectedEvent>,
}

/// What a delivery tries out. The summary has a line for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Group {
    /// One event in Attio's envelope
    One,
    /// Several events in one delivery
    Batch,
    /// One event in the guide's form, with a timestamped signature
    Timestamped,
    /// Unknown types, a bare event, unusual JSON, no events
    Unusual,
    /// A delivery that was sent before
    Repeat,
    /// What can never be an event
    Broken,
    /// Forged signatures
    Forged,
}

impl Group {
    /// Every group, in the order of the summary.
    pub const ALL: [Self; 7] =
        [Self::One, Self::Batch, Self::Timestamped, Self::Unusual, Self::Repeat, Self::Broken, Self::Forged];

    /// The group in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::One => "one event",
            Self::Batch => "several events",
            Self::Timestamped => "timestamped signature",
            Self::Unusual => "unusual, still legal",
            Self::Repeat => "repeated",
            Self::Broken => "never an event",
            Self::Forged => "not genuine",
        }
    }
}

/// Who sends a delivery.
#[derive(Clone, Debug)]
pub enum Sender {
    /// The fake Attio, which signs it and retries it.
    Attio(Payload),
    /// A forger, once.
    Forger(SignedRequest),
}

/// An answer of the bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// `reason` in the body.
    pub reason: String,
    /// The counts in the body of a 200.
    pub counts: Option<Counts>,
}

/// The events of a delivery by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All of them.
    pub events: u64,
    /// Published now.
    pub published: u64,
    /// Published before.
    pub duplicates: u64,
    /// Dropped by a filter.
    pub filtered: u64,
    /// Quarantined.
    pub quarantined: u64,
}

impl Counts {
    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.events += other.events;
        self.published += other.published;
        self.duplicates += other.duplicates;
        self.filtered += other.filtered;
        self.quarantined += other.quarantined;
    }
}

/// An answer with its latency.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// From before the request to after the last byte.
    pub took: Duration,
}

impl From<Reply> for Answered {
    fn from(reply: Reply) -> Self {
        Self { answer: Answer::read(reply.status, &reply.body), took: reply.took }
    }
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

    /// 401.
    pub fn unauthorized() -> Self {
        Self { status: 401, reason: "unauthorized".into(), counts: None }
    }

    fn read(status: u16, body: &[u8]) -> Self {
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

/// An event that a consumer must read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedEvent {
    /// The topic.
    pub topic: String,
    /// The CloudEvents `id`, if the sender can know it.
    pub id: Option<String>,
    /// Attributes and their values; none if it must be absent.
    pub attributes: BTreeMap<&'static str, Option<String>>,
    /// The data, byte for byte.
    pub data: Bytes,
}

/// Such as `200 accepted of 3: 2/0/0/1`: published, duplicates, filtered, quarantined.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)?;
        let Some(Counts { events, published, duplicates, filtered, quarantined }) = self.counts else {
            return Ok(());
        };
        write!(f, " of {events}: {published}/{duplicates}/{filtered}/{quarantined}")
    }
}

/// What is known of a delivery that was sent.
#[derive(Debug)]
pub struct Report {
    /// Its number, from 1.
    pub number: u64,
    /// When it was sent; after a retry, when the last attempt ended.
    pub at: OffsetDateTime,
    /// The delivery.
    pub delivery: Delivery,
    /// The answer, or why there is none.
    pub answered: Result<Answered, String>,
    /// Attempts.
    pub attempts: u32,
    /// Its events that were read.
    pub read: Vec<ReadEvent>,
    /// Differences from what was expected.
    pub differences: Vec<String>,
    /// When the last attempt ended; none while more may follow.
    pub ended: Option<Instant>,
}

impl Report {
    /// A delivery that is sent now.
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

    /// The number of its events that were not read.
    pub fn missing(&self) -> usize {
        self.delivery.events.len().saturating_sub(self.read.len())
    }

    /// Whether the answer is the expected one.
    pub fn is_answered_as_expected(&self) -> bool {
        self.answered.as_ref().is_ok_and(|got| got.answer.matches(&self.delivery.answer, self.attempts > 1))
    }

    /// The answer as text, or why there is none.
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
