//! Signed requests, in Attio's scheme and in the timestamped one.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use time::OffsetDateTime;
use uuid::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scheme {
    /// Over the body, as Attio does
    Attio,
    /// Over a timestamp and the body, with X-Attio-Timestamp
    Timestamped,
}

pub type Headers = Vec<(&'static str, String)>;

/// A body that can be signed any number of times: each retry of a delivery gets a new signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    pub scheme: Scheme,
    pub body: Bytes,
    /// Its `Idempotency-Key`, the same on every retry. None in the timestamped scheme, whose events have ids.
    pub key: Option<String>,
}

impl Payload {
    /// A body under a new key.
    pub fn new(scheme: Scheme, body: impl Into<Bytes>) -> Self {
        let key = (scheme == Scheme::Attio).then(|| Uuid::new_v4().to_string());
        Self { scheme, body: body.into(), key }
    }

    /// The request, signed at that time.
    pub fn sign(&self, secret: &str, at: OffsetDateTime) -> SignedRequest {
        let headers = headers(self.scheme, secret, &self.body, self.key.as_deref(), at);
        SignedRequest { headers, body: self.body.clone() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRequest {
    /// Signature, timestamp and key.
    pub headers: Headers,
    pub body: Bytes,
}

/// The headers of a signed body.
pub fn headers(scheme: Scheme, secret: &str, body: &[u8], key: Option<&str>, at: OffsetDateTime) -> Headers {
    let mut headers = match scheme {
        Scheme::Attio => {
            let signature = hmac(secret, &[body]);
            vec![("Attio-Signature", signature.clone()), ("X-Attio-Signature", signature)]
        }
        Scheme::Timestamped => {
            let timestamp = at.unix_timestamp().to_string();
            let signature = hmac(secret, &[timestamp.as_bytes(), b".", body]);
            vec![("X-Attio-Signature", signature), ("X-Attio-Timestamp", timestamp)]
        }
    };
    headers.extend(key.map(|key| ("Idempotency-Key", key.to_owned())));
    headers
}

/// Hex HMAC-SHA256 over the parts; the secret's text is the key.
fn hmac(secret: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    HEXLOWER.encode(&mac.finalize().into_bytes())
}

/// A shell command that posts a file with these headers, and prints the answer and its status; `-` is standard input.
pub fn curl(url: &str, headers: &Headers, file: &str) -> String {
    let mut words = vec![r"curl -sS -w '\n%{http_code}\n' --globoff".to_owned()];
    let header = |(name, value): &(&str, String)| format!("--header {}", quote(&format!("{name}: {value}")));
    words.extend(headers.iter().map(header));
    // `--data` would remove line ends from the body.
    words.push(format!("--data-binary {}", quote(&format!("@{file}"))));
    words.push(format!("--url {}", quote(url)));
    words.join(" ")
}

pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_matches_rfc_4231_test_case_2() {
        let signed = hmac("Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(signed, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn quoted_words_have_no_meaning_to_a_shell() {
        assert_eq!(quote("a $b `c` \"d\" \\"), "'a $b `c` \"d\" \\'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
