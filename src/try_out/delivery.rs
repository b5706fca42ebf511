//! A delivery of the mix, its expected result and its actual one.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::PREFIX;
use super::reading::ReadEvent;
use crate::fake_attio::post::Reply;
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

/// What a delivery tries out: a value of `--mix`, and a line of the summary.
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
    /// What cannot be an event, and is quarantined
    Broken,
    /// Forged signatures
    Forged,
}

impl Group {
    pub const ALL: [Self; 7] =
        [Self::One, Self::Batch, Self::Timestamped, Self::Unusual, Self::Repeat, Self::Broken, Self::Forged];

    pub const fn name(self) -> &'static str {
        match self {
            Self::One => "one event",
            Self::Batch => "several events",
            Self::Timestamped => "timestamped",
            Self::Unusual => "unusual but valid",
            Self::Repeat => "repeated",
            Self::Broken => "broken",
            Self::Forged => "forged",
        }
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

impl ExpectedEvent {
    /// An event on the topic of that category.
    pub fn new(
        category: &str,
        event_type: String,
        reason: Option<&'static str>,
        key: Option<String>,
        data: &str,
    ) -> Self {
        let topic = format!("{PREFIX}.{category}");
        Self { topic, event_type, reason, key, data: Bytes::from(data.to_owned()) }
    }
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
