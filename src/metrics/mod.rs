//! Every metric of the bridge, its labels and its help, as handles that are passed in.
//!
//! Label sets are closed: they come from the configuration and from the code's own enums, every
//! combination exists from the start at 0, and nothing from the wire becomes a label.

mod source;
pub mod watch;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use parking_lot::RwLock;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

pub use source::SourceMetrics;

/// The `source` label of requests that came in for no configured source.
pub const NO_SOURCE: &str = "none";

/// The `secret` label of signatures that matched no secret.
pub const NO_SECRET: &str = "none";

/// Seconds; the bridge answers in about a millisecond and gives up after four seconds.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The values that labels can take.
#[derive(Clone, Debug)]
pub struct Labels {
    /// Source names, each with the labels of its secrets.
    pub sources: Vec<(String, Vec<String>)>,
    /// Every reason a delivery can end with.
    pub reasons: Vec<&'static str>,
    /// Every category an event can be counted under.
    pub categories: Vec<&'static str>,
    /// Every result an event can end with.
    pub event_results: Vec<&'static str>,
    /// Every result of checking a signature.
    pub signature_results: Vec<&'static str>,
    /// Every result of one publish.
    pub publish_results: Vec<&'static str>,
    /// The bus in use.
    pub bus: &'static str,
    /// Every address of the route table.
    pub destinations: Vec<String>,
}

/// All metrics of one bridge, on a registry of its own.
pub struct Metrics {
    registry: Registry,
    labels: Labels,
    /// Taken for reading by whoever moves events between the three accounts, for writing by the
    /// scrape, so that every scrape balances.
    account: RwLock<()>,
    deliveries: IntCounterVec,
    delivery_duration: HistogramVec,
    events_received: IntCounterVec,
    events: IntCounterVec,
    events_in_flight: IntGauge,
    signature_verifications: IntCounterVec,
    identity_missing: IntCounterVec,
    publish_attempts: IntCounterVec,
    publish_duration: HistogramVec,
    publish_in_flight: IntGaugeVec,
    last_delivery: IntGaugeVec,
    config_reloads: IntCounterVec,
    bus_up: IntGauge,
    bus_rebuilds: IntCounter,
    dedup: DedupMetrics,
}

/// What the dedup stage counts.
#[derive(Clone)]
pub struct DedupMetrics {
    /// Ids seen for the first time.
    pub miss: IntCounter,
    /// Ids already acknowledged.
    pub hit: IntCounter,
    /// Ids whose first publish is still on its way.
    pub joined: IntCounter,
    /// Ids remembered now.
    pub entries: IntGauge,
    /// Ids forgotten at the end of the window.
    pub expired: IntCounter,
    /// Ids forgotten early, to make room.
    pub capacity: IntCounter,
}

/// What one destination counts.
pub struct PublishMetrics {
    /// Messages handed over and not yet settled, over the whole bus.
    pub in_flight: IntGauge,
    /// Seconds from hand-over to verdict, over the whole bus.
    pub duration: Histogram,
    attempts: Vec<(&'static str, IntCounter)>,
}

impl PublishMetrics {
    /// Counts one verdict; labels outside the closed set are not counted.
    pub fn attempt(&self, result: &str) {
        if let Some((_, counter)) = self.attempts.iter().find(|(label, _)| *label == result) {
            counter.inc();
        }
    }
}

/// What a bus reports of itself.
#[derive(Clone)]
pub struct BusMetrics {
    /// 1 while the broker is reachable.
    pub up: IntGauge,
    /// Times the client was built anew after a fatal error.
    pub rebuilds: IntCounter,
}

/// Lines of the log that were dropped because nobody read them. A process has one log, so it has one
/// counter, and every registry shows it.
pub fn log_dropped() -> IntCounter {
    static DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
        let help = "Lines of the log dropped because nobody read them.";
        IntCounter::new("attio_bridge_log_dropped_total", help).expect(CONSTANT)
    });
    DROPPED.clone()
}

