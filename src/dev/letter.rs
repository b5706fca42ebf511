//! The body of a delivery, and how it is signed and sent.

use bytes::Bytes;
use time::OffsetDateTime;
use uuid::Uuid;

use super::planned::Request;
use super::stamp::{self, Scheme};

/// The path of Attio's webhooks.
const PATH: &str = "/webhooks/attio";

/// The same source under the path that the guide uses.
const GUIDE_PATH: &str = "/api/webhooks/attio";

/// A body, not yet signed.
#[derive(Clone, Debug)]
pub struct Letter {
    /// What it is, in a few words.
    pub label: String,
    /// The body.
    pub body: String,
    /// How many events it has.
    pub events: u64,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Attio { key: String },
    Guide,
}

impl Letter {
    /// A delivery as Attio makes it: the body is signed, and a key names the delivery.
    pub fn attio(label: impl Into<String>, body: String, events: u64) -> Self {
        Self { label: label.into(), body, events, form: Form::Attio { key: Uuid::new_v4().to_string() } }
    }

    /// A delivery as the guide has it: a time is signed with the body, and the event names itself.
    pub fn guide(label: String, body: String) -> Self {
        Self { label, body, events: 1, form: Form::Guide }
    }

    /// The idempotency key; empty in the guide's form.
    pub fn key(&self) -> &str {
        match &self.form {
            Form::Attio { key } => key,
            Form::Guide => "",
        }
    }

    /// The request, signed at that time.
    pub fn request(&self, secret: &str, now: i64) -> Request {
        let body = Bytes::from(self.body.clone());
        let (path, scheme, key) = match &self.form {
            Form::Attio { key } => (PATH, Scheme::Attio, Some(key.as_str())),
            Form::Guide => (GUIDE_PATH, Scheme::Timestamped, None),
        };
        Request { path, headers: stamp::headers(scheme, secret, &body, key, now), body }
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}
