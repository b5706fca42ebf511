//! One delivery that is about to be made, and what must come of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use crate::fake_attio::post::Reply;
use crate::signing::{Payload, SignedRequest};

/// One delivery.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What it shows.
    pub group: Group,
    /// What it is, in a few words.
    pub label: String,
    /// Who sends what.
    pub by: By,
    /// What must be answered.
    pub answer: Answer,
    /// What a consumer must read, each exactly once.
    pub events: Vec<Expected>,
}

/// What a delivery shows. The summary has a line for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// One event in Attio's envelope.
    One,
    /// Several events in one delivery.
    Batch,
    /// The guide's single event with a timestamped signature.
    Guide,
    /// Unknown types, a bare event, odd spelling, no events.
    Unusual,
    /// A delivery that was made before.
    Repeat,
    /// What can never be an event.
    Broken,
    /// Not genuine.
    Forged,
}

impl Group {
    /// Every group, in the order of the summary.
    pub const ALL: [Self; 7] =
        [Self::One, Self::Batch, Self::Guide, Self::Unusual, Self::Repeat, Self::Broken, Self::Forged];

    /// The group as one word, for flags.
    pub const fn slug(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Batch => "batch",
            Self::Guide => "timestamped",
            Self::Unusual => "unusual",
            Self::Repeat => "repeat",
            Self::Broken => "broken",
            Self::Forged => "forged",
        }
    }

    /// The group in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::One => "one event",
            Self::Batch => "several events",
            Self::Guide => "timestamped signature",
            Self::Unusual => "unusual, still legal",
            Self::Repeat => "repeated",
            Self::Broken => "never an event",
            Self::Forged => "not genuine",
        }
    }
}

/// Who sends what.
#[derive(Clone, Debug)]
pub enum By {
    /// The fake Attio: it signs, and tries again until it is taken.
    Attio(Payload),
    /// Somebody who is not Attio, once.
    Stranger(SignedRequest),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The `reason` in the body.
    pub reason: String,
    /// The counts in the body of a good answer.
    pub counts: Option<Counts>,
}

/// What became of the events of one delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Published now.
    pub published: u64,
    /// Published before.
    pub duplicates: u64,
    /// Dropped on purpose.
    pub filtered: u64,
    /// Put into quarantine.
    pub quarantined: u64,
}

/// An answer, and how long it took.
#[derive(Clone, Debug)]
pub struct Answered {
    /// What was answered.
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
    pub fn taken(counts: Counts) -> Self {
        let reason = match counts {
            Counts { published: 1.., .. } => "accepted",
            Counts { quarantined: 1.., .. } => "quarantined",
            Counts { duplicates: 1.., .. } => "duplicate",
            Counts { filtered: 1.., .. } => "filtered",
            _ => "empty",
        };
        Self { status: 200, reason: reason.into(), counts: Some(counts) }
    }

    fn read(status: u16, body: &[u8]) -> Self {
        /// The members that both kinds of answer have, and those of the good one.
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

    /// Whether it is what was `expected`. Where tries failed before it (`again`), some of the events may
    /// have been published by those, and are duplicates now.
    pub fn is_as(&self, expected: &Self, again: bool) -> bool {
        let whole = |counts: Counts| Counts {
            published: 0,
            duplicates: counts.published + counts.duplicates,
            ..counts
        };
        self == expected
            || again && self.status == expected.status && self.counts.map(whole) == expected.counts.map(whole)
    }

    /// 401.
    pub fn refused() -> Self {
        Self { status: 401, reason: "unauthorized".into(), counts: None }
    }
}

/// One event that a consumer must read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The topic.
    pub topic: String,
    /// The CloudEvents `id`, where the sender can tell it.
    pub id: Option<String>,
    /// Attributes with their values; none for one that must be absent.
    pub attributes: BTreeMap<&'static str, Option<String>>,
    /// The data, byte for byte.
    pub data: Bytes,
}

/// Such as `200 accepted of 3: 2/0/0/1`, which is published, duplicates, filtered, quarantined.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)?;
        let Some(Counts { events, published, duplicates, filtered, quarantined }) = self.counts else {
            return Ok(());
        };
        write!(f, " of {events}: {published}/{duplicates}/{filtered}/{quarantined}")
    }
}