impl Metrics {
    /// Registers everything and sets every label combination to 0.
    pub fn new(labels: Labels) -> Arc<Self> {
        let registry = Registry::new();
        let r = &registry;
        let dedup_lookups = counters(r, "dedup_lookups_total", "Lookups in the dedup stage.", &["result"]);
        let dedup_evictions =
            counters(r, "dedup_evictions_total", "Ids forgotten by the dedup memory.", &["cause"]);
        let dedup = DedupMetrics {
            miss: dedup_lookups.with_label_values(&["miss"]),
            hit: dedup_lookups.with_label_values(&["hit"]),
            joined: dedup_lookups.with_label_values(&["joined"]),
            entries: gauges(r, "dedup_entries", "Ids remembered as acknowledged.", &[])
                .with_label_values(&[] as &[&str]),
            expired: dedup_evictions.with_label_values(&["expired"]),
            capacity: dedup_evictions.with_label_values(&["capacity"]),
        };
        let bus_up = gauges(r, "bus_up", "1 while the broker is reachable.", &["bus"]);
        let bus_rebuilds =
            counters(r, "bus_rebuilds_total", "Clients built anew after a fatal error.", &["bus"]);
        let build_info = gauges(r, "build_info", "Always 1.", &["version", "revision"]);
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), REVISION]).set(1);
        register(r, log_dropped());
        register_process(r);

        let metrics = Self {
            account: RwLock::new(()),
            deliveries: counters(
                r,
                "deliveries_total",
                "Deliveries answered, by reason.",
                &["source", "reason"],
            ),
            delivery_duration: histograms(
                r,
                "delivery_duration_seconds",
                "From the request's head to its answer.",
                &["source"],
            ),
            events_received: counters(
                r,
                "events_received_total",
                "Events of deliveries whose signature matched.",
                &["source"],
            ),
            events: counters(
                r,
                "events_total",
                "Events that have their result.",
                &["source", "category", "result"],
            ),
            events_in_flight: gauges(r, "events_in_flight", "Events that have no result yet.", &[])
                .with_label_values(&[] as &[&str]),
            signature_verifications: counters(
                r,
                "signature_verifications_total",
                "Signatures checked, by the label of the secret that matched.",
                &["source", "secret", "result"],
            ),
            identity_missing: counters(
                r,
                "identity_missing_total",
                "Events published without dedup, because nothing identifies them.",
                &["source"],
            ),
            publish_attempts: counters(
                r,
                "publish_attempts_total",
                "Messages handed to the bus client that have their verdict.",
                &["bus", "destination", "result"],
            ),
            publish_duration: histograms(
                r,
                "publish_duration_seconds",
                "From hand-over to the broker's verdict.",
                &["bus"],
            ),
            publish_in_flight: gauges(
                r,
                "publish_in_flight",
                "Messages handed to the bus client without a verdict.",
                &["bus"],
            ),
            last_delivery: gauges(
                r,
                "last_delivery_timestamp_seconds",
                "Unix time of the last delivery whose signature matched.",
                &["source"],
            ),
            config_reloads: counters(r, "config_reloads_total", "Reloads of the secrets.", &["result"]),
            bus_up: bus_up.with_label_values(&[labels.bus]),
            bus_rebuilds: bus_rebuilds.with_label_values(&[labels.bus]),
            dedup,
            registry,
            labels,
        };
        metrics.initialise();
        Arc::new(metrics)
    }

    /// Creates every label combination, so that the first increase of each is seen by `rate()`.
    fn initialise(&self) {
        let labels = &self.labels;
        let named = labels.sources.iter().map(|(name, secrets)| (name.as_str(), secrets.as_slice()));
        for (source, secrets) in named {
            for reason in &labels.reasons {
                self.deliveries.with_label_values(&[source, reason]);
            }
            for category in &labels.categories {
                for result in &labels.event_results {
                    self.events.with_label_values(&[source, category, result]);
                }
            }
            for secret in secrets {
                self.signature_verifications.with_label_values(&[source, secret, "ok"]);
            }
            for result in labels.signature_results.iter().filter(|result| **result != "ok") {
                self.signature_verifications.with_label_values(&[source, NO_SECRET, result]);
            }
            self.delivery_duration.with_label_values(&[source]);
            self.events_received.with_label_values(&[source]);
            self.identity_missing.with_label_values(&[source]);
            self.last_delivery.with_label_values(&[source]);
        }
        for reason in &labels.reasons {
            self.deliveries.with_label_values(&[NO_SOURCE, reason]);
        }
        self.delivery_duration.with_label_values(&[NO_SOURCE]);
        for destination in &labels.destinations {
            for result in &labels.publish_results {
                self.publish_attempts.with_label_values(&[labels.bus, destination, result]);
            }
        }
        self.publish_duration.with_label_values(&[labels.bus]);
        self.publish_in_flight.with_label_values(&[labels.bus]);
        for result in ["ok", "failed"] {
            self.config_reloads.with_label_values(&[result]);
        }
    }

    /// Handles for the dedup stage.
    pub fn dedup(&self) -> DedupMetrics {
        self.dedup.clone()
    }

    /// Handles for the bus.
    pub fn bus(&self) -> BusMetrics {
        BusMetrics { up: self.bus_up.clone(), rebuilds: self.bus_rebuilds.clone() }
    }

    /// Handles for one destination of the route table.
    pub fn publish(&self, destination: &str) -> Arc<PublishMetrics> {
        let bus = self.labels.bus;
        let attempt = |result: &'static str| {
            (result, self.publish_attempts.with_label_values(&[bus, destination, result]))
        };
        Arc::new(PublishMetrics {
            in_flight: self.publish_in_flight.with_label_values(&[bus]),
            duration: self.publish_duration.with_label_values(&[bus]),
            attempts: self.labels.publish_results.iter().copied().map(attempt).collect(),
        })
    }

    /// Sets the count of a secret that came with a reload to 0, unless it has one.
    pub fn secret(&self, source: &str, label: &str) {
        self.signature_verifications.with_label_values(&[source, label, "ok"]);
    }

    /// Counts a reload of the secrets, `ok` or `failed`.
    pub fn config_reload(&self, result: &str) {
        self.config_reloads.with_label_values(&[result]).inc();
    }

    /// Handles for every source, by its name.
    pub fn sources(self: &Arc<Self>) -> HashMap<String, Arc<SourceMetrics>> {
        let handles =
            |(name, _): &(String, _)| (name.clone(), Arc::new(SourceMetrics::new(self, Some(name))));
        self.labels.sources.iter().map(handles).collect()
    }

    /// Everything in the Prometheus text format 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let families = {
            let _still = self.account.write();
            self.registry.gather()
        };
        let mut out = Vec::new();
        // Writing to memory fails only for a family without a name or samples, and none is made.
        if let Err(error) = TextEncoder::new().encode(&families, &mut out) {
            tracing::error!(%error, "cannot render the metrics");
        }
        out
    }

    /// The media type of [`Self::render`].
    pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
}

/// The commit that the binary was built from, where the build knew it.
pub const REVISION: &str = match option_env!("ATTIO_BRIDGE_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry
        .register(Box::new(collector.clone()))
        .expect("names are constants of this file and each is registered once");
    collector
}

const CONSTANT: &str = "name, help and labels are constants of this file and valid";

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let opts = Opts::new(format!("attio_bridge_{name}"), help);
    register(registry, IntCounterVec::new(opts, labels).expect(CONSTANT))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let opts = Opts::new(format!("attio_bridge_{name}"), help);
    register(registry, IntGaugeVec::new(opts, labels).expect(CONSTANT))
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let opts = HistogramOpts::new(format!("attio_bridge_{name}"), help).buckets(BUCKETS.into());
    register(registry, HistogramVec::new(opts, labels).expect(CONSTANT))
}

#[cfg(target_os = "linux")]
fn register_process(registry: &Registry) {
    let process = prometheus::process_collector::ProcessCollector::for_self();
    // Standard process metrics are an extra: a registry that refuses them still works.
    if let Err(error) = registry.register(Box::new(process)) {
        tracing::warn!(%error, "cannot export process metrics");
    }
}

#[cfg(not(target_os = "linux"))]
fn register_process(_: &Registry) {}
