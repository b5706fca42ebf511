//! One request: checks its head, reads its body, and processes its delivery even if the client disconnects.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Edge;
use super::admission::Permit;
use super::connection::head::Refusal;
use super::record::Record;
use super::respond;
use crate::delivery::{Delivery, SourceName, Unverified};
use crate::pipeline::Rejection;
use crate::pipeline::outcome::Reason;

pub(super) async fn receive(edge: Arc<Edge>, source: Option<SourceName>, request: Request) -> Response {
    let received_at = OffsetDateTime::now_utc();
    let mut record = edge.recorder.open(source.as_ref(), received_at, request.headers());
    let response = match read(&edge, source, received_at, request).await {
        Err((refusal, unread)) => {
            let answer = refuse(record, &refusal);
            let kept = match unread {
                Some(body) if !respond::closes(refusal.reason) => discard(body).await,
                _ => false,
            };
            if kept { answer } else { respond::closing(answer) }
        }
        Ok(mut delivery) => {
            record.body_received(delivery.body.len());
            delivery.detailed = record.is_kept();
            delivery.trace = record.trace().cloned();
            let work = AssertUnwindSafe(process(Arc::clone(&edge), delivery, record)).catch_unwind();
            // The record has counted and logged a panic.
            DetachOnDrop::new(&edge.deliveries, work)
                .await
                .unwrap_or_else(|_| respond::problem(Reason::Internal, None))
        }
    };
    if edge.stages.unready.is_cancelled() { respond::closing(response) } else { response }
}

async fn process(edge: Arc<Edge>, delivery: Delivery<Unverified>, mut record: Record) -> Response {
    match edge.pipeline.handle(delivery, |events| record.events_received(events)).await {
        Ok(outcome) => {
            record.finished(&outcome);
            respond::outcome(&outcome)
        }
        Err(Rejection::UnknownSource) => refuse(record, &Reason::UnknownSource.into()),
        Err(Rejection::Signature(error)) => refuse(record, &Reason::from(error).into()),
    }
}

fn refuse(record: Record, refusal: &Refusal) -> Response {
    let (reason, error) = (refusal.reason, refusal.error.as_deref());
    record.refused(reason, error);
    respond::problem(reason, error)
}

/// Checks the head and reads the body. A refusal comes with the body if that may still be read and discarded.
async fn read(
    edge: &Edge,
    source: Option<SourceName>,
    received_at: OffsetDateTime,
    request: Request,
) -> Result<Delivery<Unverified>, (Refusal, Option<Body>)> {
    let head_at = Instant::now();
    let (mut head, body) = request.into_parts();
    if let Some(refusal) = head.extensions.remove::<Refusal>() {
        return Err((refusal, None));
    }
    let source = source.ok_or_else(|| edge.unknown_source(head.uri.path()));
    let admitted = source.and_then(|source| Ok((source, edge.admit(&head)?)));
    let (source, (headers, mut permit)) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            // Reading the body would send a 100 to a sender that waits for one.
            let unread = (!head.headers.contains_key(header::EXPECT)).then_some(body);
            return Err((refusal, unread));
        }
    };
    let reading = collect(edge, body, &mut permit, head_at + edge.options.body_timeout / PROMPT);
    let read = timeout_at(head_at + edge.options.body_timeout, reading).await;
    let body = read.unwrap_or(Err(Reason::BodyTimeout)).map_err(|reason| (reason.into(), None))?;
    permit.shrink_to(body.len());
    let answer_by = head_at + edge.options.answer_timeout;
    let mut delivery = Delivery::new(source, received_at, answer_by, headers, body);
    delivery.permit = Some(Arc::new(permit));
    Ok(delivery)
}

/// A body is prompt if it arrives within this fraction of the body timeout.
const PROMPT: u32 = 8;

/// Reads the whole body, up to its limit. From `prompt_until` on the permit is charged per chunk.
async fn collect(
    edge: &Edge,
    mut body: Body,
    permit: &mut Permit,
    prompt_until: Instant,
) -> Result<Bytes, Reason> {
    let mut whole = BodyBuffer::new(permit.bytes());
    let mut prompt = true;
    loop {
        let frame = if prompt {
            match timeout_at(prompt_until, body.frame()).await {
                Ok(frame) => frame,
                Err(_) => {
                    prompt = false;
                    permit.suspend(whole.capacity());
                    continue;
                }
            }
        } else {
            body.frame().await
        };
        let Some(frame) = frame else { break };
        // Shorter than its Content-Length, or a malformed chunk.
        let frame = frame.map_err(|_| Reason::BadFraming)?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > edge.options.max_body_bytes {
            return Err(Reason::BodyTooLarge);
        }
        edge.limiter.charge(permit, whole.capacity_with(data.len()))?;
        whole.push(data);
    }
    edge.limiter.resume(permit)?;
    Ok(whole.into_bytes())
}

