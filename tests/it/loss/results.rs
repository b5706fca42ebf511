//! Events by result: the metrics of the bridges, compared with their answers and with what is stored.

use serde_json::Value;

use super::fleet::{End, Past};
use super::laws::Law;
use super::ledger::Ledger;
use super::plan::{Kind, Plan};
use super::traffic::{Attempt, Outcome};
use crate::support::scrape::Scrape;

/// The results as `/metrics` names them.
const NAMES: [&str; 5] = ["published", "duplicate", "filtered", "quarantined", "failed"];

const PUBLISHED: usize = 0;
const DUPLICATE: usize = 1;
const QUARANTINED: usize = 3;
const FAILED: usize = 4;

/// The number of events with each result.
pub type Results = [u64; 5];

/// The results in an answer: of a failure only that something failed.
pub fn answer_results(status: u16, body: &[u8]) -> Results {
    let Ok(answer) = serde_json::from_slice::<Value>(body) else { return Results::default() };
    let count = |name: &str| answer[name].as_u64().unwrap_or_default();
    let reason = answer["reason"].as_str().unwrap_or_default();
    match status {
        200 => [count("published"), count("duplicates"), count("filtered"), count("quarantined"), 0],
        _ if reason.starts_with("broker_") || reason == "internal" => [0, 0, 0, 0, 1],
        _ => Results::default(),
    }
}

fn add(sum: &mut Results, more: Results) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// Events of one delivery, those that belong in quarantine last.
fn elements(plan: &Plan, delivery: u32) -> [u64; 2] {
    match plan.kind(delivery) {
        Kind::Good { elements, broken } => {
            let broken = u64::from(broken.is_some());
            [elements as u64 - broken, broken]
        }
        Kind::Garbage => [0, 1],
        Kind::Forged => [0, 0],
    }
}

/// The least and the most that one bridge must have counted.
#[derive(Clone, Copy, Default)]
struct Bounds {
    least: Results,
    most: Results,
}

impl Bounds {
    fn add(&mut self, plan: &Plan, attempt: &Attempt) {
        add(&mut self.least, attempt.answered);
        add(&mut self.most, attempt.answered);
        let [good, broken] = elements(plan, attempt.delivery);
        match attempt.outcome {
            // Such a request was incomplete, or is not a delivery.
            Outcome::Cut | Outcome::Answered(200 | 400..=499) => {}
            // Any result, also after the sender disconnected.
            _ => {
                self.most[PUBLISHED] += good;
                self.most[QUARANTINED] += broken;
                self.most[DUPLICATE] += good + broken;
                self.most[FAILED] += good + broken;
            }
        }
    }

    fn check(&self, number: usize, scrape: &Scrape, law: &mut Law) {
        for (at, name) in NAMES.into_iter().enumerate() {
            let (count, least, most) = (counted(scrape, name), self.least[at], self.most[at]);
            if count < least || count > most {
                law.broken(|| {
                    format!("bridge {number} counts {count} events as {name}; its answers make it {least} to {most}")
                });
            }
        }
    }
}

fn counted(scrape: &Scrape, result: &str) -> u64 {
    scrape.sum("events_total", &[("result", result)]) as u64
}

impl Ledger<'_> {
    /// Compares every count with the answers, and their sum with what is stored. Without faults, the sum equals what
    /// is stored.
    pub(super) fn check_results(&mut self, attempts: &[Attempt], pasts: &[Past], calm: bool) {
        let law = &mut self.laws.balanced;
        for attempt in attempts.iter().filter(|attempt| attempt.outcome == Outcome::Answered(200)) {
            let ([good, broken], answered) = (elements(self.plan, attempt.delivery), attempt.answered);
            if answered.iter().sum::<u64>() != good + broken
                || answered[PUBLISHED] > good
                || answered[QUARANTINED] > broken
            {
                law.broken(|| {
                    format!(
                        "delivery {} has {good} events and {broken} to quarantine; its answer was {answered:?}",
                        attempt.delivery
                    )
                });
            }
        }
        let mut sum = Results::default();
        for Past { number, end, .. } in pasts {
            let End::Runs(scrape) = end else { continue };
            let mut bounds = Bounds::default();
            let own = attempts.iter().filter(|attempt| attempt.process as usize == *number);
            own.for_each(|attempt| bounds.add(self.plan, attempt));
            bounds.check(*number, scrape, law);
            add(&mut sum, NAMES.map(|name| counted(scrape, name)));
        }
        if !pasts.iter().all(|past| matches!(past.end, End::Runs(_))) {
            return;
        }
        let stored = [
            ("published", sum[PUBLISHED], self.records - self.quarantined),
            ("quarantined", sum[QUARANTINED], self.quarantined),
        ];
        for (name, counted, stored) in stored {
            if counted > stored || (calm && counted < stored) {
                law.broken(|| format!("{counted} events are counted as {name}, and {stored} are stored"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::{Bus, Options};
    use super::*;

    /// The law after one bridge was asked once for every delivery, and counts so.
    fn law(count: impl FnOnce(Results) -> Results) -> Law {
        let (options, plan) = (Options::new("x", Bus::Kafka, 1, 200), Plan::new(1, 200, 4));
        let mut ledger = Ledger::new(&plan, &options);
        let (mut attempts, mut sum) = (Vec::new(), Results::default());
        for delivery in (0..plan.deliveries).filter(|delivery| plan.kind(*delivery) != Kind::Forged) {
            let [good, broken] = elements(&plan, delivery);
            let answered = [good, 0, 0, broken, 0];
            attempts.push(Attempt { delivery, process: 1, outcome: Outcome::Answered(200), answered });
            add(&mut sum, answered);
        }
        (ledger.records, ledger.quarantined) = (sum[PUBLISHED] + sum[QUARANTINED], sum[QUARANTINED]);
        let counts = NAMES.into_iter().zip(count(sum));
        let lines = counts.map(|(name, count)| {
            format!(
                "attio_bridge_events_total{{source=\"attio\",category=\"x\",result=\"{name}\"}} {count}\n"
            )
        });
        let scrape = Scrape::parse(&lines.collect::<String>());
        let past = Past { number: 1, log: "log".into(), end: End::Runs(scrape) };
        ledger.check_results(&attempts, &[past], true);
        ledger.laws.balanced
    }

    #[test]
    fn a_result_that_is_counted_as_another_is_found() {
        assert_eq!(law(|counts| counts).violations, 0);
        for wrong in [DUPLICATE, 2, QUARANTINED, FAILED] {
            let law = law(|mut counts| {
                counts[PUBLISHED] -= 1;
                counts[wrong] += 1;
                counts
            });
            assert!(law.violations > 0, "published counted as {}", NAMES[wrong]);
            assert!(law.examples[0].contains("published"), "{:?}", law.examples);
        }
    }

    #[test]
    fn an_answer_tells_its_results() {
        let answered = |status, body: &str| super::answer_results(status, body.as_bytes());
        let good =
            r#"{"reason":"accepted","events":6,"published":3,"duplicates":2,"filtered":0,"quarantined":1}"#;
        assert_eq!(answered(200, good), [3, 2, 0, 1, 0]);
        assert_eq!(answered(503, r#"{"reason":"broker_timeout"}"#), [0, 0, 0, 0, 1]);
        assert_eq!(answered(503, r#"{"reason":"draining"}"#), [0; 5]);
        assert_eq!(answered(100, ""), [0; 5]);
    }
}
