//! Sends spans to a collector: OTLP/HTTP in its JSON encoding (OTLP 1.x, "OTLP/HTTP", "JSON Protobuf Encoding": ids
//! in hex, 64-bit integers as strings).

use std::time::Duration;

use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use prometheus::IntCounter;
use serde_json::{Value as Json, json};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Span, SpanKind, Spans, Value};
use crate::http_client::HttpClient;
use crate::version::VERSION;

/// The path below the endpoint, as the specification has it.
const PATH: &str = "/v1/traces";

/// Spans of one request at most, and how long the first of them waits for more.
const BATCH: usize = 512;
const WAIT: Duration = Duration::from_secs(1);

/// Tries of one batch, and the pause after the first; it doubles. Meanwhile spans wait in the queue.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// The least time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Counts of spans.
#[derive(Clone)]
pub struct Counters {
    pub exported: IntCounter,
    pub failed: IntCounter,
}

pub struct Exporter {
    pub client: HttpClient,
    /// Without a slash at its end.
    pub endpoint: String,
    pub counters: Counters,
}

impl Exporter {
    /// Exports until `over`, and then once more what waits.
    pub async fn run(self, mut spans: Spans, over: CancellationToken) {
        let mut warned = None::<Instant>;
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                () = over.cancelled() => return self.flush(&mut spans).await,
                received = spans.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        // Every span was exported. Before the end of the stop, an end would count as a failure.
                        return over.cancelled().await;
                    }
                }
            }
            let until = Instant::now() + WAIT;
            while batch.len() < BATCH && !over.is_cancelled() {
                let room = BATCH - batch.len();
                let more = tokio::select! {
                    () = over.cancelled() => break,
                    more = timeout_at(until, spans.recv_many(&mut batch, room)) => more,
                };
                if !matches!(more, Ok(1..)) {
                    break;
                }
            }
            let sent = self.send_patiently(&batch, &over).await;
            self.count(&batch, sent.is_ok());
            if let Err(error) = sent
                && warned.is_none_or(|at| at.elapsed() >= WARN_EVERY)
            {
                warned = Some(Instant::now());
                tracing::warn!(
                    %error,
                    spans = batch.len(),
                    "cannot export traces: check traces.endpoint and the collector; deliveries go on without them"
                );
            }
        }
    }

    /// Exports what waits, each batch once: there is no time for another try.
    async fn flush(&self, spans: &mut Spans) {
        loop {
            let mut batch = Vec::new();
            while batch.len() < BATCH
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            let sent = self.send(&batch).await;
            self.count(&batch, sent.is_ok());
        }
    }

    fn count(&self, batch: &[Span], sent: bool) {
        let Counters { exported, failed } = &self.counters;
        if sent { exported } else { failed }.inc_by(batch.len() as u64);
    }

    async fn send_patiently(&self, batch: &[Span], over: &CancellationToken) -> Result<(), String> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.send(batch).await {
                Err((error, true)) if !over.is_cancelled() => {
                    tracing::debug!(error, "trying to export traces again");
                }
                sent => return sent.map_err(|(error, _)| error),
            }
            tokio::select! {
                () = over.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause *= 2;
        }
        self.send(batch).await.map_err(|(error, _)| error)
    }

    /// Sends one batch; an error says whether a later try may succeed.
    async fn send(&self, batch: &[Span]) -> Result<(), (String, bool)> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{PATH}", self.endpoint))
            .header(CONTENT_TYPE, "application/json");
        let body = Bytes::from(encode(batch).to_string());
        let answer = self.client.send(request, body).await.map_err(|error| (error.to_string(), true))?;
        match answer.status {
            200..300 => Ok(()),
            status @ (429 | 502..=504) => Err((format!("the collector answered {status}"), true)),
            status => Err((format!("the collector answered {status}"), false)),
        }
    }
}

/// An `ExportTraceServiceRequest`.
fn encode(batch: &[Span]) -> Json {
    let resource = [("service.name", env!("CARGO_PKG_NAME").into()), ("service.version", VERSION.into())];
    json!({ "resourceSpans": [{
        "resource": { "attributes": attributes(&resource) },
        "scopeSpans": [{
            "scope": { "name": env!("CARGO_PKG_NAME"), "version": VERSION },
            "spans": batch.iter().map(span).collect::<Vec<_>>(),
        }],
    }] })
}

fn span(span: &Span) -> Json {
    let Span { context, parent, state, kind, name, start, end, attributes: own, error } = span;
    // Bits 8 and 9: whether the parent is another process's is known, and whether it is.
    let remote = u32::from(parent.is_some() && *kind == SpanKind::Server);
    let flags = u32::from(context.sampled) | 1 << 8 | remote << 9;
    let mut json = json!({
        "traceId": format!("{:032x}", context.trace_id),
        "spanId": format!("{:016x}", context.span_id),
        "flags": flags,
        "kind": *kind as u8,
        "name": name,
        "startTimeUnixNano": nanoseconds(*start),
        "endTimeUnixNano": nanoseconds(*end),
        "attributes": attributes(own),
    });
    if let Some(parent) = parent {
        json["parentSpanId"] = json!(format!("{:016x}", parent.span_id));
    }
    if let Some(state) = state {
        json["traceState"] = json!(**state);
    }
    if let Some(error) = error {
        // STATUS_CODE_ERROR.
        json["status"] = json!({ "code": 2, "message": error });
    }
    json
}

fn nanoseconds(at: OffsetDateTime) -> String {
    at.unix_timestamp_nanos().max(0).to_string()
}

fn attributes(all: &[(&'static str, Value)]) -> Vec<Json> {
    let attribute = |(key, value): &(&str, Value)| {
        let value = match value {
            Value::Text(text) => json!({ "stringValue": text }),
            Value::Number(number) => json!({ "intValue": number.to_string() }),
        };
        json!({ "key": key, "value": value })
    };
    all.iter().map(attribute).collect()
}
