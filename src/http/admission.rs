//! Admission: the checks on a request before its body is read, cheapest first, and the limits on what may be
//! in flight. Hand-written, because no limiter layer charges a body by the bytes that have arrived. Framing and
//! head size are checked earlier, in `connection/head`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Edge;
use crate::delivery::{Header, Headers, is_identity};
use crate::pipeline::outcome::Reason;
use crate::pipeline::verify;

/// Limits deliveries in flight and the bytes of their bodies, and with them memory. Nothing waits for a
/// permit: a request that gets none is shed as `overloaded`.
///
/// A prompt body keeps its full reservation. A slow one is reduced to the bytes received so far and charged
/// per chunk, so that unauthenticated senders cannot hold every permit with a few bytes.
pub struct AdmissionLimiter {
    deliveries: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// Permission to be in flight, returned when it is dropped.
#[derive(Debug)]
pub struct Permit {
    /// None while the body is slow.
    delivery: Option<OwnedSemaphorePermit>,
    bytes: OwnedSemaphorePermit,
}

impl AdmissionLimiter {
    pub fn new(deliveries: usize, bytes: usize) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self { deliveries: semaphore(deliveries), bytes: semaphore(bytes) }
    }

    /// A permit for a body of at most `bytes`.
    fn acquire(&self, bytes: usize) -> Result<Permit, Reason> {
        Ok(Permit { delivery: Some(self.delivery()?), bytes: self.bytes(bytes)? })
    }

    /// Raises the bytes of a permit to `bytes`.
    pub(super) fn charge(&self, permit: &mut Permit, bytes: usize) -> Result<(), Reason> {
        let more = bytes.saturating_sub(permit.bytes.num_permits());
        permit.bytes.merge(self.bytes(more)?);
        Ok(())
    }

    /// Ends [`Permit::suspend`]: the body is complete.
    pub(super) fn resume(&self, permit: &mut Permit) -> Result<(), Reason> {
        if permit.delivery.is_none() {
            permit.delivery = Some(self.delivery()?);
        }
        Ok(())
    }

    fn delivery(&self) -> Result<OwnedSemaphorePermit, Reason> {
        Arc::clone(&self.deliveries).try_acquire_owned().map_err(|_| Reason::Overloaded)
    }

    fn bytes(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Reason> {
        let bytes = u32::try_from(bytes).map_err(|_| Reason::Overloaded)?;
        Arc::clone(&self.bytes).try_acquire_many_owned(bytes).map_err(|_| Reason::Overloaded)
    }
}

impl Permit {
    /// Bytes that it is charged for.
    pub fn bytes(&self) -> usize {
        self.bytes.num_permits()
    }

    /// Returns the bytes above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self.bytes.num_permits().saturating_sub(bytes);
        drop(self.bytes.split(excess));
    }

    /// The body is slow: returns everything but the bytes received so far.
    pub fn suspend(&mut self, received: usize) {
        self.delivery = None;
        self.shrink_to(received);
    }
}

impl Edge {
    /// Checks the head of a request to a known source and acquires a permit for its body. Requests without a
    /// well-formed signature header are refused before that.
    pub(super) fn admit(&self, head: &Parts) -> Result<(Headers, Permit), Reason> {
        if head.method != Method::POST {
            return Err(Reason::MethodNotAllowed);
        }
        let length = content_length(&head.headers)?;
        let body_bytes = length.unwrap_or(self.options.max_body_bytes);
        if body_bytes > self.options.max_body_bytes {
            return Err(Reason::BodyTooLarge);
        }
        if !(is_json(&head.headers) && is_plain(&head.headers)) {
            return Err(Reason::UnsupportedMediaType);
        }
        if self.stages.drain.is_cancelled() {
            return Err(Reason::Draining);
        }
        let headers = headers(&head.headers);
        verify::claims(&headers)?;
        Ok((headers, self.limiter.acquire(body_bytes)?))
    }
}

/// The Content-Length. `connection/head` has checked that there is at most one and that it is a number.
fn content_length(headers: &HeaderMap) -> Result<Option<usize>, Reason> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Reason::BadFraming),
        (Some(length), None) => {
            let digits = length.to_str().map_err(|_| Reason::BadFraming)?;
            digits.parse().map(Some).map_err(|_| Reason::BodyTooLarge)
        }
    }
}

/// Whether the media type is JSON (`application/json`, `…/…+json`, with any parameters) or absent.
fn is_json(headers: &HeaderMap) -> bool {
    let is_json = |essence: &str| match essence.trim().to_ascii_lowercase().split_once('/') {
        Some((_, subtype)) => subtype == "json" || subtype.ends_with("+json"),
        None => essence.trim().is_empty(),
    };
    let essence = |text: &str| text.split(';').next().unwrap_or("").split(',').all(is_json);
    headers.get_all(header::CONTENT_TYPE).iter().all(|value| value.to_str().is_ok_and(essence))
}

/// Whether the body is not encoded. The signature covers the bytes as sent, and nothing is decompressed.
fn is_plain(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).iter().all(|value| is_identity(value.as_bytes()))
}

fn headers(map: &HeaderMap) -> Headers {
    const ATTIO_SIGNATURE: HeaderName = HeaderName::from_static("attio-signature");
    const X_ATTIO_SIGNATURE: HeaderName = HeaderName::from_static("x-attio-signature");
    const X_ATTIO_TIMESTAMP: HeaderName = HeaderName::from_static("x-attio-timestamp");
    const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
    let header = |name: HeaderName| {
        let mut values = map.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Header::Absent,
            (Some(value), None) => Header::Once(Bytes::copy_from_slice(value.as_bytes())),
            (Some(_), Some(_)) => Header::Repeated,
        }
    };
    Headers {
        attio_signature: header(ATTIO_SIGNATURE),
        x_attio_signature: header(X_ATTIO_SIGNATURE),
        timestamp: header(X_ATTIO_TIMESTAMP),
        idempotency_key: Header::idempotency_key(
            map.get_all(IDEMPOTENCY_KEY).iter().map(HeaderValue::as_bytes),
        ),
    }
}
