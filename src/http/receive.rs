//! One request: its head is checked, its body read, and its delivery carried out by work that
//! outlives the client's connection.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::response::Response;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout, timeout_at};

use super::Edge;
use super::admit::Place;
use super::outlive::Outliving;
use super::record::Record;
use super::respond;
use crate::delivery::{Delivery, SourceName, Unverified};
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
            let work = AssertUnwindSafe(carry_out(Arc::clone(&edge), delivery, record)).catch_unwind();
            // Work that has panicked has recorded that itself.
            Outliving::new(&edge.deliveries, work)
                .await
                .unwrap_or_else(|_| respond::problem(Reason::Internal))
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
        Err(Rejection::Signature(error)) => respond::problem(record.refused(error.into())),
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
    let (source, (headers, mut place)) = match admitted {
        Ok(admitted) => admitted,
        Err(reason) => {
            // To read the body of a sender that waits for a 100 would be to send it one.
            let unread = (!head.headers.contains_key(header::EXPECT)).then_some(body);
            return Err(Refusal { reason, unread });
        }
    };
    let reading = collect(edge, body, &mut place, head_at + edge.options.body_timeout / PROMPT);
    let body =
        timeout_at(head_at + edge.options.body_timeout, reading).await.map_err(|_| Reason::BodyTimeout)??;
    place.shrink_to(body.len());
    let answer_by = head_at + edge.options.answer_timeout;
    let mut delivery = Delivery::new(source, received_at, answer_by, headers, body);
    delivery.permit = Some(Arc::new(place));
    Ok(delivery)
}

/// In this part of its time a body is prompt: all that it announced is kept for it.
const PROMPT: u32 = 8;

/// The whole body, never more than the limit of it. What has not come by `prompt_until` is charged as it
/// comes.
async fn collect(
    edge: &Edge,
    mut body: Body,
    place: &mut Place,
    prompt_until: Instant,
) -> Result<Bytes, Reason> {
    let mut whole = Whole::new(place.bytes());
    let mut prompt = true;
    loop {
        let frame = if prompt {
            match timeout_at(prompt_until, body.frame()).await {
                Ok(frame) => frame,
                Err(_) => {
                    prompt = false;
                    place.suspend(whole.held());
                    continue;
                }
            }
        } else {
            body.frame().await
        };
        let Some(frame) = frame else { break };
        // A broken body: too short for its length, or chunks that are none.
        let frame = frame.map_err(|_| Reason::BadFraming)?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > edge.options.max_body_bytes {
            return Err(Reason::BodyTooLarge);
        }
        edge.budget.charge(place, whole.held_with(data.len()))?;
        whole.push(data);
    }
    edge.budget.restore(place)?;
    Ok(whole.into_bytes())
}

/// A body as it comes: most are one piece, and that is not copied. It never holds more memory than the
/// budget is charged with.
struct Whole {
    first: Bytes,
    more: Vec<u8>,
    /// What was announced, or what any body may have.
    most: usize,
}

impl Whole {
    fn new(most: usize) -> Self {
        Self { first: Bytes::new(), more: Vec::new(), most }
    }

    fn len(&self) -> usize {
        if self.more.is_empty() { self.first.len() } else { self.more.len() }
    }

    /// Memory that it holds.
    fn held(&self) -> usize {
        if self.more.is_empty() { self.first.len() } else { self.more.capacity() }
    }

    /// Memory that it will hold with so many bytes more: twice as much each time it grows, so that it is
    /// seldom copied, but no more than what may come.
    fn held_with(&self, more: usize) -> usize {
        let needed = self.len() + more;
        if self.len() == 0 || needed <= self.held() {
            return needed.max(self.held());
        }
        needed.max(self.most.min(2 * self.held()))
    }

    fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        let held = self.held_with(data.len());
        self.more.reserve_exact(held - self.more.len());
        if self.more.is_empty() {
            self.more.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.more.extend_from_slice(&data);
    }

    fn into_bytes(mut self) -> Bytes {
        // What was announced has come whole; of anything else the end was not known.
        self.more.shrink_to_fit();
        if self.more.is_empty() { self.first } else { self.more.into() }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_holds_no_more_memory_than_it_is_charged_with() {
        for (length, most) in [(100_000, 100_000), (100_000, 512 * 1024), (7, 7), (7, 100)] {
            for piece in [1, 7, 1000, 65_536, length] {
                let body = vec![b'x'; length];
                let (mut whole, mut charged) = (Whole::new(most), 0);
                for piece in body.chunks(piece) {
                    charged = charged.max(whole.held_with(piece.len()));
                    whole.push(Bytes::copy_from_slice(piece));
                    assert!(whole.held() <= charged && charged <= most, "{charged} of {most}");
                }
                let whole = whole.into_bytes();
                assert_eq!(whole, body);
                assert_eq!(Vec::from(whole).capacity(), length, "in pieces of {piece}");
            }
        }
    }
}
