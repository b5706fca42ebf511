//! Counts and logs each delivery: one log line, and the metrics. A delivery that ends in a panic, or whose client
//! disconnects before the body is complete, is recorded too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::feed::{self, Feed};
use super::respond;
use crate::cloudevent::timestamp;
use crate::delivery::SourceName;
use crate::metrics::{Metrics, NO_SOURCE, SourceMetrics};
use crate::pipeline::outcome::{Outcome, Reason, UNKNOWN_CATEGORY};
use crate::traces::{Trace, Tracer};

/// The path in spans.
const ROUTE: &str = "/webhooks/{source}";

/// Log lines about unauthenticated requests in one second; anybody can cause any number.
const UNAUTHENTICATED_LINES_A_SECOND: u32 = 10;

/// How often to check for suppressed lines that no later line has reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

pub struct Recorder {
    sources: HashMap<String, Arc<SourceMetrics>>,
    no_source: Arc<SourceMetrics>,
    limiter: Arc<Mutex<LineLimiter>>,
    observers: Observers,
}

/// What gets the deliveries besides the log and the metrics.
#[derive(Default)]
pub struct Observers {
    /// None without the admin page.
    pub feed: Option<Arc<Feed>>,
    /// None without traces.
    pub tracer: Option<Tracer>,
}

impl Recorder {
    pub fn new(metrics: &Arc<Metrics>, observers: Observers) -> Self {
        Self {
            sources: metrics.sources(),
            no_source: Arc::new(SourceMetrics::new(metrics, None)),
            limiter: Arc::new(Mutex::new(LineLimiter::new())),
            observers,
        }
    }

    pub(super) fn open(
        &self,
        source: Option<&SourceName>,
        received_at: OffsetDateTime,
        headers: &HeaderMap,
    ) -> Record {
        let Observers { feed, tracer } = &self.observers;
        let begin = |tracer: &Tracer| {
            let parent = headers.get("traceparent").map(HeaderValue::as_bytes);
            let state = headers.get_all("tracestate").iter().map(HeaderValue::as_bytes);
            tracer.begin(parent, state, received_at)
        };
        let metrics = source.and_then(|source| self.sources.get(source.as_str()));
        let started = Instant::now();
        Record {
            metrics: Arc::clone(metrics.unwrap_or(&self.no_source)),
            limiter: Arc::clone(&self.limiter),
            received_at,
            started,
            trace: tracer.as_ref().map(begin),
            feed: feed.as_ref().map(|feed| (Arc::clone(feed), feed.keeps(started))),
            bytes: 0,
            body_received: false,
            events_in_flight: 0,
            open: true,
            number: None,
        }
    }

    /// Reports suppressed lines that no later line reports, until `over`, and then the last of them.
    pub async fn report_suppressed(&self, over: CancellationToken) {
        while tokio::time::timeout(REPORT_INTERVAL, over.cancelled()).await.is_err() {
            self.report(LineLimiter::take_stale);
        }
        self.report(LineLimiter::take);
    }

    fn report(&self, take: impl FnOnce(&mut LineLimiter) -> u64) {
        let left_out = take(&mut self.limiter.lock());
        if left_out > 0 {
            tracing::info!(left_out, "suppressed log lines for unauthenticated requests");
        }
    }
}

pub(super) struct Record {
    metrics: Arc<SourceMetrics>,
    limiter: Arc<Mutex<LineLimiter>>,
    received_at: OffsetDateTime,
    started: Instant,
    /// The feed of the admin page, and whether it keeps this delivery.
    feed: Option<(Arc<Feed>, bool)>,
    trace: Option<Trace>,
    bytes: usize,
    body_received: bool,
    events_in_flight: usize,
    open: bool,
    /// Its number in the feed, once it has ended.
    number: Option<u64>,
}

impl Record {
    pub(super) fn body_received(&mut self, bytes: usize) {
        self.bytes = bytes;
        self.body_received = true;
    }

    pub(super) fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    /// Whether the admin page is to show it.
    pub(super) fn is_kept(&self) -> bool {
        self.feed.as_ref().is_some_and(|(_, kept)| *kept)
    }

    /// The signature matched, and the delivery has so many events.
    pub(super) fn events_received(&mut self, events: usize) {
        self.events_in_flight = events;
        self.metrics.events_received(events as u64);
    }

    /// The request is refused, its sender unauthenticated.
    pub(super) fn refused(mut self, reason: Reason, error: Option<&str>) {
        if reason.is_of_signature() {
            self.metrics.signature(None, reason.slug());
        }
        self.close_unauthenticated(reason, error);
    }

    /// The delivery was verified and has ended.
    pub(super) fn finished(mut self, outcome: &Outcome) {
        self.metrics.signature(Some(&outcome.secret), "ok");
        self.metrics.last_delivery(self.received_at.unix_timestamp());
        self.metrics.events(outcome.events.iter().map(|event| (event.category, event.result.label())));
        self.events_in_flight = 0;
        for _ in 0..outcome.unidentified {
            self.metrics.identity_missing();
        }
        self.close(outcome.reason());
        let error = outcome.failure().or(outcome.rejection.as_ref()).map(ToString::to_string);
        let level = if error.is_some() { Level::WARN } else { Level::INFO };
        self.log(level, outcome.reason(), Some(outcome), None, error.as_deref());
    }

    /// A wrong signature and a path that is nearly right are warnings: the sender and the bridge may be configured
    /// differently.
    fn close_unauthenticated(&mut self, reason: Reason, error: Option<&str>) {
        self.close(reason);
        let left_out = self.limiter.lock().line();
        if left_out.is_some() {
            let misconfigured =
                reason.is_of_signature() || (reason == Reason::UnknownSource && error.is_some());
            let level = if misconfigured { Level::WARN } else { Level::INFO };
            self.log(level, reason, None, left_out, error);
        }
    }

