//! `GET /deliveries`: the last deliveries and those to come, as server-sent events (HTML Standard, section 9.2).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::http::connection::Endless;
use crate::http::feed::Feed;

/// How often a stream looks for new deliveries. Each look wakes a thread, which costs 0.1 ms of CPU on an idle bridge.
const LOOK: Duration = Duration::from_millis(500);

/// A comment after so long without a delivery: a client that has left is noticed when it is written to.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// A browser connects again so many milliseconds after the stream has ended.
const RETRY: &str = "retry: 1000\n\n";

/// Ends with `over`.
pub(super) fn stream(feed: &Arc<Feed>, headers: &HeaderMap, over: CancellationToken) -> Response {
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let Some(mut reader) = feed.read(last_id) else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many streams are open\n").into_response();
    };
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = Instant::now();
    let next = async move || loop {
        tokio::select! {
            biased;
            () = over.cancelled() => return None,
            _ = looks.tick() => {}
        }
        let mut text = reader.take();
        if text.is_empty() && written.elapsed() >= KEEP_ALIVE {
            text.push_str(":\n\n");
        }
        if !text.is_empty() {
            written = Instant::now();
            return Some(text);
        }
    };
    let entries = stream::unfold(next, async |mut next| Some((next().await?, next)));
    let texts = futures_util::StreamExt::chain(stream::iter([RETRY.to_owned()]), entries);
    let body = Body::from_stream(futures_util::StreamExt::map(texts, Ok::<_, std::convert::Infallible>));
    let mut response = Response::new(body);
    response.extensions_mut().insert(Endless);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
