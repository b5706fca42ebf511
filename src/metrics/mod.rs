//! Every metric of the bridge: name, help and labels.
//!
//! Label sets are closed: labels come from the configuration and from enums, never from the wire, and every
//! combination starts at 0.

mod account;
pub(crate) mod family;
pub mod samples;
mod store;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use crate::version::{REVISION, VERSION};
use account::EventAccount;
use family::{CONSTANT, Families};
pub use store::{StoreMetrics, StoreResult};

/// The `source` label of requests to no configured source.
pub const NO_SOURCE: &str = "none";

/// The `secret` label of signatures that matched no secret.
pub const NO_SECRET: &str = "none";

#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// Source names, each with the labels of its secrets.
    pub sources: Vec<(String, Vec<String>)>,
    pub reasons: Vec<&'static str>,
    pub categories: Vec<&'static str>,
    pub event_results: Vec<&'static str>,
    pub signature_results: Vec<&'static str>,
    pub publish_results: Vec<&'static str>,
    pub bus: &'static str,
    pub destinations: Vec<String>,
}

/// All metrics of one bridge, on a registry of its own.
pub struct Metrics {
    families: Families,
    labels: Labels,
    account: EventAccount,
    deliveries: IntCounterVec,
    delivery_duration: HistogramVec,
    signature_verifications: IntCounterVec,
    identity_missing: IntCounterVec,
    publish_attempts: IntCounterVec,
    publish_duration: HistogramVec,
    publish_in_flight: IntGaugeVec,
    last_delivery: IntGaugeVec,
    config_reloads: IntCounterVec,
    bus: BusMetrics,
    dedup: DedupMetrics,
    store: StoreMetrics,
}

#[derive(Clone)]
pub struct DedupMetrics {
    /// Ids seen for the first time.
    pub miss: IntCounter,
    /// Ids already acknowledged.
    pub hit: IntCounter,
    /// Ids whose first publish is in flight.
    pub joined: IntCounter,
    pub entries: IntGauge,
    /// Ids evicted at the end of the window.
    pub expired: IntCounter,
    /// Ids evicted early because the memory was full.
    pub capacity: IntCounter,
}

impl DedupMetrics {
    fn new(r: &Families) -> Self {
        let lookups = r.counters("dedup_lookups_total", "Lookups in the dedup stage.", &["result"]);
        let evictions = r.counters("dedup_evictions_total", "Ids evicted from the dedup memory.", &["cause"]);
        Self {
            miss: lookups.with_label_values(&["miss"]),
            hit: lookups.with_label_values(&["hit"]),
            joined: lookups.with_label_values(&["joined"]),
            entries: r.gauge("dedup_entries", "Ids remembered as acknowledged."),
            expired: evictions.with_label_values(&["expired"]),
            capacity: evictions.with_label_values(&["capacity"]),
        }
    }
}

pub struct PublishMetrics {
    /// Messages enqueued without a result yet, of the whole bus.
    pub in_flight: IntGauge,
    /// Seconds from enqueueing to the result, of the whole bus.
    pub duration: Histogram,
    attempts: Vec<(&'static str, IntCounter)>,
}

impl PublishMetrics {
    /// Counts the result of one publish. Results outside the closed set are not counted.
    pub fn attempt(&self, result: &str) {
        if let Some((_, counter)) = self.attempts.iter().find(|(label, _)| *label == result) {
            counter.inc();
        }
    }
}

#[derive(Clone)]
pub struct BusMetrics {
    /// 1 while the broker is reachable.
    pub up: IntGauge,
    /// Times the client was rebuilt.
    pub rebuilds: IntCounter,
    /// Times the broker was found to be another, or what it holds to be created anew.
    pub data_losses: IntCounter,
}

impl BusMetrics {
    fn new(r: &Families, bus: &str) -> Self {
        let rebuilds = "Clients rebuilt: after a fatal error, or because the broker is another.";
        let rebuilds = r.counters("bus_rebuilds_total", rebuilds, &["bus"]);
        let changes = "Times the broker was found to be another, or its topics or stream to be created anew.";
        let changes = r.counters("bus_data_losses_total", changes, &["bus"]);
        Self {
            up: r.gauges("bus_up", "1 while the broker is reachable.", &["bus"]).with_label_values(&[bus]),
            rebuilds: rebuilds.with_label_values(&[bus]),
            data_losses: changes.with_label_values(&[bus]),
        }
    }
}

/// Log lines dropped because stderr was not read. A process has one log, so this counter is in every registry.
pub fn log_dropped() -> IntCounter {
    static DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
        let help = "Log lines dropped because stderr was not read.";
        IntCounter::new("attio_bridge_log_dropped_total", help).expect(CONSTANT)
    });
    DROPPED.clone()
}

