//! Facts into answers: the whole HTTP contract of the bridge.
//!
//! Source: RFC 9457 for the problem document, RFC 9110 for the headers; Attio counts 200 and 202 as
//! success and everything else as a failure to be retried.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

use crate::pipeline::outcome::{Outcome, Reason};

/// The status that each reason is answered with.
pub const fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::Accepted | Reason::Quarantined | Reason::Duplicate | Reason::Filtered | Reason::Empty => {
            StatusCode::OK
        }
        Reason::SignatureMissing
        | Reason::SignatureMalformed
        | Reason::SignatureMismatch
        | Reason::TimestampMissing
        | Reason::TimestampMalformed
        | Reason::TimestampOutsideTolerance => StatusCode::UNAUTHORIZED,
        Reason::UnknownSource => StatusCode::NOT_FOUND,
        Reason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Reason::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Reason::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Reason::BadFraming => StatusCode::BAD_REQUEST,
        Reason::Overloaded
        | Reason::Draining
        | Reason::BrokerUnavailable
        | Reason::BrokerTimeout
        | Reason::BrokerRefused => StatusCode::SERVICE_UNAVAILABLE,
        Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What the caller is told. The exact reason of a 401 is for the log alone.
const fn error(reason: Reason) -> &'static str {
    match reason {
        Reason::Accepted | Reason::Quarantined | Reason::Duplicate | Reason::Filtered | Reason::Empty => "",
        Reason::SignatureMissing
        | Reason::SignatureMalformed
        | Reason::SignatureMismatch
        | Reason::TimestampMissing
        | Reason::TimestampMalformed
        | Reason::TimestampOutsideTolerance => "Invalid signature",
        Reason::UnknownSource => "No such source: POST to /webhooks/{source} of a configured source",
        Reason::MethodNotAllowed => "Only POST is allowed here",
        Reason::BodyTimeout => "The body did not arrive in time",
        Reason::BodyTooLarge => "The body is larger than this bridge takes",
        Reason::HeadersTooLarge => "The request head is larger than this bridge takes",
        Reason::UnsupportedMediaType => "The body must be JSON, sent without a content encoding",
        Reason::BadFraming => "The request is not framed as HTTP/1.1 demands",
        Reason::Overloaded => "Too much in flight: retry later",
        Reason::Draining => "This bridge is going down: retry",
        Reason::BrokerUnavailable => "The broker cannot be reached: retry later",
        Reason::BrokerTimeout => {
            "The broker did not acknowledge in time: retry, what is stored is not stored again"
        }
        Reason::BrokerRefused => "The broker refused: its operator must act, then a retry succeeds",
        Reason::Internal => "Internal error: retry later",
    }
}

/// Seconds after which a retry makes sense, and how far they are spread. The sender may ignore it.
fn retry_after(reason: Reason) -> Option<u32> {
    let range = match reason {
        Reason::Draining => 1..=5,
        Reason::Overloaded => 1..=10,
        Reason::BrokerUnavailable | Reason::BrokerTimeout => 5..=30,
        Reason::BrokerRefused => 15..=30,
        _ => return None,
    };
    Some(fastrand::u32(range))
}

/// Whether the connection ends with the answer, whatever became of the body.
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

/// RFC 9457, with two members of our own.
#[derive(Serialize)]
struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    reason: &'static str,
    error: &'static str,
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

/// The answer to a genuine delivery: 200 with its counts, or the failure of one of its events.
pub fn outcome(outcome: &Outcome) -> Response {
    let reason = outcome.reason();
    if status(reason) != StatusCode::OK {
        return problem(reason);
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

/// The answer to anything else.
pub fn problem(reason: Reason) -> Response {
    let status = status(reason);
    let slug = if status == StatusCode::UNAUTHORIZED { "unauthorized" } else { reason.slug() };
    let problem = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        reason: slug,
        error: error(reason),
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

fn json(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("numbers and fixed texts are always JSON");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
