//! Verifies the signature over the raw bytes, before anything is parsed.
//!
//! Two schemes, see [`Scheme`]: Attio's signs the body, the timestamped one signs `timestamp.body`. A signed string of
//! one scheme must not pass as one of the other. A plain body cut at a dot must not pass as timestamp and
//! body, hence the digits are checked before any HMAC is computed; a timestamped request must not pass as a
//! plain body, hence a plain body must not begin with digits and a dot.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use time::OffsetDateTime;

use crate::delivery::{Delivery, Header, Headers, Unverified, Verified};

/// How a source signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Timestamped if `X-Attio-Timestamp` is sent, else Attio's.
    #[default]
    Auto,
    /// HMAC-SHA256 over the body (<https://docs.attio.com/rest-api/guides/webhooks>).
    Attio,
    /// HMAC-SHA256 over `timestamp.body`, as Attio documented before.
    Timestamped,
}

#[derive(Clone, Debug)]
pub struct Secret {
    /// Its name in metrics and logs.
    pub label: Arc<str>,
    /// The HMAC key: its UTF-8 bytes, never decoded as hex or base64.
    pub value: SecretString,
}

/// How a source's signatures are verified.
#[derive(Clone, Debug)]
pub struct Options {
    pub scheme: Scheme,
    /// How old or how far ahead a signed timestamp may be.
    pub timestamp_tolerance: Duration,
    /// At least one, each at least [`MIN_SECRET_BYTES`] long, labels unique.
    pub secrets: Vec<Secret>,
}

/// The shortest secret that is accepted; Attio's have 64 characters.
pub const MIN_SECRET_BYTES: usize = 16;

/// Why verification failed. The sender does not learn the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("no signature header")]
    Missing,
    #[error("the signature header is not one value of 64 hex digits")]
    Malformed,
    #[error("no secret matches the signature")]
    Mismatch,
    #[error("no timestamp header")]
    TimestampMissing,
    #[error("the timestamp header is not one value of 10 or 13 digits")]
    TimestampMalformed,
    #[error("the timestamp is outside the tolerance")]
    TimestampOutsideTolerance,
}

type Digest = [u8; 32];

/// Verifies the signatures of one source. HMAC states are computed once and cloned for each delivery.
pub struct Verifier {
    scheme: Scheme,
    tolerance: Duration,
    keys: Vec<(Arc<str>, Hmac<Sha256>)>,
}

impl Verifier {
    /// Computes the HMAC states.
    pub fn new(options: &Options) -> Self {
        let keys = keys(&options.secrets);
        Self { scheme: options.scheme, tolerance: options.timestamp_tolerance, keys }
    }

    /// With keys that need not be text, for `explain`.
    pub fn with_keys<'a>(
        scheme: Scheme,
        tolerance: Duration,
        keys: impl IntoIterator<Item = (Arc<str>, &'a [u8])>,
    ) -> Self {
        let keys = keys.into_iter().map(|(label, key)| (label, key_state(key))).collect();
        Self { scheme, tolerance, keys }
    }

    /// The same source with other secrets.
    pub fn with_secrets(&self, secrets: &[Secret]) -> Self {
        Self { scheme: self.scheme, tolerance: self.tolerance, keys: keys(secrets) }
    }

    /// Verifies a delivery. Nothing else makes a verified delivery out of an unverified one.
    pub fn verify(&self, delivery: Delivery<Unverified>) -> Result<Delivery<Verified>, SignatureError> {
        let claimed = signature(&delivery.headers.attio_signature, &delivery.headers.x_attio_signature)?;
        let timestamp = &delivery.headers.timestamp;
        let timestamped = match self.scheme {
            Scheme::Attio => false,
            Scheme::Timestamped => true,
            Scheme::Auto => *timestamp != Header::Absent,
        };
        let prefix: &[u8] = if timestamped {
            self.fresh_timestamp(timestamp, delivery.received_at)?
        } else if looks_timestamped(&delivery.body) {
            return Err(SignatureError::Mismatch);
        } else {
            b""
        };
        let label = self.matching_key(&claimed, prefix, &delivery.body).ok_or(SignatureError::Mismatch)?;
        Ok(delivery.verified(label))
    }

