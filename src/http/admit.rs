//! What a request must be before its body is read: the cheapest checks first, and a place in the
//! budget last.

use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Version, header};
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
        check_framing(head)?;
        if head_bytes(head) > self.options.max_header_bytes {
            return Err(Reason::HeadersTooLarge);
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

/// What can be seen of the framing once hyper has read it: exactly one host, and no transfer coding
/// but `chunked` (RFC 9112 sections 3.2 and 6.1).
fn check_framing(head: &Parts) -> Result<(), Reason> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let one_host = hosts.next().is_some() && hosts.next().is_none();
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                && !head.headers.contains_key(header::CONTENT_LENGTH)
        }
        (Some(_), Some(_)) => false,
    };
    if one_host && chunked && head.version == Version::HTTP_11 { Ok(()) } else { Err(Reason::BadFraming) }
}

/// The size of the head as it stood on the wire, the request line included.
fn head_bytes(head: &Parts) -> usize {
    let line = head.method.as_str().len() + head.uri.to_string().len() + " HTTP/1.1\r\n ".len();
    let field = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        name.as_str().len() + value.len() + ": \r\n".len()
    };
    line + head.headers.iter().map(field).sum::<usize>() + "\r\n".len()
}

fn content_length(headers: &HeaderMap) -> Result<Option<usize>, Reason> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Reason::BadFraming),
        (Some(length), None) => {
            let digits = length.to_str().map_err(|_| Reason::BadFraming)?;
            // hyper has checked that these are digits; more than a usize holds is too large anyway.
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
