//! Metric families on a registry of their own, the account of events, and the text format of a scrape.

use std::sync::atomic::{Ordering, fence};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, MetricFamily};
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Seconds; the bridge answers in about a millisecond and gives up after four seconds.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Why creating a family cannot fail.
pub(crate) const CONSTANT: &str = "name, help and labels are constants of this module and valid";

/// The families of one program. Their names are given without `attio_bridge_`.
#[derive(Default)]
pub(crate) struct Families(Registry);

impl Families {
    pub(crate) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(opts(name, help), labels).expect(CONSTANT))
    }

    pub(crate) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(opts(name, help), labels).expect(CONSTANT))
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(opts(name, help)).expect(CONSTANT))
    }

    pub(crate) fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let opts = HistogramOpts::from(opts(name, help)).buckets(BUCKETS.into());
        self.register(HistogramVec::new(opts, labels).expect(CONSTANT))
    }

    pub(crate) fn register<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.0.register(Box::new(collector.clone())).expect("each name is registered once");
        collector
    }

    /// The usual metrics of the process.
    #[cfg(target_os = "linux")]
    pub(crate) fn register_process(&self) {
        let process = prometheus::process_collector::ProcessCollector::for_self();
        // Standard process metrics are an extra: a registry that refuses them still works.
        if let Err(error) = self.0.register(Box::new(process)) {
            tracing::warn!(%error, "cannot export process metrics");
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn register_process(&self) {}

    pub(crate) fn gather(&self) -> Vec<MetricFamily> {
        self.0.gather()
    }
}

pub(crate) fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("attio_bridge_{name}"), help)
}

/// The Prometheus text format 0.0.4.
pub(crate) fn text(families: &[MetricFamily]) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to memory fails only for a family without a name or samples, and none is made.
    if let Err(error) = TextEncoder::new().encode(families, &mut out) {
        tracing::error!(%error, "cannot render the metrics");
    }
    out
}

/// `events_received_total`, `events_total` and `events_in_flight`, which balance in every scrape.
///
/// No lock is needed for that. An event is counted as received before it is counted with its result, and a
/// scrape reads the two in the opposite order, so it never sees more results than events. The difference is
/// what is in flight.
#[derive(Clone)]
pub(super) struct EventAccount {
    pub(super) received: IntCounterVec,
    pub(super) results: IntCounterVec,
    /// Only describes the family: its value is computed by each scrape.
    in_flight: IntGauge,
}

impl EventAccount {
    pub(super) fn new(families: &Families) -> Self {
        let received = opts("events_received_total", "Events of deliveries whose signature matched.");
        let results = opts("events_total", "Events with a result.");
        let in_flight = opts("events_in_flight", "Events without a result yet.");
        families.register(Self {
            received: IntCounterVec::new(received, &["source"]).expect(CONSTANT),
            results: IntCounterVec::new(results, &["source", "category", "result"]).expect(CONSTANT),
            in_flight: IntGauge::with_opts(in_flight).expect(CONSTANT),
        })
    }

    /// Call between counting an event as received and counting its result: a scrape that sees the result
    /// then sees the event too.
    pub(super) fn before_results() {
        fence(Ordering::Release);
    }
}

impl Collector for EventAccount {
    fn desc(&self) -> Vec<&Desc> {
        [self.received.desc(), self.results.desc(), self.in_flight.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let results = self.results.collect();
        fence(Ordering::Acquire);
        let received = self.received.collect();
        let mut value = Gauge::default();
        value.set_value(total(&received) - total(&results));
        let mut in_flight = self.in_flight.collect();
        in_flight
            .iter_mut()
            .flat_map(MetricFamily::mut_metric)
            .for_each(|metric| metric.set_gauge(value.clone()));
        [received, results, in_flight].concat()
    }
}

fn total(families: &[MetricFamily]) -> f64 {
    families.iter().flat_map(MetricFamily::get_metric).map(|metric| metric.get_counter().get_value()).sum()
}
