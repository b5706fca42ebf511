//! Tracks the deliveries of a run: answers and events are compared with what is expected, and each delivery is
//! shown once everything about it is known.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::Error;
use super::broker::ReadEvent;
use super::delivery::{Answer, Answered, Delivery, ExpectedEvents, Found, Group, Report};
use super::output::{Options, Output};
use super::totals::{BridgeMetrics, Totals};
use crate::fake_attio::deliver::Attempt;
use crate::fake_attio::post::Reply;

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
