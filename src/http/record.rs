//! Writes down how each delivery ended: one log line, and the metrics. What goes unfinished, because
//! a task panicked, is written down as `internal`, so that the account balances whatever happens.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::respond;
use crate::delivery::SourceName;
use crate::metrics::{Metrics, SourceMetrics};
use crate::pipeline::outcome::{Outcome, Reason, UNKNOWN_CATEGORY};

/// Lines about requests that proved nothing, in one second; an attacker can cause any number.
const UNPROVEN_LINES_A_SECOND: u32 = 10;

/// Opens a record for each request, and holds what they share: counters, and how many lines are left.
pub struct Recorder {
    sources: HashMap<String, Arc<SourceMetrics>>,
    no_source: Arc<SourceMetrics>,
    unproven: Arc<Mutex<Allowance>>,
}

impl Recorder {
    /// A recorder of one bridge.
    pub fn new(metrics: &Arc<Metrics>) -> Self {
        Self {
            sources: metrics.sources(),
            no_source: Arc::new(SourceMetrics::new(metrics, None)),
            unproven: Arc::new(Mutex::new(Allowance::new())),
        }
    }

    /// The record of a request whose head has just been received.
    pub(super) fn open(&self, source: Option<&SourceName>, received_at: OffsetDateTime) -> Record {
        let metrics = source.and_then(|source| self.sources.get(source.as_str()));
        Record {
            metrics: Arc::clone(metrics.unwrap_or(&self.no_source)),
            unproven: Arc::clone(&self.unproven),
            received_at,
            started: Instant::now(),
            bytes: 0,
            unsettled_events: 0,
            open: true,
        }
    }
}

/// How often it is looked whether lines were left out that nobody has told of.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Recorder {
    /// Tells of lines that were left out where no later line does, until `over`, and then of the last.
    pub async fn tell_left_out(&self, over: CancellationToken) {
        while tokio::time::timeout(LOOK_EVERY, over.cancelled()).await.is_err() {
            self.tell(Allowance::forgotten);
        }
        self.tell(Allowance::rest);
    }

    fn tell(&self, take: impl FnOnce(&mut Allowance) -> u64) {
        let left_out = take(&mut self.unproven.lock());
        if left_out > 0 {
            tracing::info!(left_out, "lines about deliveries that proved nothing were left out");
        }
    }
}

/// One delivery until it has ended.
pub(super) struct Record {
    metrics: Arc<SourceMetrics>,
    unproven: Arc<Mutex<Allowance>>,
    received_at: OffsetDateTime,
    started: Instant,
    /// Size of the body.
    pub(super) bytes: usize,
    unsettled_events: usize,
    open: bool,
}

impl Record {
    /// The delivery is genuine and has so many events.
    pub(super) fn events_received(&mut self, events: usize) {
        self.unsettled_events = events;
        self.metrics.events_received(events as u64);
    }

    /// Nothing is known of the sender. Gives the reason back, for the answer.
    pub(super) fn refused(mut self, reason: Reason) -> Reason {
        if reason.is_of_signature() {
            self.metrics.signature(None, reason.slug());
        }
        self.close(reason);
        if let Some(left_out) = self.unproven.lock().line() {
            let (source, bytes, duration_ms) = (self.source(), self.bytes, self.milliseconds());
            let status = respond::status(reason).as_u16();
            tracing::info!(
                source,
                reason = reason.slug(),
                status,
                duration_ms,
                events = 0,
                published = 0,
                duplicates = 0,
                filtered = 0,
                quarantined = 0,
                bytes,
                left_out,
                "delivery"
            );
        }
        reason
    }

    /// The delivery is genuine and has ended.
    pub(super) fn finished(mut self, outcome: &Outcome) {
        self.metrics.signature(Some(&outcome.secret), "ok");
        self.metrics.last_delivery(self.received_at.unix_timestamp());
        for event in &outcome.events {
            self.metrics.event(event.category, event.result.label());
        }
        self.unsettled_events = 0;
        for _ in 0..outcome.unidentified {
            self.metrics.identity_missing();
        }
        let reason = outcome.reason();
        self.close(reason);
        self.log(reason, outcome);
    }

    fn log(&self, reason: Reason, outcome: &Outcome) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    source = self.source(),
                    reason = reason.slug(),
                    status = respond::status(reason).as_u16(),
                    duration_ms = self.milliseconds(),
                    events = outcome.events.len(),
                    published = outcome.count("published"),
                    duplicates = outcome.count("duplicate"),
                    filtered = outcome.count("filtered"),
                    quarantined = outcome.count("quarantined"),
                    delivery_id = outcome.delivery_id.as_deref(),
                    webhook_id = outcome.webhook_id.as_deref(),
                    secret = &*outcome.secret,
                    bytes = self.bytes,
                    error = outcome.failure().map(tracing::field::display),
                    "delivery"
                )
            };
        }
        if outcome.failure().is_some() {
            line!(warn);
        } else {
            line!(info);
        }
    }

    fn close(&mut self, reason: Reason) {
        self.open = false;
        self.metrics.delivery(reason.slug(), self.started.elapsed().as_secs_f64());
    }

    fn source(&self) -> &str {
        self.metrics.name()
    }

    /// Milliseconds since the head, to the microsecond.
    fn milliseconds(&self) -> f64 {
        self.started.elapsed().as_micros() as f64 / 1000.0
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        for _ in 0..self.unsettled_events {
            self.metrics.event(UNKNOWN_CATEGORY, "failed");
        }
        if self.open && std::thread::panicking() {
            self.close(Reason::Internal);
            let (source, bytes, duration_ms) = (self.source(), self.bytes, self.milliseconds());
            let reason = Reason::Internal.slug();
            tracing::error!(source, reason, status = 500, duration_ms, bytes, "delivery");
        }
    }
}

/// How many lines may still be written in this second.
struct Allowance {
    second: Instant,
    lines: u32,
    left_out: u64,
}

impl Allowance {
    fn new() -> Self {
        Self { second: Instant::now(), lines: 0, left_out: 0 }
    }

    /// Whether a line may be written, and how many were left out before it.
    fn line(&mut self) -> Option<u64> {
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.second = Instant::now();
            self.lines = 0;
        }
        if self.lines >= UNPROVEN_LINES_A_SECOND {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(self.rest())
    }

    /// What was left out, once nothing has come for so long that no line will tell.
    fn forgotten(&mut self) -> u64 {
        if self.second.elapsed() >= 2 * Duration::from_secs(1) { self.rest() } else { 0 }
    }

    /// What was left out.
    fn rest(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}
