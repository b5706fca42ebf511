//! Outcomes: one reason per delivery, one result per event.

use std::sync::Arc;

use super::parse::Unusable;
use super::publish::{Position, PublishError};
use super::verify::SignatureError;
use crate::named_enum::named_enum;

named_enum! {
    /// Every way a delivery can end.
    pub enum Reason,
    /// The metric label, the log field and the `reason` of the answer.
    slug {
        /// At least one event was published.
        Accepted = "accepted",
        /// No event was published, at least one was quarantined.
        Quarantined = "quarantined",
        /// Every event was acknowledged before.
        Duplicate = "duplicate",
        /// Every event was dropped by the source's filter.
        Filtered = "filtered",
        /// It has no events.
        Empty = "empty",
        SignatureMissing = "signature_missing",
        SignatureMalformed = "signature_malformed",
        SignatureMismatch = "signature_mismatch",
        TimestampMissing = "timestamp_missing",
        TimestampMalformed = "timestamp_malformed",
        TimestampOutsideTolerance = "timestamp_outside_tolerance",
        /// No source of that name, or no such path.
        UnknownSource = "unknown_source",
        MethodNotAllowed = "method_not_allowed",
        BodyTimeout = "body_timeout",
        BodyTooLarge = "body_too_large",
        HeadersTooLarge = "headers_too_large",
        /// The media type is not JSON, or the body is encoded.
        UnsupportedMediaType = "unsupported_media_type",
        /// Where the request ends is ambiguous.
        BadFraming = "bad_framing",
        /// The in-flight limit is reached.
        Overloaded = "overloaded",
        /// The bridge is shutting down.
        Draining = "draining",
        BrokerUnavailable = "broker_unavailable",
        BrokerTimeout = "broker_timeout",
        /// The broker refused because of its configuration.
        BrokerRefused = "broker_refused",
        /// The store that replicas share is away, and nothing is to be published without it.
        StoreUnavailable = "store_unavailable",
        /// A bug.
        Internal = "internal",
    }
}

impl Reason {
    /// Whether the signature did not hold.
    pub const fn is_of_signature(self) -> bool {
        matches!(
            self,
            Self::SignatureMissing
                | Self::SignatureMalformed
                | Self::SignatureMismatch
                | Self::TimestampMissing
                | Self::TimestampMalformed
                | Self::TimestampOutsideTolerance
        )
    }
}

impl From<SignatureError> for Reason {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::Missing => Self::SignatureMissing,
            SignatureError::Malformed => Self::SignatureMalformed,
            SignatureError::Mismatch => Self::SignatureMismatch,
            SignatureError::TimestampMissing => Self::TimestampMissing,
            SignatureError::TimestampMalformed => Self::TimestampMalformed,
            SignatureError::TimestampOutsideTolerance => Self::TimestampOutsideTolerance,
        }
    }
}

impl From<&PublishError> for Reason {
    fn from(error: &PublishError) -> Self {
        match error {
            PublishError::Unavailable { .. } => Self::BrokerUnavailable,
            PublishError::Timeout { .. } => Self::BrokerTimeout,
            // Rejected by quarantine too: the size limit of its topic is too low.
            PublishError::Refused { .. } | PublishError::Rejected { .. } => Self::BrokerRefused,
            PublishError::Busy { .. } => Self::Overloaded,
            PublishError::StoreUnavailable { .. } => Self::StoreUnavailable,
            PublishError::Abandoned => Self::Internal,
        }
    }
}

/// How one event ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventResult {
    /// Acknowledged by the broker.
    Published,
    /// Acknowledged before, or by the publish of another delivery.
    Duplicate,
    /// Dropped by the source's filter.
    Filtered,
    /// Acknowledged in quarantine.
    Quarantined,
    /// Replayed from quarantine, and still not an event.
    Unusable(Unusable),
    /// Not acknowledged, as far as is known.
    Failed(PublishError),
}

impl EventResult {
    /// Every label of `events_total`.
    pub const LABELS: [&str; 5] = ["published", "duplicate", "filtered", "quarantined", "failed"];

    /// The label of `events_total`.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Duplicate => "duplicate",
            Self::Filtered => "filtered",
            Self::Quarantined | Self::Unusable(_) => "quarantined",
            Self::Failed(_) => "failed",
        }
    }
}

/// The label of events of an unknown category, and of deliveries that are quarantined whole.
pub const UNKNOWN_CATEGORY: &str = "unknown";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventOutcome {
    /// Its category in metrics: one of the catalog, or [`UNKNOWN_CATEGORY`].
    pub category: &'static str,
    pub result: EventResult,
    /// Only for the first [`MAX_DETAILS`] events of a delivery whose details are wanted.
    pub details: Option<Box<EventDetails>>,
}

/// How many events of one delivery have details at most.
pub const MAX_DETAILS: usize = 100;

/// What identifies an event, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventDetails {
    /// The CloudEvents `id`; none if the event was filtered.
    pub id: Option<String>,
    /// The CloudEvents `type`.
    pub event_type: String,
    /// The `partitionkey`.
    pub key: Option<String>,
    /// None if the event was filtered.
    pub address: Option<Arc<str>>,
    /// Where the broker stored it, if this delivery awaited the ack.
    pub position: Option<Position>,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    /// One per event, in order; one for a delivery that is quarantined whole.
    pub events: Vec<EventOutcome>,
    /// Events with a random id.
    pub unidentified: usize,
    /// Why the broker rejected an event that is quarantined for it.
    pub rejection: Option<PublishError>,
    /// The usable idempotency key.
    pub delivery_id: Option<String>,
    pub webhook_id: Option<String>,
    /// The label of the secret that matched.
    pub secret: Arc<str>,
}

impl Outcome {
    /// The number of events with this label.
    pub fn count(&self, label: &str) -> usize {
        self.events.iter().filter(|event| event.result.label() == label).count()
    }

    /// The error that decides the answer, if an event failed: a bug before a failure of the broker.
    pub fn failure(&self) -> Option<&PublishError> {
        let errors = self.events.iter().filter_map(|event| match &event.result {
            EventResult::Failed(error) => Some(error),
            _ => None,
        });
        errors.min_by_key(|error| match Reason::from(*error) {
            Reason::Internal => 0,
            Reason::BrokerUnavailable => 1,
            Reason::BrokerTimeout => 2,
            Reason::BrokerRefused => 3,
            _ => 4,
        })
    }

    /// The reason of the whole delivery.
    pub fn reason(&self) -> Reason {
        if let Some(error) = self.failure() {
            return error.into();
        }
        let order = [
            ("published", Reason::Accepted),
            ("quarantined", Reason::Quarantined),
            ("duplicate", Reason::Duplicate),
            ("filtered", Reason::Filtered),
        ];
        let ended = |label: &str| self.events.iter().any(|event| event.result.label() == label);
        order.into_iter().find(|(label, _)| ended(label)).map_or(Reason::Empty, |(_, reason)| reason)
    }
}
