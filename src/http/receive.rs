//! One request: its head is checked, its body read, and its delivery carried out by a task that
//! outlives the client's connection.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use http_body_util::BodyExt;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};

use super::Edge;
use super::record::Record;
use super::respond;
use crate::delivery::{Delivery, Header, Headers, SourceName, Unverified};
use crate::pipeline::Rejection;
use crate::pipeline::outcome::Reason;

/// The head of this request was refused before hyper saw it; the request is only a stand-in for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused(pub(super) Reason);

/// Answers one request; `source` is none where the path names no configured source.
pub(super) async fn receive(edge: Arc<Edge>, source: Option<SourceName>, request: Request) -> Response {
    let received_at = OffsetDateTime::now_utc();
    let mut record = edge.recorder.open(source.as_ref(), received_at);
    let response = match read(&edge, source, received_at, request).await {
        Err(reason) => respond::problem(record.refused(reason)),
        Ok(delivery) => {
            record.bytes = delivery.body.len();
            let task = edge.deliveries.spawn(carry_out(Arc::clone(&edge), delivery, record));
            // A task that has panicked has recorded that itself.
            task.await.unwrap_or_else(|_| respond::problem(Reason::Internal))
        }
    };
    if edge.drain.is_cancelled() { respond::closing(response) } else { response }
}

/// Runs the pipeline and records what became of the delivery, whether or not anybody still listens.
async fn carry_out(edge: Arc<Edge>, delivery: Delivery<Unverified>, mut record: Record) -> Response {
    match edge.pipeline.handle(delivery, |events| record.events_received(events)).await {
        Ok(outcome) => {
            record.finished(&outcome);
            respond::outcome(&outcome)
        }
        Err(Rejection::UnknownSource) => respond::problem(record.refused(Reason::UnknownSource)),
        Err(Rejection::Signature(error)) => respond::problem(record.not_genuine(error.into())),
    }
}

/// Everything of a request that is checked before its delivery exists.
async fn read(
    edge: &Edge,
    source: Option<SourceName>,
    received_at: OffsetDateTime,
    request: Request,
) -> Result<Delivery<Unverified>, Reason> {
    let head_at = Instant::now();
    if let Some(Refused(reason)) = request.extensions().get() {
        return Err(*reason);
    }
    let source = source.ok_or(Reason::UnknownSource)?;
    let (head, body) = request.into_parts();
    let mut place = edge.admit(&head)?;
    let body = timeout_at(head_at + edge.options.body_timeout, collect(body, edge.options.max_body_bytes))
        .await
        .map_err(|_| Reason::BodyTimeout)??;
    place.shrink_to(body.len());
    let answer_by = head_at + edge.options.answer_timeout;
    let mut delivery = Delivery::new(source, received_at, answer_by, headers(&head.headers), body);
    delivery.hold = Some(Arc::new(place));
    Ok(delivery)
}

/// The whole body, never more than `limit` bytes of it.
async fn collect(mut body: Body, limit: usize) -> Result<Bytes, Reason> {
    let mut whole = Vec::new();
    let mut only = None;
    while let Some(frame) = body.frame().await {
        // A broken body: too short for its length, or chunks that are none.
        let frame = frame.map_err(|_| Reason::BadFraming)?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + only.as_ref().map_or(0, Bytes::len) + data.len() > limit {
            return Err(Reason::BodyTooLarge);
        }
        match only.take() {
            None if whole.is_empty() => only = Some(data),
            first => {
                whole.extend_from_slice(&first.unwrap_or_default());
                whole.extend_from_slice(&data);
            }
        }
    }
    Ok(only.unwrap_or_else(|| whole.into()))
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