    /// Tries every key, in constant time and without an early exit, so that timing reveals neither the digest
    /// nor which key matched.
    fn matching_key(&self, claimed: &Digest, timestamp: &[u8], body: &[u8]) -> Option<Arc<str>> {
        let mut matched = Choice::from(0);
        let mut which = 0u32;
        for (index, (_, key)) in (0u32..).zip(&self.keys) {
            let mut mac = key.clone();
            if !timestamp.is_empty() {
                mac.update(timestamp);
                mac.update(b".");
            }
            mac.update(body);
            let digest: Digest = mac.finalize().into_bytes().into();
            let equal = digest.ct_eq(claimed);
            which = u32::conditional_select(&which, &index, equal);
            matched |= equal;
        }
        bool::from(matched).then(|| Arc::clone(&self.keys[which as usize].0))
    }

    /// The bytes of the timestamp, if it is well-formed and within the tolerance.
    fn fresh_timestamp<'a>(
        &self,
        header: &'a Header,
        received_at: OffsetDateTime,
    ) -> Result<&'a [u8], SignatureError> {
        let bytes = match header {
            Header::Absent => return Err(SignatureError::TimestampMissing),
            Header::Repeated => return Err(SignatureError::TimestampMalformed),
            Header::Once(bytes) => bytes,
        };
        if !matches!(bytes.len(), 10 | 13) || !bytes.iter().all(u8::is_ascii_digit) {
            return Err(SignatureError::TimestampMalformed);
        }
        let value = bytes.iter().fold(0i128, |value, digit| value * 10 + i128::from(digit - b'0'));
        // Each form is compared in its own unit, so that a tolerance of 300 s is exact for both.
        let (now, tolerance) = if bytes.len() == 10 {
            (i128::from(received_at.unix_timestamp()), i128::from(self.tolerance.as_secs()))
        } else {
            let milliseconds = received_at.unix_timestamp_nanos().div_euclid(1_000_000);
            (milliseconds, self.tolerance.as_millis().cast_signed())
        };
        if (now - value).abs() > tolerance {
            return Err(SignatureError::TimestampOutsideTolerance);
        }
        Ok(bytes)
    }
}

/// Whether the headers carry a well-formed signature. Cheap; used before the body is read.
pub fn claims(headers: &Headers) -> Result<(), SignatureError> {
    signature(&headers.attio_signature, &headers.x_attio_signature).map(drop)
}

fn keys(secrets: &[Secret]) -> Vec<(Arc<str>, Hmac<Sha256>)> {
    let key =
        |secret: &Secret| (Arc::clone(&secret.label), key_state(secret.value.expose_secret().as_bytes()));
    secrets.iter().map(key).collect()
}

fn key_state(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// The signature in the two headers.
fn signature(plain: &Header, prefixed: &Header) -> Result<Digest, SignatureError> {
    match (plain, prefixed) {
        (Header::Absent, Header::Absent) => Err(SignatureError::Missing),
        (Header::Repeated, _) | (_, Header::Repeated) => Err(SignatureError::Malformed),
        (Header::Once(one), Header::Absent) | (Header::Absent, Header::Once(one)) => decode_hex(one),
        // Attio sends both. Equal bytes are decoded once; otherwise only the case of the digits may differ.
        (Header::Once(one), Header::Once(other)) if one == other => decode_hex(one),
        (Header::Once(one), Header::Once(other)) => {
            let (one, other) = (decode_hex(one)?, decode_hex(other)?);
            if one == other { Ok(one) } else { Err(SignatureError::Malformed) }
        }
    }
}

/// Decodes exactly 64 hex digits of either case.
fn decode_hex(text: &[u8]) -> Result<Digest, SignatureError> {
    let mut digest = Digest::default();
    if text.len() != 2 * digest.len() {
        return Err(SignatureError::Malformed);
    }
    HEXLOWER_PERMISSIVE.decode_mut(text, &mut digest).map_err(|_| SignatureError::Malformed)?;
    Ok(digest)
}

/// Whether a body begins `^[0-9]{10,13}\.`, as the signed string of the timestamped scheme does.
fn looks_timestamped(body: &[u8]) -> bool {
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (10..=13).contains(&digits) && body.get(digits) == Some(&b'.')
}
