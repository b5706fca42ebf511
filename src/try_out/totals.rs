//! What a run adds up to: its deliveries by group, how long answers took, and the bridge's own metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::delivery::{Counts, Group, Report};
use crate::fake_attio::post::{PostError, Poster};
use crate::metrics::samples::Samples;
use crate::pipeline::outcome::EventResult;

/// Differences that are kept; more are only counted.
const MAX_DIFFERENCES: usize = 1000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupTotals {
    pub deliveries: u64,
    pub answered_as_expected: u64,
    pub events_expected: u64,
    pub events_read: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub groups: BTreeMap<Group, GroupTotals>,
    pub expected: Counts,
    pub counts: Counts,
    /// Deliveries that were answered 4xx.
    pub refused: u64,
    /// Deliveries without an answer, or with another one than 200 and 4xx.
    pub failed: u64,
    pub others: u64,
    pub retried: u64,
    /// Events that were read again after such an attempt.
    pub read_again: u64,
    /// The run ended while the broker could not be reached.
    pub away: bool,
    /// Deliveries that had no answer 200 yet when the run ended in such an outage.
    pub unanswered: u64,
    pub differences: Vec<String>,
    pub differences_total: u64,
    pub metrics: Option<BridgeMetrics>,
    pub latencies: Latencies,
}

impl Totals {
    pub fn add(&mut self, report: &Report) {
        let Report { delivery, answered, read, .. } = report;
        let group = self.groups.entry(delivery.group).or_default();
        group.deliveries += 1;
        group.events_expected += delivery.events.len() as u64;
        group.events_read += read.len() as u64;
        group.answered_as_expected += u64::from(report.is_answered_as_expected());
        if let Some(counts) = delivery.answer.counts {
            self.expected.add(counts);
        }
        match answered.as_ref().map_or(0, |got| got.answer.status) {
            200 => {}
            400..500 => self.refused += 1,
            _ => self.failed += 1,
        }
        if let Ok(got) = answered {
            if let Some(counts) = got.answer.counts {
                self.counts.add(counts);
            }
            self.latencies.record(got.took);
        }
    }

    pub fn differ(&mut self, differences: impl IntoIterator<Item = String>) {
        for difference in differences {
            self.differences_total += 1;
            if self.differences.len() < MAX_DIFFERENCES {
                self.differences.push(difference);
            }
        }
    }

    pub fn total(&self) -> GroupTotals {
        self.groups.values().fold(GroupTotals::default(), |total, group| GroupTotals {
            deliveries: total.deliveries + group.deliveries,
            answered_as_expected: total.answered_as_expected + group.answered_as_expected,
            events_expected: total.events_expected + group.events_expected,
            events_read: total.events_read + group.events_read,
        })
    }

    pub fn is_as_expected(&self) -> bool {
        let total = self.total();
        self.differences_total == 0
            && total.deliveries == total.answered_as_expected
            && total.events_expected == total.events_read
    }
}

/// The bridge's metrics of events: received is the sum of the results and of what is in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeMetrics {
    pub received: u64,
    /// `events_total` by result.
    pub results: BTreeMap<&'static str, u64>,
    pub in_flight: u64,
}

impl BridgeMetrics {
    pub async fn read(client: &Poster, admin: SocketAddr) -> Result<Self, PostError> {
        let page = client.get(&format!("http://{admin}/metrics")).await?;
        Ok(Self::parse(&String::from_utf8_lossy(&page.body)))
    }

    fn parse(page: &str) -> Self {
        let samples = Samples::parse(page);
        // Whole numbers, far below 2^52.
        let sum = |name: &str, labels: &[(&str, &str)]| samples.sum(name, labels).unwrap_or_default() as u64;
        let count = |result| (result, sum("events_total", &[("result", result)]));
        Self {
            received: sum("events_received_total", &[]),
            results: EventResult::LABELS.map(count).into(),
            in_flight: sum("events_in_flight", &[]),
        }
    }