impl Metrics {
    /// Registers everything and sets every label combination to 0.
    pub fn new(labels: Labels) -> Arc<Self> {
        let r = Families::default();
        r.gauges("build_info", "Always 1.", &["version", "revision"])
            .with_label_values(&[VERSION, REVISION])
            .set(1);
        r.register(log_dropped());
        r.register_process();
        let metrics = Self {
            account: EventAccount::new(&r),
            deliveries: r.counters(
                "deliveries_total",
                "Deliveries answered, by reason.",
                &["source", "reason"],
            ),
            delivery_duration: r.histograms(
                "delivery_duration_seconds",
                "From the request's head to its answer.",
                &["source"],
            ),
            signature_verifications: r.counters(
                "signature_verifications_total",
                "Signatures checked, by the label of the secret that matched.",
                &["source", "secret", "result"],
            ),
            identity_missing: r.counters(
                "identity_missing_total",
                "Events published without dedup, because they have no id and no idempotency key.",
                &["source"],
            ),
            publish_attempts: r.counters(
                "publish_attempts_total",
                "Messages enqueued in the bus client that have a result.",
                &["bus", "destination", "result"],
            ),
            publish_duration: r.histograms(
                "publish_duration_seconds",
                "From enqueueing to the result of the publish.",
                &["bus"],
            ),
            publish_in_flight: r.gauges(
                "publish_in_flight",
                "Messages enqueued in the bus client without a result yet.",
                &["bus"],
            ),
            last_delivery: r.gauges(
                "last_delivery_timestamp_seconds",
                "Unix time of the last delivery whose signature matched.",
                &["source"],
            ),
            config_reloads: r.counters("config_reloads_total", "Reloads of the secrets.", &["result"]),
            bus: BusMetrics::new(&r, labels.bus),
            dedup: DedupMetrics::new(&r),
            store: StoreMetrics::new(&r),
            families: r,
            labels,
        };
        let metrics = Arc::new(metrics);
        metrics.initialise();
        metrics
    }

    /// Creates every label combination, so that `rate()` sees the first increase of each. Most are created with
    /// their handles.
    fn initialise(self: &Arc<Self>) {
        let labels = &self.labels;
        self.sources();
        SourceMetrics::new(self, None);
        for (source, secrets) in &labels.sources {
            for secret in secrets {
                self.secret(source, secret);
            }
            for result in labels.signature_results.iter().filter(|result| **result != "ok") {
                self.signature_verifications.with_label_values(&[source, NO_SECRET, result]);
            }
        }
        for destination in &labels.destinations {
            self.publish(destination);
        }
        for result in ["ok", "failed"] {
            self.config_reloads.with_label_values(&[result]);
        }
    }

    pub fn dedup(&self) -> DedupMetrics {
        self.dedup.clone()
    }

    pub fn store(&self) -> StoreMetrics {
        self.store.clone()
    }

