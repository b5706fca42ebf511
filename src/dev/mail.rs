//! One delivery before it is signed: what is the same each time that it is tried.

use bytes::Bytes;
use time::OffsetDateTime;
use uuid::Uuid;

use super::stamp::{self, Headers, Scheme};

/// A body, how it is signed, and what names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// How it is signed.
    pub scheme: Scheme,
    /// The body.
    pub body: Bytes,
    /// Its Idempotency-Key; none in the timestamped scheme, where events name themselves.
    pub key: Option<String>,
}

impl Mail {
    /// A delivery of that body, under a key of its own.
    pub fn new(scheme: Scheme, body: impl Into<Bytes>) -> Self {
        let key = (scheme == Scheme::Attio).then(|| Uuid::new_v4().to_string());
        Self { scheme, body: body.into(), key }
    }

    /// Its headers, signed now.
    pub fn headers(&self, secret: &str) -> Headers {
        self.headers_at(secret, OffsetDateTime::now_utc().unix_timestamp())
    }

    /// Its headers, signed at that time in Unix seconds.
    pub fn headers_at(&self, secret: &str, time: i64) -> Headers {
        stamp::headers(self.scheme, secret, &self.body, self.key.as_deref(), time)
    }
}
