//! What has happened so far, summed up.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::account::Account;
use super::output::Block;
use super::planned::{Counts, Group};

/// Latencies that are kept, the youngest ones.
const LATENCIES: usize = 10_000;

/// Differences that are kept; they are counted beyond that.
const KEPT: usize = 1000;

/// The sums of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Sums {
    /// Deliveries made.
    pub deliveries: u64,
    /// Of them, answered as expected.
    pub answered_as_expected: u64,
    /// Events that a consumer must read.
    pub events_expected: u64,
    /// Of them, read.
    pub events_read: u64,
}

/// All sums.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By group.
    pub groups: BTreeMap<Group, Sums>,
    /// Counts of all answers that are expected.
    pub expected: Counts,
    /// Counts of all answers as they came.
    pub counts: Counts,
    /// Deliveries by the status of their answer; 0 for those without one.
    pub statuses: BTreeMap<u16, u64>,
    /// Events that came from elsewhere.
    pub others: u64,
    /// Tries that failed and were made again.
    pub tried_again: u64,
    /// Events that came once more after such a try.
    pub read_again: u64,
    /// What is not as expected.
    pub differences: Vec<String>,
    /// How many differences there are.
    pub differences_total: u64,
    /// The bridge's own account, once it was asked for.
    pub account: Option<Account>,
    latencies: VecDeque<Duration>,
}

impl Tally {
    /// A delivery is over.
    pub fn shown(&mut self, block: &Block) {
        let Block { planned, answered, read, .. } = block;
        let sums = self.groups.entry(planned.group).or_default();
        sums.deliveries += 1;
        sums.events_expected += planned.events.len() as u64;
        sums.events_read += read.len() as u64;
        sums.answered_as_expected += u64::from(block.is_answered_as_expected());
        if let Some(counts) = planned.answer.counts {
            self.expected.add(counts);
        }
        *self.statuses.entry(answered.as_ref().map_or(0, |got| got.answer.status)).or_default() += 1;
        if let Ok(got) = answered {
            if let Some(counts) = got.answer.counts {
                self.counts.add(counts);
            }
            if self.latencies.len() == LATENCIES {
                self.latencies.pop_front();
            }
            self.latencies.push_back(got.took);
        }
    }

    /// Something is not as expected.
    pub fn differ(&mut self, differences: impl IntoIterator<Item = String>) {
        for difference in differences {
            self.differences_total += 1;
            if self.differences.len() < KEPT {
                self.differences.push(difference);
            }
        }
    }

    /// The sums over all groups.
    pub fn total(&self) -> Sums {
        self.groups.values().fold(Sums::default(), |total, sums| Sums {
            deliveries: total.deliveries + sums.deliveries,
            answered_as_expected: total.answered_as_expected + sums.answered_as_expected,
            events_expected: total.events_expected + sums.events_expected,
            events_read: total.events_read + sums.events_read,
        })
    }

    /// Deliveries that were answered 200.
    pub fn taken(&self) -> u64 {
        self.statuses.get(&200).copied().unwrap_or_default()
    }

    /// Deliveries that were answered 4xx.
    pub fn refused(&self) -> u64 {
        self.statuses.range(400..500).map(|(_, count)| count).sum()
    }

    /// Whether everything was as expected.
    pub fn is_as_expected(&self) -> bool {
        let total = self.total();
        self.differences_total == 0
            && total.deliveries == total.answered_as_expected
            && total.events_expected == total.events_read
    }

    /// The latency that so many per mille of the answers did not exceed.
    pub fn latency(&self, per_mille: usize) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.latencies.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
        sorted.get(rank - 1).copied()
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.events += other.events;
        self.published += other.published;
        self.duplicates += other.duplicates;
        self.filtered += other.filtered;
        self.quarantined += other.quarantined;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_their_rank() {
        let latencies = (1..=100).map(Duration::from_millis).collect();
        let tally = Tally { latencies, ..Tally::default() };
        assert_eq!(tally.latency(500), Some(Duration::from_millis(50)));
        assert_eq!(tally.latency(990), Some(Duration::from_millis(99)));
        assert_eq!(tally.latency(1000), Some(Duration::from_millis(100)));
        assert_eq!(Tally::default().latency(500), None);
    }
}
