//! The same pipeline again, for what lay in quarantine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::quarantined::Origin;
use crate::bus::recording::RecordingBus;
use crate::cloudevent::Attribute;
use crate::delivery::{Delivery, SourceName};
use crate::pipeline::Pipeline;
use crate::pipeline::outcome::{EventResult, Outcome};
use crate::pipeline::publish::{Message, PublishError};

/// Replays one piece after the other.
pub struct Replayer {
    /// Onto the bus below.
    pub pipeline: Pipeline,
    /// What the pipeline publishes to.
    pub bus: Arc<RecordingBus>,
    /// Whether addresses are subjects (NATS) or topics.
    pub subjects: bool,
    /// How long one piece may take.
    pub patience: Duration,
}

/// One event that was handed to the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayedEvent {
    /// The id of the event.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The topic, or the subject on NATS.
    pub address: String,
}

impl ReplayedEvent {
    fn new(message: &Message, subjects: bool) -> Self {
        let text = |attribute| message.event.get(attribute).unwrap_or_default().to_owned();
        let to = &message.destination;
        let address = if subjects { &to.subject } else { &to.address };
        Self { id: text(Attribute::Id), kind: text(Attribute::Type), address: address.to_string() }
    }
}

/// How one piece ended, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// The bus did not take it, now; it may the next time.
    Failed,
    /// Still not to be published: it stays in quarantine.
    Refused,
    /// Its facts are not known, so it was not tried: it stays in quarantine.
    Unplaced,
    /// Acknowledged by the broker.
    Published,
    /// The broker had it already.
    Duplicate,
    /// Dropped by the source's filter.
    Filtered,
    /// There was nothing in it.
    Empty,
}

impl Ending {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Unplaced => "unplaced",
            Self::Published => "published",
            Self::Duplicate => "duplicate",
            Self::Filtered => "filtered",
            Self::Empty => "empty",
        }
    }
}

/// What became of one piece.
#[derive(Clone, Debug, Serialize)]
pub struct Replayed {
    /// How it ended.
    pub ending: Ending,
    /// Why it was not published.
    pub why: Option<String>,
    /// How many of its events ended how.
    pub counts: BTreeMap<&'static str, usize>,
    /// What was handed to the bus.
    pub events: Vec<ReplayedEvent>,
    /// True where an event has no id of its own: the next replay publishes it under another one.
    pub without_identity: bool,
}

impl Replayed {
    /// One that was not tried.
    pub fn unplaced(why: String) -> Self {
        let (counts, events) = (BTreeMap::new(), Vec::new());
        Self { ending: Ending::Unplaced, why: Some(why), counts, events, without_identity: false }
    }
}

impl Replayer {
    /// Takes the bytes through the pipeline, as if they had just been verified.
    pub async fn replay(&self, raw: Bytes, received_at: OffsetDateTime, origin: Origin) -> Replayed {
        let Origin { source, key, alone } = origin;
        let Ok(source) = SourceName::new(&source) else {
            return Replayed::unplaced(format!("{source} is no name of a source"));
        };
        let answer_by = Instant::now() + self.patience;
        let delivery =
            Delivery::out_of_quarantine(source.clone(), received_at, answer_by, key.as_deref(), raw);
        match self.pipeline.replay(delivery, alone).await {
            Ok(outcome) => {
                let messages = self.bus.take();
                let events = messages.iter().map(|message| ReplayedEvent::new(message, self.subjects));
                replayed(&outcome, events.collect())
            }
            Err(error) => Replayed::unplaced(format!("source {source}: {error} is configured")),
        }
    }
}

fn replayed(outcome: &Outcome, events: Vec<ReplayedEvent>) -> Replayed {
    let mut counts = BTreeMap::new();
    for event in &outcome.events {
        *counts.entry(ending(&event.result).word()).or_default() += 1;
    }
    let worst = outcome.events.iter().min_by_key(|event| ending(&event.result));
    Replayed {
        ending: worst.map_or(Ending::Empty, |event| ending(&event.result)),
        why: worst.and_then(|event| why(&event.result)),
        counts,
        events,
        without_identity: outcome.unidentified > 0,
    }
}

/// Why an event was not published, in the words for something that lay in quarantine.
fn why(result: &EventResult) -> Option<String> {
    match result {
        EventResult::Unusable(unusable) => Some(format!("no event can be made of it: {unusable}")),
        EventResult::Failed(PublishError::Rejected { detail }) => {
            Some(format!("the bus still does not take it: {detail}"))
        }
        EventResult::Failed(error) => Some(error.to_string()),
        EventResult::Published
        | EventResult::Duplicate
        | EventResult::Filtered
        | EventResult::Quarantined => None,
    }
}

fn ending(result: &EventResult) -> Ending {
    match result {
        EventResult::Published => Ending::Published,
        EventResult::Duplicate => Ending::Duplicate,
        EventResult::Filtered => Ending::Filtered,
        // A replay never quarantines.
        EventResult::Quarantined
        | EventResult::Unusable(_)
        | EventResult::Failed(PublishError::Rejected { .. }) => Ending::Refused,
        EventResult::Failed(_) => Ending::Failed,
    }
}
