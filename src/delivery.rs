//! What comes in: one HTTP attempt to hand over a webhook, before and after its signature was checked.
//!
//! `Delivery<Unverified>` and `Delivery<Verified>` are different types, and only
//! [`Delivery::verified`] (called by the verify stage alone) turns one into the other, so nothing
//! can parse or publish bytes whose sender is not proven. What was verified when it was received and
//! has lain in quarantine since comes back by [`Delivery::out_of_quarantine`], which only a replay
//! calls; a test holds both to their one caller.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::time::Instant;

/// The name of a configured source: who sends. Safe as a metric label and in a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceName(Arc<str>);

/// A source name outside `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a source name is 1 to 63 characters of a-z, 0-9, - and _, beginning with a letter or digit")]
pub struct InvalidSourceName;

impl SourceName {
    /// Checks the alphabet; the name becomes a path segment and a metric label.
    pub fn new(name: &str) -> Result<Self, InvalidSourceName> {
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        let first = name.as_bytes().first().copied().unwrap_or(b'-');
        let good = name.len() <= 63 && first.is_ascii_alphanumeric() && name.bytes().all(fits);
        if good && name != crate::metrics::NO_SOURCE { Ok(Self(name.into())) } else { Err(InvalidSourceName) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A header that must occur at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Header {
    /// Not sent.
    #[default]
    Absent,
    /// Sent once; the bytes as they came.
    Once(Bytes),
    /// Sent more than once: which one the sender meant cannot be known.
    Repeated,
}

/// The request headers that mean something to the bridge.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// `Attio-Signature`.
    pub attio_signature: Header,
    /// `X-Attio-Signature`, the same value under its older name.
    pub x_attio_signature: Header,
    /// `X-Attio-Timestamp`, only in the timestamped scheme.
    pub timestamp: Header,
    /// `Idempotency-Key`, the same on every retry of one delivery. Not covered by the signature.
    pub idempotency_key: Header,
}

/// State of a delivery whose signature has not been checked.
#[derive(Debug)]
pub struct Unverified;

/// State of a delivery whose signature matched.
#[derive(Debug)]
pub struct Verified {
    secret: Arc<str>,
}

/// Something held until every publish of the delivery has its verdict, such as a place in the
/// in-flight budget. It is only ever dropped.
pub type Permit = Arc<dyn Send + Sync>;

/// One HTTP attempt to hand over a webhook.
#[derive(Clone)]
pub struct Delivery<State> {
    /// Who sent it, by the path it came in on.
    pub source: SourceName,
    /// When its head was received: the only reading of the wall clock on the data path.
    pub received_at: OffsetDateTime,
    /// When the answer must be given at the latest.
    pub answer_by: Instant,
    /// The headers the bridge reads.
    pub headers: Headers,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The place this delivery takes in the in-flight budget.
    pub permit: Option<Permit>,
    state: State,
}

impl Delivery<Unverified> {
    /// A delivery as it came off the wire.
    pub fn new(
        source: SourceName,
        received_at: OffsetDateTime,
        answer_by: Instant,
        headers: Headers,
        body: Bytes,
    ) -> Self {
        Self { source, received_at, answer_by, headers, body, permit: None, state: Unverified }
    }

    /// Marks the delivery genuine, which only the verify stage may; `secret` is the label of the secret that matched.
    pub(crate) fn verified(self, secret: Arc<str>) -> Delivery<Verified> {
        let Self { source, received_at, answer_by, headers, body, permit, state: Unverified } = self;
        Delivery { source, received_at, answer_by, headers, body, permit, state: Verified { secret } }
    }
}

/// The label that stands for the secret of what comes out of quarantine.
const QUARANTINE: &str = "quarantine";

impl Delivery<Verified> {
    /// What was verified when it was received, and comes back out of quarantine; or what an operator
    /// vouches for who has the raw bytes in a file. Its signature is not there to be checked again:
    /// whoever may write to the quarantine's topic or subject is trusted as the sender is.
    ///
    /// Never for bytes off the wire: a replay, started by a person, is the only caller.
    pub(crate) fn out_of_quarantine(
        source: SourceName,
        received_at: OffsetDateTime,
        answer_by: Instant,
        idempotency_key: Option<&str>,
        body: Bytes,
    ) -> Self {
        // In quotes, of which one pair is taken off: a key may have more of its own.
        let quoted = |key: &str| Header::Once(format!("\"{key}\"").into());
        let idempotency_key = idempotency_key.map_or(Header::Absent, quoted);
        let headers = Headers { idempotency_key, ..Headers::default() };
        let state = Verified { secret: QUARANTINE.into() };
        Self { source, received_at, answer_by, headers, body, permit: None, state }
    }

    /// The label of the secret that matched.
    pub fn secret(&self) -> &Arc<str> {
        &self.state.secret
    }

    /// The idempotency key if it is usable: one pair of quotes removed, 1 to 255 visible ASCII
    /// characters (the IETF draft writes the value as a quoted string, Attio as a bare token).
    pub fn idempotency_key(&self) -> Option<&str> {
        let Header::Once(bytes) = &self.headers.idempotency_key else { return None };
        let text = std::str::from_utf8(bytes).ok()?;
        let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
        let usable = (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        usable.then_some(text)
    }
}

impl<State> Delivery<State> {
    /// Time left until the answer is due; zero when it has passed.
    pub fn time_left(&self) -> Duration {
        self.answer_by.saturating_duration_since(Instant::now())
    }
}
