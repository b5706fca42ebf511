//! Deliveries that are not genuine.

use super::letter::{Letter, now};
use super::planned::Request;

/// Older than any tolerance that makes sense, in seconds.
const STALE: i64 = 3600;

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

    /// The letter, forged.
    pub fn request(self, letter: &Letter, secret: &str) -> Request {
        let mut request = letter.request(secret, now());
        match self {
            Self::WrongSecret => letter.request(&"0".repeat(64), now()),
            Self::StaleTimestamp => letter.request(secret, now() - STALE),
            Self::NoSignature => {
                request.headers.retain(|(name, _)| !name.ends_with("Attio-Signature"));
                request
            }
            Self::AlteredBody => {
                request.body = letter.body.replace("record.updated", "record.deleted").into();
                request
            }
            Self::Spliced => spliced(request),
        }
    }
}

/// The timestamp moved from its header into the body: the bytes that were signed are the same.
fn spliced(mut request: Request) -> Request {
    let timestamp = request.headers.iter().find(|(name, _)| *name == "X-Attio-Timestamp");
    let timestamp = timestamp.map(|(_, value)| value.clone()).unwrap_or_default();
    request.headers.retain(|(name, _)| *name != "X-Attio-Timestamp");
    request.body = [timestamp.as_bytes(), b".", &request.body].concat().into();
    request
}
