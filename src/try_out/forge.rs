//! Deliveries that are not genuine.

use time::OffsetDateTime;

use crate::signing::{Payload, SignedRequest};

/// Older than any tolerance that makes sense, in seconds.
const STALE: time::Duration = time::Duration::HOUR;

/// A way of not being genuine.
#[derive(Clone, Copy, Debug)]
pub enum Forgery {
    /// Signed with another secret.
    WrongSecret,
    /// Not signed.
    NoSignature,
    /// Signed, and then changed.
    AlteredBody,
    /// Signed an hour ago.
    StaleTimestamp,
    /// A timestamped delivery, replayed as a plain one.
    Spliced,
}

impl Forgery {
    /// It in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WrongSecret => "wrong secret",
            Self::NoSignature => "no signature",
            Self::AlteredBody => "altered",
            Self::StaleTimestamp => "an hour old",
            Self::Spliced => "spliced",
        }
    }

    /// The delivery, forged.
    pub fn request(self, mail: &Payload, secret: &str) -> SignedRequest {
        let now = OffsetDateTime::now_utc();
        let genuine = || mail.sign(secret, now);
        match self {
            Self::WrongSecret => mail.sign(&"0".repeat(64), now),
            Self::StaleTimestamp => mail.sign(secret, now - STALE),
            Self::NoSignature => {
                let mut request = genuine();
                request.headers.retain(|(name, _)| !name.ends_with("Attio-Signature"));
                request
            }
            Self::AlteredBody => {
                let body = String::from_utf8_lossy(&mail.body).replace("record.updated", "record.deleted");
                SignedRequest { body: body.into(), ..genuine() }
            }
            Self::Spliced => spliced(genuine()),
        }
    }
}

/// The timestamp moved from its header into the body: the bytes that were signed are the same.
fn spliced(mut request: SignedRequest) -> SignedRequest {
    let timestamp = request.headers.iter().find(|(name, _)| *name == "X-Attio-Timestamp");
    let timestamp = timestamp.map(|(_, value)| value.clone()).unwrap_or_default();
    request.headers.retain(|(name, _)| *name != "X-Attio-Timestamp");
    request.body = [timestamp.as_bytes(), b".", &request.body].concat().into();
    request
}