    fn close(&mut self, reason: Reason) {
        self.open = false;
        self.number = self.feed.as_ref().map(|(feed, _)| feed.count());
        self.metrics.delivery(reason.slug(), self.started.elapsed().as_secs_f64());
    }

    /// So far, to the microsecond.
    fn milliseconds(&self) -> f64 {
        self.started.elapsed().as_micros() as f64 / 1000.0
    }

    /// Shows the delivery on the admin page, if that keeps it.
    fn show(&self, reason: Reason, outcome: Option<&Outcome>, error: Option<&str>) {
        let (Some((feed, true)), Some(number)) = (&self.feed, self.number) else { return };
        let events = outcome.map(feed::events).unwrap_or_default();
        feed.push(&feed::Delivery {
            number,
            time: timestamp(self.received_at),
            source: self.metrics.name(),
            status: respond::status(reason).as_u16(),
            reason: reason.slug(),
            duration_ms: self.milliseconds(),
            bytes: self.bytes,
            delivery_id: outcome.and_then(|outcome| outcome.delivery_id.as_deref()),
            webhook_id: outcome.and_then(|outcome| outcome.webhook_id.as_deref()),
            secret: outcome.map(|outcome| &*outcome.secret),
            error,
            more_events: outcome.map_or(0, |outcome| outcome.events.len() - events.len()),
            events,
        });
    }

    /// Ends the span of the delivery (OpenTelemetry's semantic conventions for HTTP servers).
    fn end_trace(&self, reason: Reason, outcome: Option<&Outcome>, error: Option<&str>) {
        let Some(trace) = &self.trace else { return };
        let status = respond::status(reason);
        let events = outcome.map_or(0, |outcome| outcome.events.len());
        let mut attributes = vec![
            ("http.request.method", "POST".into()),
            ("http.route", ROUTE.into()),
            ("url.scheme", "http".into()),
            ("http.response.status_code", i64::from(status.as_u16()).into()),
            ("attio_bridge.source", self.metrics.name().into()),
            ("attio_bridge.reason", reason.slug().into()),
            ("attio_bridge.events", i64::try_from(events).unwrap_or(i64::MAX).into()),
        ];
        // Of a source that is not configured, the path is whatever a scanner tries.
        let path = Some(self.metrics.name()).filter(|name| *name != NO_SOURCE);
        let path = path.map(|name| ROUTE.replace("{source}", name));
        attributes.extend(path.map(|path| ("url.path", path.as_str().into())));
        let delivery_id = outcome.and_then(|outcome| outcome.delivery_id.as_deref());
        attributes.extend(delivery_id.map(|id| ("attio_bridge.delivery_id", id.into())));
        let failed = status.is_server_error();
        attributes.extend(failed.then(|| ("error.type", reason.slug().into())));
        let error = failed.then(|| error.unwrap_or(reason.slug()).to_owned());
        trace.end(format!("POST {ROUTE}"), attributes, error);
    }

    fn log(
        &self,
        level: Level,
        reason: Reason,
        outcome: Option<&Outcome>,
        left_out: Option<u64>,
        error: Option<&str>,
    ) {
        self.show(reason, outcome, error);
        self.end_trace(reason, outcome, error);
        let count = |result| outcome.map_or(0, |outcome| outcome.count(result));
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    source = self.metrics.name(),
                    reason = reason.slug(),
                    status = respond::status(reason).as_u16(),
                    duration_ms = self.milliseconds(),
                    events = outcome.map_or(0, |outcome| outcome.events.len()),
                    published = count("published"),
                    duplicates = count("duplicate"),
                    filtered = count("filtered"),
                    quarantined = count("quarantined"),
                    delivery_id = outcome.and_then(|outcome| outcome.delivery_id.as_deref()),
                    webhook_id = outcome.and_then(|outcome| outcome.webhook_id.as_deref()),
                    secret = outcome.map(|outcome| &*outcome.secret),
                    bytes = self.bytes,
                    left_out,
                    error,
                    "delivery"
                )
            };
        }
        match level {
            Level::ERROR => line!(error),
            Level::WARN => line!(warn),
            _ => line!(info),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.metrics.events(std::iter::repeat_n((UNKNOWN_CATEGORY, "failed"), self.events_in_flight));
        if self.open && std::thread::panicking() {
            self.close(Reason::Internal);
            self.log(Level::ERROR, Reason::Internal, None, None, None);
        } else if self.open && !self.body_received {
            // hyper drops a request when it cannot write to its client, before the body is complete.
            self.close_unauthenticated(Reason::BadFraming, Some("the client disconnected"));
        }
    }
}

/// Limits log lines per second.
struct LineLimiter {
    second: Instant,
    lines: u32,
    suppressed: u64,
}

impl LineLimiter {
    fn new() -> Self {
        Self { second: Instant::now(), lines: 0, suppressed: 0 }
    }

    /// How many lines were suppressed before this one; none if this one must be too.
    fn line(&mut self) -> Option<u64> {
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.second = Instant::now();
            self.lines = 0;
        }
        if self.lines >= UNAUTHENTICATED_LINES_A_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(self.take())
    }

    /// Takes the suppressed lines once there was no further request for two seconds.
    fn take_stale(&mut self) -> u64 {
        if self.second.elapsed() >= Duration::from_secs(2) { self.take() } else { 0 }
    }

    fn take(&mut self) -> u64 {
        std::mem::take(&mut self.suppressed)
    }
}
