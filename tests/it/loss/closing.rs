//! Closes the ledger: compares what was sent with what is stored and with the metrics of the bridges.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::fleet::{DRAIN, DRAIN_MARGIN, End, Past, is_quiet};
use super::laws::Laws;
use super::ledger::Ledger;
use super::options::{Bus, Store};
use super::plan::Kind;
use super::traffic::{Attempt, Outcome};

/// The totals.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Sums {
    pub deliveries: u64,
    pub events: u64,
    pub acknowledged_events: u64,
    pub stored_events: u64,
    /// Copies beyond the first.
    pub duplicates: u64,
    pub lost: u64,
    pub unexplained: u64,
    pub attempts: u64,
    /// Attempts by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Connections that a draining bridge closed before it read a request.
    pub closed_unread: u64,
}

/// The attempts of one delivery.
#[derive(Clone, Copy, Default)]
struct Tried {
    succeeded: u32,
    failed: u32,
    /// Of these at bridges that were killed.
    orphaned: u32,
    /// An answer that means "never".
    refused: Option<u16>,
}

impl Ledger<'_> {
    /// Closes it: the laws about what was sent.
    pub fn close(&mut self, attempts: &[Attempt], pasts: &[Past], unbalanced: Vec<String>) -> Sums {
        let mut tried = vec![Tried::default(); self.plan.deliveries as usize];
        let mut sums = Sums {
            deliveries: self.plan.deliveries.into(),
            events: self.plan.events,
            attempts: attempts.len() as u64,
            ..Sums::default()
        };
        let killed = pasts.iter().filter(|past| matches!(past.end, End::Killed));
        let killed: HashSet<_> = killed.map(|past| past.number).collect();
        for attempt in attempts {
            let name = match attempt.outcome {
                Outcome::Answered(status) => status.to_string(),
                other => format!("{other:?}").to_lowercase(),
            };
            *sums.outcomes.entry(name).or_default() += 1;
            let tried = &mut tried[attempt.delivery as usize];
            match attempt.outcome {
                Outcome::Answered(200 | 202) => tried.succeeded += 1,
                // The body timed out: the answer is not about the delivery.
                Outcome::Answered(status @ (400..=407 | 409..=499)) => {
                    tried.failed += 1;
                    tried.refused = Some(status);
                }
                _ => tried.failed += 1,
            }
            let failed = !matches!(attempt.outcome, Outcome::Answered(200 | 202));
            tried.orphaned += u32::from(failed && killed.contains(&(attempt.process as usize)));
        }
        for delivery in 0..self.plan.deliveries {
            self.check(delivery, tried[delivery as usize], &mut sums);
        }
        self.check_metrics(attempts, pasts, unbalanced);
        self.check_drains(attempts, pasts, &mut sums);
        sums.lost = self.laws.stored.violations as u64;
        sums.unexplained = self.laws.explained.violations as u64;
        sums
    }

    fn check(&mut self, delivery: u32, tried: Tried, sums: &mut Sums) {
        let Laws { stored, explained, refused, acknowledged, .. } = &mut self.laws;
        let (succeeded, failed) = (tried.succeeded, tried.failed);
        if self.plan.kind(delivery) == Kind::Forged {
            if succeeded > 0 {
                refused.broken(|| format!("forged delivery {delivery} was acknowledged"));
            }
            return;
        }
        if let Some(status) = tried.refused {
            refused.broken(|| format!("signed delivery {delivery} was answered {status}, and is sent again"));
        }
        if succeeded == 0 {
            acknowledged
                .broken(|| format!("delivery {delivery}: {failed} attempts failed, and none was 200"));
        }
        let range = self.first[delivery as usize] as usize..self.first[delivery as usize + 1] as usize;
        for (at, copies) in self.copies[range].iter().map(|copies| u32::from(*copies)).enumerate() {
            sums.acknowledged_events += u64::from(succeeded > 0);
            sums.stored_events += u64::from(copies > 0);
            sums.duplicates += u64::from(copies.saturating_sub(1));
            if copies == 0 && succeeded > 0 {
                stored.broken(|| format!("event {delivery}.{at}: {succeeded} times 200 and not stored"));
            }
            // JetStream deduplicates by id, whichever bridge publishes.
            let explains = match (self.options.bus, self.options.store) {
                (Bus::Nats, _) => 0,
                (Bus::Kafka, Store::Memory) => failed,
                // Only a bridge that died between the broker's ack and its commit leaves an event that is not known.
                (Bus::Kafka, _) => tried.orphaned,
            };
            if copies > 1 + explains {
                explained.broken(|| {
                    format!("event {delivery}.{at}: stored {copies} times, {failed} attempts failed, {succeeded} did not")
                });
            }
        }
    }

    fn check_metrics(&mut self, attempts: &[Attempt], pasts: &[Past], unbalanced: Vec<String>) {
        let law = &mut self.laws.balanced;
        for how in unbalanced {
            law.broken(|| how);
        }
        let mut by_process: HashMap<u32, [u64; 2]> = HashMap::new();
        for attempt in attempts {
            let [counted, maybe] = by_process.entry(attempt.process).or_default();
            match attempt.outcome {
                Outcome::Answered(_) | Outcome::Left => *counted += 1,
                Outcome::Lost | Outcome::Dropped | Outcome::Silence | Outcome::Reset | Outcome::Cut => {
                    *maybe += 1;
                }
            }
        }
        // Without faults and refusals, no event fails.
        let calm = self.options.faults.total() == 0
            && attempts.iter().all(|attempt| !matches!(attempt.outcome, Outcome::Answered(500..)));
        let (mut acknowledged, mut published) = (0.0, 0.0);
        for Past { number, end, .. } in pasts {
            let scrape = match end {
                End::Runs(scrape) => scrape,
                End::Died(how) => {
                    law.broken(|| format!("bridge {number} ended by itself: {how}"));
                    continue;
                }
                End::Killed | End::Drained { .. } => continue,
            };
            if !scrape.balances() || !is_quiet(scrape) {
                law.broken(|| {
                    format!(
                        "bridge {number}, at the end: received {}, results {}, in flight {}, publishes in flight {}",
                        scrape.sum("events_received_total", &[]),
                        scrape.sum("events_total", &[]),
                        scrape.get("events_in_flight", &[]),
                        scrape.sum("publish_in_flight", &[])
                    )
                });
            }
            let number = u32::try_from(*number).expect("few processes");
            let [counted, maybe] = by_process.get(&number).copied().unwrap_or_default();
            let deliveries = scrape.sum("deliveries_total", &[]) as u64;
            if deliveries < counted || deliveries > counted + maybe {
                law.broken(|| {
                    format!("bridge {number} counts {deliveries} deliveries; it was given {counted}, and {maybe} in part")
                });
            }
            let failed = scrape.sum("events_total", &[("result", "failed")]);
            if calm && failed > 0.0 {
                law.broken(|| format!("bridge {number}: {failed} events failed though nothing else did"));
            }
            acknowledged += scrape.sum("publish_attempts_total", &[("result", "acknowledged")]);
            published += scrape.sum("publish_attempts_total", &[]);
        }
        self.check_results(attempts, pasts, calm);
        let (records, law) = (self.records, &mut self.laws.balanced);
        if pasts.iter().all(|past| matches!(past.end, End::Runs(_))) {
            if records as f64 > published {
                law.broken(|| format!("{records} records are stored, and only {published} were published"));
            }
            if self.options.bus == Bus::Kafka && acknowledged > records as f64 {
                law.broken(|| {
                    format!("{acknowledged} publishes were acknowledged, and {records} are stored")
                });
            }
        }
    }

    fn check_drains(&mut self, attempts: &[Attempt], pasts: &[Past], sums: &mut Sums) {
        let drained: Vec<_> = pasts.iter().filter(|past| matches!(past.end, End::Drained { .. })).collect();
        if drained.is_empty() {
            return;
        }
        let mut taken: HashMap<(u32, u32), i64> = HashMap::new();
        for attempt in attempts {
            // Everything but a lost connection is an answer, or is nothing that the bridge could answer.
            let lost = i64::from(matches!(attempt.outcome, Outcome::Lost | Outcome::Dropped));
            *taken.entry((attempt.process, attempt.delivery)).or_default() += 1 - lost;
        }
        let law = &mut self.laws.drained;
        for Past { number, log, end } in drained {
            let End::Drained { code, took } = end else { continue };
            if *code != Some(0) || *took > DRAIN + DRAIN_MARGIN {
                law.broken(|| {
                    format!("bridge {number} ended with {code:?} after {took:?}: {}", last_lines(log))
                });
            }
            let number = u32::try_from(*number).expect("few processes");
            for attempt in attempts {
                if attempt.process == number && attempt.outcome == Outcome::Dropped {
                    law.broken(|| {
                        format!("bridge {number} had taken delivery {} and reset it", attempt.delivery)
                    });
                }
            }
            sums.closed_unread +=
                attempts.iter().filter(|a| a.process == number && a.outcome == Outcome::Lost).count() as u64;
            let mut carried_out: HashMap<u32, i64> = HashMap::new();
            for delivery in logged(log) {
                *carried_out.entry(delivery).or_default() += 1;
            }
            for (delivery, times) in carried_out {
                let answered = taken.get(&(number, delivery)).copied().unwrap_or_default();
                if times > answered {
                    sums.closed_unread = sums.closed_unread.saturating_sub(1);
                    law.broken(|| {
                        format!("bridge {number} carried delivery {delivery} out {times} times and answered {answered}")
                    });
                }
            }
        }
    }
}

/// The deliveries whose result a bridge has logged.
fn logged(log: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let id = |line: &str| {
        let (_, after) = line.split_once("\"delivery_id\":\"loss-")?;
        after.split_once('"')?.0.parse().ok()
    };
    text.lines().filter_map(id).collect()
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
