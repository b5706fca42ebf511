//! How a delivery can end: one reason per delivery, one result per event.

use std::sync::Arc;

use super::parse::Unusable;
use super::publish::PublishError;
use super::verify::SignatureError;

/// Every way a delivery can end. Its slug is the metric label, the log field and the `reason` of the
/// answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// At least one event was published.
    Accepted,
    /// Nothing was published as an event, something went to quarantine.
    Quarantined,
    /// Every event had been acknowledged before.
    Duplicate,
    /// Every event was dropped by the source's filter.
    Filtered,
    /// There was no event.
    Empty,
    /// See [`SignatureError::Missing`].
    SignatureMissing,
    /// See [`SignatureError::Malformed`].
    SignatureMalformed,
    /// See [`SignatureError::Mismatch`].
    SignatureMismatch,
    /// See [`SignatureError::TimestampMissing`].
    TimestampMissing,
    /// See [`SignatureError::TimestampMalformed`].
    TimestampMalformed,
    /// See [`SignatureError::TimestampOutsideTolerance`].
    TimestampOutsideTolerance,
    /// No source of that name, or no such path.
    UnknownSource,
    /// Not a POST.
    MethodNotAllowed,
    /// The body did not come in time.
    BodyTimeout,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The head is larger than the limit.
    HeadersTooLarge,
    /// Not JSON by its media type, or encoded.
    UnsupportedMediaType,
    /// The request cannot be told apart from its neighbours with certainty.
    BadFraming,
    /// Too much in flight.
    Overloaded,
    /// The bridge is going down.
    Draining,
    /// The broker cannot be reached.
    BrokerUnavailable,
    /// The broker gave no verdict in time.
    BrokerTimeout,
    /// The broker refused for a reason that the operator must remove.
    BrokerRefused,
    /// A bug.
    Internal,
}

impl Reason {
    /// Every reason, in the order of the README's table.
    pub const ALL: [Self; 24] = [
        Self::Accepted,
        Self::Quarantined,
        Self::Duplicate,
        Self::Filtered,
        Self::Empty,
        Self::SignatureMissing,
        Self::SignatureMalformed,
        Self::SignatureMismatch,
        Self::TimestampMissing,
        Self::TimestampMalformed,
        Self::TimestampOutsideTolerance,
        Self::UnknownSource,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::HeadersTooLarge,
        Self::UnsupportedMediaType,
        Self::BadFraming,
        Self::Overloaded,
        Self::Draining,
        Self::BrokerUnavailable,
        Self::BrokerTimeout,
        Self::BrokerRefused,
        Self::Internal,
    ];

    /// Whether it says that the delivery is not genuine.
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

    /// The reason in metrics, logs and answers.
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Quarantined => "quarantined",
            Self::Duplicate => "duplicate",
            Self::Filtered => "filtered",
            Self::Empty => "empty",
            Self::SignatureMissing => "signature_missing",
            Self::SignatureMalformed => "signature_malformed",
            Self::SignatureMismatch => "signature_mismatch",
            Self::TimestampMissing => "timestamp_missing",
            Self::TimestampMalformed => "timestamp_malformed",
            Self::TimestampOutsideTolerance => "timestamp_outside_tolerance",
            Self::UnknownSource => "unknown_source",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadersTooLarge => "headers_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::BadFraming => "bad_framing",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::BrokerUnavailable => "broker_unavailable",
            Self::BrokerTimeout => "broker_timeout",
            Self::BrokerRefused => "broker_refused",
            Self::Internal => "internal",
        }
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
            // A quarantine that is rejected in its turn: its topic takes too little, which is the
            // operator's to change.
            PublishError::Refused { .. } | PublishError::Rejected { .. } => Self::BrokerRefused,
            PublishError::Busy { .. } => Self::Overloaded,
            PublishError::Abandoned => Self::Internal,
        }
    }
}

/// How one event ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventResult {
    /// Acknowledged by the broker, now.
    Published,
    /// Acknowledged before, or by the publish of another delivery.
    Duplicate,
    /// Dropped by the source's filter.
    Filtered,
    /// Acknowledged in quarantine.
    Quarantined,
    /// It came out of quarantine and stays there: no event can be made of it.
    Unusable(Unusable),
    /// Not acknowledged, or not known to be.
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

/// The label of events whose category the catalog not_ready_reason, and of whole deliveries in quarantine.
pub const UNKNOWN_CATEGORY: &str = "unknown";

/// How one event of a delivery ended, and under which category it is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventOutcome {
    /// A category of the catalog, or [`UNKNOWN_CATEGORY`].
    pub category: &'static str,
    /// How it ended.
    pub result: EventResult,
}

/// How a genuine delivery ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// One per event, in their order; one for a delivery that is quarantined whole.
    pub events: Vec<EventOutcome>,
    /// Events that nothing identifies.
    pub unidentified: usize,
    /// The usable idempotency key.
    pub delivery_id: Option<String>,
    /// The webhook that fired.
    pub webhook_id: Option<String>,
    /// The label of the secret that matched.
    pub secret: Arc<str>,
}

impl Outcome {
    /// How many events ended so.
    pub fn count(&self, label: &str) -> usize {
        self.events.iter().filter(|event| event.result.label() == label).count()
    }

    /// The error that decides the answer, if an event failed: a bug before the broker's word.
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