    pub fn result(&self, name: &str) -> u64 {
        self.results.get(name).copied().unwrap_or_default()
    }

    /// Messages that the broker acknowledged.
    pub fn stored(&self) -> u64 {
        self.result("published") + self.result("quarantined")
    }

    /// How the metrics contradict themselves, if they do.
    pub fn imbalance(&self) -> Option<String> {
        let (received, in_flight) = (self.received, self.in_flight);
        let finished: u64 = self.results.values().sum();
        let text =
            || format!("metrics: {received} events received, {finished} finished, {in_flight} in flight");
        (received != finished + in_flight).then(text)
    }

    /// How the metrics differ from what was sent.
    pub fn differences(&self, expected: Counts) -> Vec<String> {
        let table = [
            ("received", self.received, expected.events),
            ("published", self.result("published"), expected.published),
            ("duplicate", self.result("duplicate"), expected.duplicates),
            ("filtered", self.result("filtered"), expected.filtered),
            ("quarantined", self.result("quarantined"), expected.quarantined),
            ("failed", self.result("failed"), 0),
            ("in flight", self.in_flight, 0),
        ];
        let wrong = table.into_iter().filter(|(_, got, expected)| got != expected);
        let line = |(name, got, expected)| format!("metrics: {got} events {name}, expected {expected}");
        self.imbalance().into_iter().chain(wrong.map(line)).collect()
    }
}

/// Longer latencies, in microseconds, are recorded as this one: an hour.
const MAX_LATENCY: u64 = 3_600_000_000;

/// Latencies in microseconds, in bounded memory, precise to a thousandth.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_LATENCY, 3).expect("0 to 5 digits and 1 < high / 2 are valid"))
    }
}

impl Latencies {
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(u64::try_from(took.as_micros()).unwrap_or(MAX_LATENCY));
    }

    /// The latency that this share of all, 0 to 1, did not exceed; none without any.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let micros = self.0.value_at_quantile(share).min(self.0.max());
        (!self.0.is_empty()).then(|| Duration::from_micros(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
        # HELP attio_bridge_events_total Events.\n\
        attio_bridge_events_in_flight 0\n\
        attio_bridge_events_received_total{source=\"attio\"} 5\n\
        attio_bridge_events_total{category=\"record\",result=\"published\",source=\"attio\"} 2\n\
        attio_bridge_events_total{category=\"task\",result=\"published\",source=\"attio\"} 1\n\
        attio_bridge_events_total{category=\"task\",result=\"duplicate\",source=\"attio\"} 2\n\
        attio_bridge_publish_duration_seconds_sum{bus=\"kafka\"} 0.25\n\
    ";

    #[test]
    fn quantiles_of_latencies() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), None);
        (1..=100).for_each(|millis| latencies.record(Duration::from_millis(millis)));
        let rounded = |share| latencies.quantile(share).map(|took| took.as_secs_f64() * 1000.0);
        for (share, expected) in [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0)] {
            let got = rounded(share).unwrap();
            assert!((got - expected).abs() < expected / 1000.0, "{share}: {got}");
        }
    }

    #[test]
    fn metrics_are_summed_up_and_compared() {
        let metrics = BridgeMetrics::parse(PAGE);
        let counts = Counts { events: 5, published: 3, duplicates: 2, ..Counts::default() };
        assert_eq!(metrics.differences(counts), Vec::<String>::new());
        let found = metrics.differences(Counts { published: 4, ..counts });
        assert_eq!(found, ["metrics: 3 events published, expected 4"]);
    }

    #[test]
    fn metrics_that_do_not_balance_are_a_difference() {
        let metrics = BridgeMetrics { in_flight: 1, ..BridgeMetrics::parse(PAGE) };
        assert_eq!(metrics.imbalance().unwrap(), "metrics: 5 events received, 5 finished, 1 in flight");
    }
}
