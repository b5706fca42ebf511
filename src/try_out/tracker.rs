//! Tracks the deliveries of a run: answers and events are compared with what is expected, and each delivery is
//! shown once everything about it is known.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use time::OffsetDateTime;

use super::Error;
use super::broker::ReadEvent;
use super::delivery::{Answer, Answered, Counts, Delivery, ExpectedEvents, Found, Group, Report};
use super::latencies::Latencies;
use super::output::{Options, Output};
use crate::fake_attio::deliver::Attempt;
use crate::fake_attio::post::{PostError, Poster, Reply};
use crate::metrics::samples::Samples;
use crate::pipeline::outcome::EventResult;

/// How long a delivery waits for its events before it is shown without them. Reading may have to wait
/// for a broker that was restarted.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Tracker<'a> {
    pub output: &'a mut dyn Output,
    pub totals: Totals,
    options: Options,
    expected: ExpectedEvents,
    /// Deliveries that are not shown yet, in their order.
    pending: VecDeque<Report>,
    /// Deliveries with a failed attempt, which may have published their events nevertheless.
    retried: BTreeSet<u64>,
    /// Deliveries that were shown before all of their events were read.
    incomplete: BTreeMap<u64, Group>,
    read: u64,
}

impl<'a> Tracker<'a> {
    pub fn new(options: Options, expected: ExpectedEvents, output: &'a mut dyn Output) -> Self {
        let (totals, pending, retried) = (Totals::default(), VecDeque::new(), BTreeSet::new());
        let incomplete = BTreeMap::new();
        Self { output, totals, options, expected, pending, retried, incomplete, read: 0 }
    }

    pub fn sends(&mut self, number: u64, delivery: Delivery) {
        self.expected.add(number, &delivery.events);
        self.pending.push_back(Report::new(number, delivery));
    }

    /// An attempt of the last delivery ended.
    pub fn attempted(&mut self, attempt: Attempt) -> Result<(), Error> {
        let Some(report) = self.pending.back_mut() else { return Ok(()) };
        let answered =
            |reply: Reply| Answered { answer: Answer::read(reply.status, &reply.body), took: reply.took };
        report.answered = attempt.result.map(answered).map_err(|error| error.to_string());
        report.attempts += 1;
        if report.attempts > 1 {
            report.at = OffsetDateTime::now_utc();
        }
        let Some(wait) = attempt.retry_in else { return Ok(()) };
        self.retried.insert(report.number);
        self.totals.retried += 1;
        self.output.retrying(report, wait)?;
        // In a single round nothing disturbs the bridge and its broker.
        if self.options.once {
            let difference = format!("try {} failed: {}", report.attempts, report.answer_text());
            self.totals.differ([report.differ(difference)]);
        }
        Ok(())
    }

    /// Whether the last delivery waits for its next attempt.
    pub fn waits_for_retry(&self) -> bool {
        self.pending.back().is_some_and(|report| report.ended.is_none() && report.attempts > 0)
    }

    /// Whether the last attempt failed because the broker cannot be reached.
    pub fn broker_is_away(&self) -> bool {
        let answer = self.pending.back().and_then(|report| report.answered.as_ref().ok());
        answer.is_some_and(|got| got.answer.status == 503 && got.answer.reason.starts_with("broker_"))
    }

    /// The last delivery has no more attempts; it is shown when its events are read.
    pub fn ended(&mut self) {
        let Some(report) = self.pending.back_mut() else { return };
        report.ended = Some(Instant::now());
        if !report.is_answered_as_expected() {
            if self.totals.away {
                self.totals.unanswered += 1;
                return;
            }
            let (answer, expected) = (report.answer_text(), &report.delivery.answer);
            let difference = format!("the answer is {answer}, expected {expected}");
            self.totals.differ([report.differ(difference)]);
        }
    }

    pub fn read(&mut self, event: ReadEvent) -> Result<(), Error> {
        let mut finding = self.expected.read(&event);
        let number = finding.delivery;
        self.read += u64::from(finding.found != Found::Foreign);
        let of = |text: &String| number.map_or(text.clone(), |number| format!("#{number}: {text}"));
        match finding.found {
            Found::Foreign => {
                self.totals.others += 1;
                return Ok(());
            }
            // The user follows the hints in the header.
            Found::NotSent if !self.options.once => self.totals.others += 1,
            Found::Duplicate if number.is_some_and(|number| self.retried.contains(&number)) => {
                self.totals.read_again += 1;
                finding.differences.clear();
            }
            Found::Expected => {
                if let Some(report) = self.pending.iter_mut().find(|report| Some(report.number) == number) {
                    for difference in finding.differences {
                        self.totals.differ([report.differ(difference)]);
                    }
                    report.read.push(event);
                    return Ok(());
                }
                // Its delivery was shown without it.
                let group = number.and_then(|number| self.incomplete.get(&number));
                self.totals.groups.entry(*group.unwrap_or(&Group::One)).or_default().events_read += 1;
                self.totals.differ(finding.differences.iter().map(of));
            }
            Found::NotSent | Found::Duplicate | Found::Unreadable => {
                self.totals.differ(finding.differences.iter().map(of));
            }
        }
        Ok(self.output.stray(&event, &finding)?)
    }

    /// Whether every expected event was read, and as many messages as the bridge has stored.
    pub fn has_read(&self, stored: u64) -> bool {
        self.read >= stored && self.expected.is_empty()
    }

    /// Shows complete deliveries in the order of sending; with `all` the others too.
    pub fn show(&mut self, all: bool) -> Result<(), Error> {
        while self.pending.front().is_some_and(|report| all || report.is_complete(PATIENCE))
            && let Some(report) = self.pending.pop_front()
        {
            if report.missing() > 0 {
                self.incomplete.insert(report.number, report.delivery.group);
            }
            self.totals.add(&report);
            self.output.delivery(&report, &self.totals)?;
        }
        Ok(())
    }

    /// Ends the run: nothing more is read.
    pub fn finish(mut self, metrics: BridgeMetrics) -> Result<Totals, Error> {
        if !self.totals.away || self.options.once {
            let missing = self.expected.open().into_iter().map(|(number, expected)| {
                format!("#{number}: {} did not arrive on {}", expected.event_type, expected.topic)
            });
            self.totals.differ(missing);
        }
        self.show(true)?;
        // Others may send to a bridge that runs on.
        let wrong = match self.options.once {
            true => metrics.differences(self.totals.expected),
            false => metrics.imbalance().into_iter().collect(),
        };
        self.totals.differ(wrong);
        self.totals.metrics = Some(metrics);
        self.output.finish(&self.totals)?;
        Ok(self.totals)
    }
}

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
