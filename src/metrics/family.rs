//! Metric families on a registry of their own, and the text format of a scrape.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
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
