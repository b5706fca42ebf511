//! The headers that make a body genuine, in either scheme.

use crate::sign::sign;

/// How a body is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Over the body, as Attio does.
    Attio,
    /// Over a time and the body, as the guide does.
    Timestamped,
}

/// Headers by name.
pub type Headers = Vec<(&'static str, String)>;

/// The headers that matter, signed at that time in Unix seconds.
pub fn headers(scheme: Scheme, secret: &str, body: &[u8], key: Option<&str>, now: i64) -> Headers {
    let mut headers = match scheme {
        Scheme::Attio => {
            let signature = sign(secret, &[body]);
            vec![("Attio-Signature", signature.clone()), ("X-Attio-Signature", signature)]
        }
        Scheme::Timestamped => {
            let timestamp = now.to_string();
            let signature = sign(secret, &[timestamp.as_bytes(), b".", body]);
            vec![("X-Attio-Signature", signature), ("X-Attio-Timestamp", timestamp)]
        }
    };
    headers.extend(key.map(|key| ("Idempotency-Key", key.to_owned())));
    headers
}
