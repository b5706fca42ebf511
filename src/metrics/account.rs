//! The account of events: the metrics of how many were received, have a result, and are in flight.

use std::sync::atomic::{Ordering, fence};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, MetricFamily};
use prometheus::{IntCounterVec, IntGauge};

use super::family::{CONSTANT, Families, opts};

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
