//! One delivery of a webhook, before and after its signature is verified.
//!
//! `Delivery<Unverified>` and `Delivery<Verified>` are different types, and only [`Delivery::verified`], which
//! the verify stage calls, turns one into the other: unverified bytes cannot be parsed or published. A replay
//! makes a verified delivery out of quarantined bytes with [`Delivery::out_of_quarantine`]. A test checks that
//! each has one caller.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::traces::Trace;

/// The name of a configured source. Safe as a metric label and in a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceName(Arc<str>);

/// A source name outside `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a source name is 1 to 63 characters of a-z, 0-9, - and _, beginning with a letter or digit")]
pub struct InvalidSourceName;

impl SourceName {
    pub fn new(name: &str) -> Result<Self, InvalidSourceName> {
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        let first = name.as_bytes().first().copied().unwrap_or(b'-');
        let good = name.len() <= 63 && first.is_ascii_alphanumeric() && name.bytes().all(fits);
        if good && name != crate::metrics::NO_SOURCE { Ok(Self(name.into())) } else { Err(InvalidSourceName) }
    }

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
    #[default]
    Absent,
    Once(Bytes),
    /// Sent more than once, so its value is ambiguous.
    Repeated,
}

impl Header {
    /// The idempotency key, from all values of its header. A proxy may repeat it, as a header or in a list: equal
    /// values are one, and an empty one is none.
    pub fn idempotency_key<'v>(values: impl IntoIterator<Item = &'v [u8]>) -> Self {
        let mut values = values.into_iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            // No usable key has a space.
            (Some(value), None) if !value.contains(&b' ') => Self::Once(Bytes::copy_from_slice(value)),
            (first, second) => {
                let values = first.into_iter().chain(second).chain(values);
                let keys =
                    values.flat_map(|value| std::str::from_utf8(value).unwrap_or("\u{fffd}").split(", "));
                let mut keys = keys.map(str::trim).filter(|key| !key.is_empty());
                let Some(first) = keys.next() else { return Self::Absent };
                match keys.all(|key| unquoted(key) == unquoted(first)) {
                    true => Self::Once(Bytes::copy_from_slice(first.as_bytes())),
                    false => Self::Repeated,
                }
            }
        }
    }
}

/// The request headers that the bridge reads.
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

/// A text without one pair of quotes around it.
fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// Whether a Content-Encoding leaves the body as it is.
pub fn is_identity(content_encoding: &[u8]) -> bool {
    let mut codings = content_encoding.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))
}

/// State of a delivery whose signature has not been checked.
#[derive(Debug)]
pub struct Unverified;

/// State of a delivery whose signature matched.
#[derive(Debug)]
pub struct Verified {
    secret: Arc<str>,
}

/// What the CloudEvents of one delivery say of it.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub source: &'a str,
    /// The workspace of the source's configuration, for events that name none.
    pub workspace_id: Option<&'a str>,
    pub received_at: OffsetDateTime,
    /// The usable idempotency key.
    pub idempotency_key: Option<&'a str>,
    pub webhook_id: Option<&'a str>,
}

impl<'a> Context<'a> {
    /// The same for an event that may name its workspace.
    pub fn of_workspace(self, id: Option<&'a str>) -> Self {
        Self { workspace_id: id.or(self.workspace_id), ..self }
    }

    /// The CloudEvents `source` in two parts: `https://attio.com/workspaces/<id>`, or a URN where no workspace is
    /// known.
    pub fn source_uri(self) -> [&'a str; 2] {
        match self.workspace_id {
            Some(id) => ["https://attio.com/workspaces/", id],
            None => ["urn:attio-bridge:", self.source],
        }
    }
}

/// A share of the in-flight limits, released when its last clone is dropped.
pub type Permit = Arc<dyn Send + Sync>;

/// One HTTP request with a webhook body.
#[derive(Clone)]
pub struct Delivery<State> {
    pub source: SourceName,
    pub received_at: OffsetDateTime,
    pub answer_by: Instant,
    pub headers: Headers,
    /// The body, byte for byte.
    pub body: Bytes,
    /// Held until every publish of the delivery has a result.
    pub permit: Option<Permit>,
    /// Whether its outcome is to have the details of its events.
    pub detailed: bool,
    /// None without traces.
    pub trace: Option<Trace>,
    state: State,
}

impl Delivery<Unverified> {
    pub fn new(
        source: SourceName,
        received_at: OffsetDateTime,
        answer_by: Instant,
        headers: Headers,
        body: Bytes,
    ) -> Self {
        Self {
            source,
            received_at,
            answer_by,
            headers,
            body,
            permit: None,
            detailed: false,
            trace: None,
            state: Unverified,
        }
    }

    /// Marks the delivery as verified. Only the verify stage may call it. `secret` is the label of the secret that
    /// matched.
    pub(crate) fn verified(self, secret: Arc<str>) -> Delivery<Verified> {
        let Self {
            source,
            received_at,
            answer_by,
            headers,
            body,
            permit,
            detailed,
            trace,
            state: Unverified,
        } = self;
        Delivery {
            source,
            received_at,
            answer_by,
            headers,
            body,
            permit,
            detailed,
            trace,
            state: Verified { secret },
        }
    }
}

/// The secret's label in a replay, which has no secret.
const QUARANTINE: &str = "quarantine";

impl Delivery<Verified> {
    /// A delivery out of quarantine, which was verified when it was received, or out of an operator's file. The
    /// signature cannot be verified again: who may write to the quarantine topic is trusted like the sender.
    ///
    /// Never for bytes from the network. Only a replay, which a person starts, may call it.
    pub(crate) fn out_of_quarantine(
        source: SourceName,
        received_at: OffsetDateTime,
        answer_by: Instant,
        idempotency_key: Option<&str>,
        body: Bytes,
    ) -> Self {
        // In quotes, because one pair of quotes is removed when the key is read.
        let quoted = |key: &str| Header::Once(format!("\"{key}\"").into());
        let idempotency_key = idempotency_key.map_or(Header::Absent, quoted);
        let headers = Headers { idempotency_key, ..Headers::default() };
        let state = Verified { secret: QUARANTINE.into() };
        Self {
            source,
            received_at,
            answer_by,
            headers,
            body,
            permit: None,
            detailed: false,
            trace: None,
            state,
        }
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
        let text = unquoted(text);
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