    pub fn bus(&self) -> BusMetrics {
        self.bus.clone()
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

    /// Creates the counter of a secret that came with a reload, at 0.
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

    /// Everything in the Prometheus text format 0.0.4. Nothing on the data path waits for it, but it reads
    /// `/proc`: call it on a thread that may block.
    pub fn render(&self) -> Vec<u8> {
        family::text(&self.families.gather())
    }

    /// The media type of [`Self::render`].
    pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
}

pub struct SourceMetrics {
    metrics: Arc<Metrics>,
    name: String,
    deliveries: Vec<(&'static str, IntCounter)>,
    duration: Histogram,
    /// None for requests to no configured source, which have no events.
    genuine: Option<Genuine>,
}

/// Counters of deliveries whose signature matched.
struct Genuine {
    received: IntCounter,
    events: Vec<(&'static str, Vec<(&'static str, IntCounter)>)>,
    identity_missing: IntCounter,
    last_delivery: IntGauge,
}

impl SourceMetrics {
    /// Handles of a source; `None` for requests to no configured source.
    pub fn new(metrics: &Arc<Metrics>, source: Option<&str>) -> Self {
        let name = source.unwrap_or(NO_SOURCE);
        let labels = &metrics.labels;
        let delivery =
            |reason: &&'static str| (*reason, metrics.deliveries.with_label_values(&[name, *reason]));
        Self {
            name: name.to_owned(),
            deliveries: labels.reasons.iter().map(delivery).collect(),
            duration: metrics.delivery_duration.with_label_values(&[name]),
            genuine: source.map(|name| Genuine::new(metrics, name)),
            metrics: Arc::clone(metrics),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts an answered delivery and observes how long it took.
    pub fn delivery(&self, reason: &str, seconds: f64) {
        if let Some(counter) = find(&self.deliveries, reason) {
            counter.inc();
        }
        self.duration.observe(seconds);
    }

    /// Counts a signature check; `secret` is the label of the secret that matched. Looked up each time, because a
    /// reload may change the secrets.
    pub fn signature(&self, secret: Option<&str>, result: &str) {
        let labels = [&self.name, secret.unwrap_or(NO_SECRET), result];
        self.metrics.signature_verifications.with_label_values(&labels).inc();
    }

    pub fn last_delivery(&self, unix_seconds: i64) {
        if let Some(genuine) = &self.genuine {
            genuine.last_delivery.set(unix_seconds);
        }
    }

    /// Counts an event without an id or idempotency key.
    pub fn identity_missing(&self) {
        if let Some(genuine) = &self.genuine {
            genuine.identity_missing.inc();
        }
    }

    /// Counts events as received. They are in flight until [`Self::events`] counts their results.
    pub fn events_received(&self, count: u64) {
        if let Some(genuine) = &self.genuine {
            genuine.received.inc_by(count);
        }
    }

    /// Counts events with their category and result.
    pub fn events(&self, events: impl Iterator<Item = (&'static str, &'static str)>) {
        let Some(genuine) = &self.genuine else { return };
        EventAccount::before_results();
        for (category, result) in events {
            let results = find(&genuine.events, category);
            if let Some(counter) = results.and_then(|results| find(results, result)) {
                counter.inc();
            }
        }
    }
}

impl Genuine {
    fn new(metrics: &Metrics, name: &str) -> Self {
        let results = &metrics.labels.event_results;
        let category = |category: &&'static str| {
            let result = |result: &&'static str| {
                (*result, metrics.account.results.with_label_values(&[name, *category, *result]))
            };
            (*category, results.iter().map(result).collect())
        };
        Self {
            received: metrics.account.received.with_label_values(&[name]),
            events: metrics.labels.categories.iter().map(category).collect(),
            identity_missing: metrics.identity_missing.with_label_values(&[name]),
            last_delivery: metrics.last_delivery.with_label_values(&[name]),
        }
    }
}

/// Linear search: the sets are small and the most likely members come first.
fn find<'a, T>(all: &'a [(&'static str, T)], wanted: &str) -> Option<&'a T> {
    all.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use prometheus::core::{Collector, Desc};
    use prometheus::proto::MetricFamily;

    use super::*;

    /// A collector that stalls the scrape until the test lets it go.
    #[derive(Clone)]
    struct Stalled {
        gauge: IntGauge,
        entered: mpsc::SyncSender<()>,
        release: Arc<parking_lot::Mutex<mpsc::Receiver<()>>>,
    }

    impl Collector for Stalled {
        fn desc(&self) -> Vec<&Desc> {
            self.gauge.desc()
        }

        fn collect(&self) -> Vec<MetricFamily> {
            self.entered.send(()).unwrap();
            // Disconnected: the test has failed already.
            let _ = self.release.lock().recv();
            self.gauge.collect()
        }
    }

    #[test]
    fn counting_a_delivery_does_not_wait_for_a_scrape() {
        let metrics = Metrics::new(Labels {
            sources: vec![("attio".into(), vec!["default".into()])],
            reasons: vec!["accepted"],
            categories: vec!["record"],
            event_results: vec!["published"],
            ..Labels::default()
        });
        let ((entered, entry), (go, release)) = (mpsc::sync_channel(2), mpsc::sync_channel(2));
        let gauge = IntGauge::new("stalled", "A stalled collector.").unwrap();
        metrics.families.register(Stalled {
            gauge,
            entered,
            release: Arc::new(parking_lot::Mutex::new(release)),
        });
        let source = metrics.sources().remove("attio").unwrap();
        let scrape = std::thread::spawn({
            let metrics = Arc::clone(&metrics);
            move || metrics.render()
        });
        entry.recv().unwrap();
        let (done, counted) = mpsc::sync_channel(2);
        std::thread::spawn(move || {
            source.events_received(2);
            source.events([("record", "published")].into_iter());
            source.delivery("accepted", 0.001);
            done.send(()).unwrap();
        });
        let counted = counted.recv_timeout(Duration::from_secs(60));
        go.send(()).unwrap();
        scrape.join().unwrap();
        counted.expect("counting ends while the scrape is stalled");
        drop(go);
        let text = String::from_utf8(metrics.render()).unwrap();
        for line in [
            r#"attio_bridge_events_received_total{source="attio"} 2"#,
            r#"attio_bridge_events_total{category="record",result="published",source="attio"} 1"#,
            "attio_bridge_events_in_flight 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
