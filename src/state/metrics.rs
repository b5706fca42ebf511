//! The metrics of `state`.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge};

use crate::attio::entities::{Kind, ReadResult};
use crate::metrics::family::{self, CONSTANT, Families, opts};
use crate::named_enum::named_enum;
use crate::version::{REVISION, VERSION};

named_enum! {
    /// What became of an event.
    pub enum EventResult,
    /// The result in labels.
    as_str {
        /// It leads to a read.
        Fetched = "fetched",
        /// A read that another event of the entity leads to shows it too.
        Coalesced = "coalesced",
        /// It leads to a tombstone, or comes after one.
        Gone = "gone",
        /// Its entity is not kept, or the key may not see its object or list.
        Ignored = "ignored",
    }
}

pub struct StateMetrics {
    families: Families,
    events: IntCounterVec,
    reads: IntCounterVec,
    published: IntCounterVec,
    rate_limited: IntCounter,
    /// Age of the oldest event that is not done, in seconds.
    pub lag: Gauge,
    /// Events that were taken and are not done.
    pub backlog: IntGauge,
    /// Entities that cannot be read or published.
    pub stuck: IntGauge,
}

impl StateMetrics {
    /// Creates every label set, at 0.
    #[expect(clippy::new_without_default, reason = "it registers metrics")]
    pub fn new() -> Self {
        let families = Families::default();
        families
            .gauges("build_info", "Always 1.", &["version", "revision"])
            .with_label_values(&[VERSION, REVISION])
            .set(1);
        families.register_process();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            families.counters(&format!("state_{name}_total"), help, labels)
        };
        let lag = opts("state_lag_seconds", "Age of the oldest event that is not done.");
        let limited = opts("state_rate_limited_total", "Requests that Attio answered with 429.");
        let metrics = Self {
            events: counters(
                "events",
                "Events taken, each once, by what becomes of them.",
                &["kind", "result"],
            ),
            reads: counters("reads", "Requests to Attio.", &["kind", "result"]),
            published: counters("published", "States and tombstones acknowledged by the broker.", &["kind"]),
            rate_limited: families.register(IntCounter::with_opts(limited).expect(CONSTANT)),
            lag: families.register(Gauge::with_opts(lag).expect(CONSTANT)),
            backlog: families.gauge("state_backlog", "Events taken that are not done."),
            stuck: families.gauge(
                "state_stuck",
                "Entities that cannot be read, are larger than the broker takes, or whose answers are always too old; they are tried again.",
            ),
            families,
        };
        for kind in Kind::ALL {
            metrics.published.with_label_values(&[kind.as_str()]);
            for result in EventResult::ALL {
                metrics.events.with_label_values(&[kind.as_str(), result.as_str()]);
            }
            for result in ReadResult::ALL {
                metrics.reads.with_label_values(&[kind.as_str(), result.as_str()]);
            }
        }
        metrics
    }

    pub fn event(&self, kind: Kind, result: EventResult) {
        self.events.with_label_values(&[kind.as_str(), result.as_str()]).inc();
    }

    pub fn read(&self, kind: Kind, result: ReadResult) {
        self.reads.with_label_values(&[kind.as_str(), result.as_str()]).inc();
        if result == ReadResult::RateLimited {
            self.rate_limited.inc();
        }
    }

    pub fn published(&self, kind: Kind) {
        self.published.with_label_values(&[kind.as_str()]).inc();
    }

    /// In the Prometheus text format. It reads `/proc`: call it on a thread that may block.
    pub fn render(&self) -> Vec<u8> {
        family::text(&self.families.gather())
    }
}
