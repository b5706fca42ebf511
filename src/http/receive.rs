//! One request: its head is checked, its body read, and its delivery carried out by a task that
//! outlives the client's connection.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::Response;
use http_body_util::BodyExt;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout, timeout_at};

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
        Err(Refusal { reason, unread }) => {
            let answer = respond::problem(record.refused(reason));
            let kept = match unread {
                Some(body) if !respond::closes(reason) => discard(body).await,
                _ => false,
            };
            if kept { answer } else { respond::closing(answer) }
        }
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

/// Why a request has no delivery, and its body where nothing of it has been read or asked for yet.
struct Refusal {
    reason: Reason,
    unread: Option<Body>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, unread: None }
    }
}

/// Everything of a request that is checked before its delivery exists.
async fn read(
    edge: &Edge,
    source: Option<SourceName>,
    received_at: OffsetDateTime,
    request: Request,
) -> Result<Delivery<Unverified>, Refusal> {
    let head_at = Instant::now();
    if let Some(Refused(reason)) = request.extensions().get() {
        return Err((*reason).into());
    }
    let (head, body) = request.into_parts();
    let admitted = source.ok_or(Reason::UnknownSource).and_then(|source| Ok((source, edge.admit(&head)?)));
    let (source, mut place) = match admitted {
        Ok(admitted) => admitted,
        Err(reason) => {
            // To read the body of a sender that waits for a 100 would be to send it one.
            let unread = (!head.headers.contains_key(header::EXPECT)).then_some(body);
            return Err(Refusal { reason, unread });
        }
    };
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

/// How much of a body that nobody wants is read, and for how long, so that its connection may be kept.
const DISCARDED_BYTES: usize = 64 * 1024;
const DISCARDED_WITHIN: Duration = Duration::from_millis(200);

/// Reads a body that nobody wants; false where there is too much of it, and the connection must end.
async fn discard(mut body: Body) -> bool {
    if body.size_hint().lower() > DISCARDED_BYTES as u64 {
        return false;
    }
    let all = async {
        let mut left = DISCARDED_BYTES;
        while let Some(frame) = body.frame().await {
            let read = frame.ok().map(|frame| frame.data_ref().map_or(0, Bytes::len));
            match read.and_then(|read| left.checked_sub(read)) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    };
    timeout(DISCARDED_WITHIN, all).await.unwrap_or(false)
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
