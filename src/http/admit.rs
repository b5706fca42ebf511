//! What a request must be before its body is read: the cheapest checks first, and a place in the
//! budget last. Its framing and the size of its head were checked before it was a request, in
//! `connection/head`.

use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Edge;
use crate::pipeline::outcome::Reason;

/// How much may be in flight. Taken before a body is read, so that memory is bounded by it.
pub struct Budget {
    deliveries: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// A place in the budget, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    _delivery: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of so many deliveries and so many bytes of their bodies.
    pub fn new(deliveries: usize, bytes: usize) -> Self {
        let semaphore = |places: usize| Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Self { deliveries: semaphore(deliveries), bytes: semaphore(bytes) }
    }

    /// A place for a body of at most `bytes`, or none: nobody waits here.
    fn take(&self, bytes: usize) -> Option<Place> {
        let bytes = u32::try_from(bytes).ok()?;
        let delivery = Arc::clone(&self.deliveries).try_acquire_owned().ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
        Some(Place { _delivery: delivery, bytes })
    }
}

impl Place {
    /// Gives back what a body of unknown length did not need.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self.bytes.num_permits().saturating_sub(bytes);
        drop(self.bytes.split(excess));
    }
}

impl Edge {
    /// Checks the head of a request to a known source and takes a place for its body.
    pub(super) fn admit(&self, head: &Parts) -> Result<Place, Reason> {
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
        self.budget.take(body_bytes).ok_or(Reason::Overloaded)
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
