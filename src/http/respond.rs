//! The HTTP answers of the public listener.
//!
//! Source: RFC 9457 for the problem document, RFC 9110 for the headers; Attio counts 200 and 202 as
//! success and everything else as a failure to be retried.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::response::Response;
use serde::Serialize;

use crate::pipeline::outcome::{Outcome, Reason};

/// The status that each reason is answered with.
pub const fn status(reason: Reason) -> StatusCode {
    answer(reason).0
}

/// The status and the `error` text of each reason. A 401 does not reveal its exact reason, which is logged.
const fn answer(reason: Reason) -> (StatusCode, &'static str) {
    match reason {
        Reason::Accepted | Reason::Quarantined | Reason::Duplicate | Reason::Filtered | Reason::Empty => {
            (StatusCode::OK, "")
        }
        Reason::SignatureMissing
        | Reason::SignatureMalformed
        | Reason::SignatureMismatch
        | Reason::TimestampMissing
        | Reason::TimestampMalformed
        | Reason::TimestampOutsideTolerance => (StatusCode::UNAUTHORIZED, "Invalid signature"),
        Reason::UnknownSource => (
            StatusCode::NOT_FOUND,
            "Unknown source: POST to /webhooks/{source} with the name of a configured source",
        ),
        Reason::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "Only POST is allowed here"),
        Reason::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time"),
        Reason::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The body exceeds the size limit"),
        Reason::HeadersTooLarge => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "The request head exceeds the size limit")
        }
        Reason::UnsupportedMediaType => {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body must be JSON without a content encoding")
        }
        Reason::BadFraming => (StatusCode::BAD_REQUEST, "The body is malformed or was cut off"),
        Reason::Overloaded => {
            (StatusCode::SERVICE_UNAVAILABLE, "Too many deliveries in flight. Retry later.")
        }
        Reason::Draining => (StatusCode::SERVICE_UNAVAILABLE, "The bridge is shutting down. Retry."),
        Reason::BrokerUnavailable => {
            (StatusCode::SERVICE_UNAVAILABLE, "The broker is unreachable. Retry later.")
        }
        Reason::BrokerTimeout => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Timed out waiting for the broker. Retry; a duplicate is usually suppressed.",
        ),
        Reason::BrokerRefused => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The broker refuses the event because of its configuration. See the bridge's log.",
        ),
        Reason::StoreUnavailable => {
            (StatusCode::SERVICE_UNAVAILABLE, "The dedup store is unreachable. Retry later.")
        }
        Reason::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error. Retry later."),
    }
}

/// `Retry-After` in seconds, with jitter.
fn retry_after(reason: Reason) -> Option<u32> {
    let range = match reason {
        Reason::Draining => 1..=5,
        Reason::Overloaded => 1..=10,
        Reason::BrokerUnavailable | Reason::BrokerTimeout | Reason::StoreUnavailable => 5..=30,
        Reason::BrokerRefused => 15..=30,
        _ => return None,
    };
    Some(fastrand::u32(range))
}

/// Whether the connection is closed after the answer, even if the body was read.
pub const fn closes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BodyTimeout
            | Reason::BodyTooLarge
            | Reason::HeadersTooLarge
            | Reason::BadFraming
            | Reason::Draining
    )
}

/// RFC 9457, with the extension members `reason` and `error`.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    reason: &'static str,
    error: &'a str,
}

#[derive(Serialize)]
struct Accepted {
    received: bool,
    reason: &'static str,
    events: usize,
    published: usize,
    duplicates: usize,
    filtered: usize,
    quarantined: usize,
}

/// The answer to a verified delivery: 200 with its counts, or the failure of one of its events.
pub fn outcome(outcome: &Outcome) -> Response {
    let reason = outcome.reason();
    if status(reason) != StatusCode::OK {
        return problem(reason, None);
    }
    let accepted = Accepted {
        received: true,
        reason: reason.slug(),
        events: outcome.events.len(),
        published: outcome.count("published"),
        duplicates: outcome.count("duplicate"),
        filtered: outcome.count("filtered"),
        quarantined: outcome.count("quarantined"),
    };
    json(StatusCode::OK, "application/json", &accepted)
}

/// The answer to anything else. `error` replaces the text of the reason.
pub fn problem(reason: Reason, error: Option<&str>) -> Response {
    let (status, text) = answer(reason);
    let slug = if status == StatusCode::UNAUTHORIZED { "unauthorized" } else { reason.slug() };
    let problem = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        reason: slug,
        error: error.unwrap_or(text),
    };
    let mut response = json(status, "application/problem+json", &problem);
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Attio-Signature"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    if let Some(seconds) = retry_after(reason) {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if closes(reason) { closing(response) } else { response }
}

/// The same answer, after which the connection is closed.
pub fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The same answer to HTTP/1.0, after which the connection is closed even if keep-alive was asked for: hyper
/// keeps a connection whose answer is HTTP/1.1.
pub fn closing_http_10(mut response: Response) -> Response {
    *response.version_mut() = Version::HTTP_10;
    closing(response)
}

fn json(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("numbers and fixed texts are always JSON");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