/// A body while it is read. Most are one frame, which is not copied. Its capacity never exceeds what the permit
/// is charged for.
struct BodyBuffer {
    first: Bytes,
    more: Vec<u8>,
    /// The Content-Length, or the limit of bodies.
    limit: usize,
}

impl BodyBuffer {
    fn new(limit: usize) -> Self {
        Self { first: Bytes::new(), more: Vec::new(), limit }
    }

    fn len(&self) -> usize {
        if self.more.is_empty() { self.first.len() } else { self.more.len() }
    }

    /// Bytes of memory.
    fn capacity(&self) -> usize {
        if self.more.is_empty() { self.first.len() } else { self.more.capacity() }
    }

    /// Bytes of memory once `more` bytes are added. Growth doubles the capacity, up to the limit.
    fn capacity_with(&self, more: usize) -> usize {
        let needed = self.len() + more;
        if self.len() == 0 || needed <= self.capacity() {
            return needed.max(self.capacity());
        }
        needed.max(self.limit.min(2 * self.capacity()))
    }

    fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        let capacity = self.capacity_with(data.len());
        self.more.reserve_exact(capacity - self.more.len());
        if self.more.is_empty() {
            self.more.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.more.extend_from_slice(&data);
    }

    fn into_bytes(mut self) -> Bytes {
        // A chunked body may have left spare capacity.
        self.more.shrink_to_fit();
        if self.more.is_empty() { self.first } else { self.more.into() }
    }
}

/// How much of the body of a refused request is read, and for how long, to keep its connection.
const DISCARDED_BYTES: usize = 64 * 1024;
const DISCARDED_WITHIN: Duration = Duration::from_millis(200);

/// Reads and discards a body. False if it is too long and the connection must be closed.
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

/// Work of a request that must not be cancelled with it: dropped before its end, it continues as a task. Tracked
/// from its start. Spawning each from the start would cost two task switches per request.
struct DetachOnDrop<T: Send + 'static> {
    /// None once it has ended or panicked.
    work: Option<BoxFuture<'static, T>>,
    tracker: TaskTracker,
    _tracked: TaskTrackerToken,
}

impl<T: Send + 'static> DetachOnDrop<T> {
    /// Starts at the first poll, or when dropped.
    fn new(tracker: &TaskTracker, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self { work: Some(work.boxed()), tracker: tracker.clone(), _tracked: tracker.token() }
    }
}

impl<T: Send + 'static> Future for DetachOnDrop<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut work = self.work.take().expect("a future is not polled after it has ended");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for DetachOnDrop<T> {
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            self.tracker.spawn_on(work, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn body_buffer_capacity_never_exceeds_its_charge() {
        for (length, limit) in [(100_000, 100_000), (100_000, 512 * 1024), (7, 7), (7, 100)] {
            for piece in [1, 7, 1000, 65_536, length] {
                let body = vec![b'x'; length];
                let (mut whole, mut charged) = (BodyBuffer::new(limit), 0);
                for piece in body.chunks(piece) {
                    charged = charged.max(whole.capacity_with(piece.len()));
                    whole.push(Bytes::copy_from_slice(piece));
                    assert!(whole.capacity() <= charged && charged <= limit, "{charged} of {limit}");
                }
                let whole = whole.into_bytes();
                assert_eq!(whole, body);
                assert_eq!(Vec::from(whole).capacity(), length, "in pieces of {piece}");
            }
        }
    }

    #[tokio::test]
    async fn dropped_work_goes_on() {
        for polls in [0, 1] {
            let (tracker, go, done) = (TaskTracker::new(), Arc::new(Notify::new()), Arc::new(Notify::new()));
            let (wait, finish) = (Arc::clone(&go), Arc::clone(&done));
            let mut work = DetachOnDrop::new(&tracker, async move {
                wait.notified().await;
                finish.notify_one();
            });
            for _ in 0..polls {
                assert!((&mut work).now_or_never().is_none());
            }
            assert_eq!(tracker.len(), 1);
            drop(work);
            go.notify_one();
            done.notified().await;
            tracker.close();
            tracker.wait().await;
        }
    }

    #[tokio::test]
    async fn completed_work_leaves_no_task() {
        let tracker = TaskTracker::new();
        assert_eq!(DetachOnDrop::new(&tracker, async { 7 }).await, 7);
        assert!(tracker.is_empty());
    }
}
