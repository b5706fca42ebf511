//! Runs the pipeline of `serve` again for what is in quarantine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::quarantine::Origin;
use crate::bus::recording::RecordingBus;
use crate::cloudevent::Attribute;
use crate::delivery::{Delivery, SourceName};
use crate::named_enum::named_enum;
use crate::pipeline::Pipeline;
use crate::pipeline::outcome::{EventResult, Outcome};
use crate::pipeline::publish::{Message, PublishError};

/// Replays one quarantined delivery or event at a time.
pub struct Replayer {
    /// Publishes to `bus`.
    pub pipeline: Pipeline,
    /// Records what the pipeline publishes.
    pub bus: Arc<RecordingBus>,
    /// Whether addresses are subjects (NATS) or topics.
    pub subjects: bool,
    pub timeout: Duration,
}

named_enum! {
    /// How a replay ended, worst first.
    pub enum Ending,
    /// Its name in the output.
    word {
        /// The bus failed; a retry may succeed.
        Failed = "failed",
        /// It still cannot be published: it stays in quarantine.
        Refused = "refused",
        /// Its origin is unknown, so it was not tried: it stays in quarantine.
        Unplaced = "unplaced",
        Published = "published",
        /// The broker had it already.
        Duplicate = "duplicate",
        Filtered = "filtered",
        /// It has no events.
        Empty = "empty",
    }
}

impl Ending {
    fn of(result: &EventResult) -> Self {
        match result {
            EventResult::Published => Self::Published,
            EventResult::Duplicate => Self::Duplicate,
            EventResult::Filtered => Self::Filtered,
            // A replay never quarantines.
            EventResult::Quarantined
            | EventResult::Unusable(_)
            | EventResult::Failed(PublishError::Rejected { .. }) => Self::Refused,
            EventResult::Failed(_) => Self::Failed,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayedEvent {
    pub id: String,
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

#[derive(Clone, Debug, Serialize)]
pub struct Replayed {
    #[serde(serialize_with = "word")]
    pub ending: Ending,
    pub why: Option<String>,
    pub counts: BTreeMap<&'static str, usize>,
    pub events: Vec<ReplayedEvent>,
    /// Whether an event has no deterministic id: the next replay publishes it under another one.
    pub without_identity: bool,
}

fn word<S: Serializer>(ending: &Ending, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(ending.word())
}

impl Replayed {
    pub fn unplaced(why: String) -> Self {
        let (counts, events) = (BTreeMap::new(), Vec::new());
        Self { ending: Ending::Unplaced, why: Some(why), counts, events, without_identity: false }
    }

    fn new(outcome: &Outcome, events: Vec<ReplayedEvent>) -> Self {
        let mut counts = BTreeMap::new();
        for event in &outcome.events {
            *counts.entry(Ending::of(&event.result).word()).or_default() += 1;
        }
        let worst = outcome.events.iter().map(|event| &event.result).min_by_key(|result| Ending::of(result));
        Self {
            ending: worst.map_or(Ending::Empty, Ending::of),
            why: worst.and_then(why),
            counts,
            events,
            without_identity: outcome.unidentified > 0,
        }
    }
}

impl Replayer {
    /// Processes a body as if it had just been verified.
    pub async fn replay(&self, raw: Bytes, received_at: OffsetDateTime, origin: Origin) -> Replayed {
        let Origin { source, key, alone } = origin;
        let Ok(source) = SourceName::new(&source) else {
            return Replayed::unplaced(format!("{source} is not a valid source name"));
        };
        let answer_by = Instant::now() + self.timeout;
        let delivery =
            Delivery::out_of_quarantine(source.clone(), received_at, answer_by, key.as_deref(), raw);
        match self.pipeline.replay(delivery, alone).await {
            Ok(outcome) => {
                let messages = self.bus.take();
                let events = messages.iter().map(|message| ReplayedEvent::new(message, self.subjects));
                Replayed::new(&outcome, events.collect())
            }
            Err(error) => Replayed::unplaced(format!("source {source}: {error} is configured")),
        }
    }
}

fn why(result: &EventResult) -> Option<String> {
    match result {
        EventResult::Unusable(unusable) => Some(format!("it is not a publishable event: {unusable}")),
        EventResult::Failed(PublishError::Rejected { detail }) => {
            Some(format!("the bus still rejects it: {detail}"))
        }
        EventResult::Failed(error) => Some(error.to_string()),
        EventResult::Published
        | EventResult::Duplicate
        | EventResult::Filtered
        | EventResult::Quarantined => None,
    }
}
