//! Proves over the raw bytes that a delivery is genuine.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

/// How a source signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Timestamped where `X-Attio-Timestamp` is sent, else Attio's own.
    #[default]
    Auto,
    /// HMAC over the body, as Attio documents it.
    Attio,
    /// HMAC over `timestamp.body`, as the project's guide describes it.
    Timestamped,
}

/// One secret a source may sign with.
#[derive(Clone, Debug)]
pub struct Secret {
    /// What metrics and logs call it.
    pub label: Arc<str>,
    /// Used as text: its UTF-8 bytes are the HMAC key, whatever they look like.
    pub value: SecretString,
}

/// What the verify stage needs to know of a source.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the source signs.
    pub scheme: Scheme,
    /// How old, or how far ahead, a signed timestamp may be.
    pub timestamp_tolerance: Duration,
    /// At least one, each at least [`MIN_SECRET_BYTES`] long, labels unique.
    pub secrets: Vec<Secret>,
}

/// The shortest secret that is accepted; Attio's own have 64 characters.
pub const MIN_SECRET_BYTES: usize = 16;
