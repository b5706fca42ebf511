//! What a request must be before its body is read: the cheapest checks first, and a place in the
//! budget last. Its framing and the size of its head were checked before it was a request, in
//! `connection/head`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Edge;
use crate::delivery::{Header, Headers};
use crate::pipeline::outcome::Reason;
use crate::pipeline::verify;

/// How much may be in flight. Taken before a body is read, so that memory is bounded by it.
///
/// A place is kept for a body that comes without delay. One that lets itself be waited for loses what it
/// has not used and is charged as it comes: else a stranger could hold every place with a few bytes.
pub struct Budget {
    deliveries: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// A place in the budget, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    /// None while its body lets itself be waited for.
    delivery: Option<OwnedSemaphorePermit>,
    bytes: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of so many deliveries and so many bytes of their bodies.
    pub fn new(deliveries: usize, bytes: usize) -> Self {
        let semaphore = |places: usize| Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Self { deliveries: semaphore(deliveries), bytes: semaphore(bytes) }
    }

    /// A place for a body of at most `bytes`, or none: nobody waits here.
    fn take(&self, bytes: usize) -> Result<Place, Reason> {
        Ok(Place { delivery: Some(self.delivery()?), bytes: self.bytes(bytes)? })
    }

    /// Makes sure that a place is charged with so many bytes.
    pub(super) fn charge(&self, place: &mut Place, bytes: usize) -> Result<(), Reason> {
        let more = bytes.saturating_sub(place.bytes.num_permits());
        place.bytes.merge(self.bytes(more)?);
        Ok(())
    }

    /// The body of this place has come after all.
    pub(super) fn restore(&self, place: &mut Place) -> Result<(), Reason> {
        if place.delivery.is_none() {
            place.delivery = Some(self.delivery()?);
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

impl Place {
    /// Bytes that it is charged with.
    pub fn bytes(&self) -> usize {
        self.bytes.num_permits()
    }

    /// Gives back what a body does not need.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self.bytes.num_permits().saturating_sub(bytes);
        drop(self.bytes.split(excess));
    }

    /// The body lets itself be waited for: gives back everything but the bytes that have come.
    pub fn suspend(&mut self, came: usize) {
        self.delivery = None;
        self.shrink_to(came);
    }
}

impl Edge {
    /// Checks the head of a request to a known source and takes a place for its body. Whoever does not
    /// even claim a signature gets none.
    pub(super) fn admit(&self, head: &Parts) -> Result<(Headers, Place), Reason> {
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
        if self.drain.is_cancelled() {
            return Err(Reason::Draining);
        }
        let headers = headers(&head.headers);
        verify::claims(&headers)?;
        Ok((headers, self.budget.take(body_bytes)?))
    }
}

/// The length that the head announces. It stands there once, in digits: the gate has seen to that.
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

/// No media type, or any JSON one (`application/json`, `…/…+json`), whatever its parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else {
        return !headers.contains_key(header::CONTENT_TYPE);
    };
    let Ok(text) = value.to_str() else { return false };
    let essence = text.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match essence.split_once('/') {
        Some((_, subtype)) => subtype == "json" || subtype.ends_with("+json"),
        None => false,
    }
}

/// Not encoded: the signature is over the bytes as they came, and nothing is ever decompressed.
fn is_plain(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::CONTENT_ENCODING);
    codings.iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The headers that mean something to the pipeline.
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
        idempotency_key: header(IDEMPOTENCY_KEY),
    }
}
