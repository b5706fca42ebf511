//! Which events are done: the position to commit of a partition is behind the last event before which all are done.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::bus::state::Receipt;

/// Topic and partition.
pub(super) type Partition = (String, i32);

/// Where a record is in the log.
pub(super) type Place = (Partition, i64);

#[derive(Default)]
pub(super) struct Positions {
    given: u64,
    /// The partition of each event that is not done, as its number among [`Self::partitions`], and the offset.
    events: HashMap<Receipt, (usize, i64)>,
    numbers: HashMap<Partition, usize>,
    partitions: Vec<Progress>,
}

struct Progress {
    partition: Partition,
    open: BTreeSet<i64>,
    /// Behind the last event that was taken.
    next: i64,
}

impl Positions {
    /// An event was taken.
    pub(super) fn take(&mut self, partition: Partition, offset: i64) -> Receipt {
        self.given += 1;
        let receipt = Receipt(self.given);
        let number = match self.numbers.get(&partition) {
            Some(number) => *number,
            None => {
                self.numbers.insert(partition.clone(), self.partitions.len());
                self.partitions.push(Progress { partition, open: BTreeSet::new(), next: offset });
                self.partitions.len() - 1
            }
        };
        let progress = &mut self.partitions[number];
        progress.open.insert(offset);
        progress.next = offset + 1;
        self.events.insert(receipt, (number, offset));
        receipt
    }

    /// Where to go on once these events are done too, for every partition that they are of.
    pub(super) fn once_done(&self, receipts: &[Receipt]) -> BTreeMap<Partition, i64> {
        let mut done: BTreeMap<usize, HashSet<i64>> = BTreeMap::new();
        for (number, offset) in receipts.iter().filter_map(|receipt| self.events.get(receipt)) {
            done.entry(*number).or_default().insert(*offset);
        }
        let position = |(number, done): (usize, HashSet<i64>)| {
            let Progress { partition, open, next } = &self.partitions[number];
            let first = open.iter().find(|offset| !done.contains(offset));
            (partition.clone(), first.copied().unwrap_or(*next))
        };
        done.into_iter().map(position).collect()
    }

    /// These events are done, and their positions committed.
    pub(super) fn done(&mut self, receipts: &[Receipt]) {
        for (number, offset) in receipts.iter().filter_map(|receipt| self.events.remove(receipt)) {
            self.partitions[number].open.remove(&offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_stays_before_the_first_event_that_is_not_done() {
        let mut positions = Positions::default();
        let one = ("t".to_owned(), 0);
        let receipts: Vec<_> = [3, 4, 7].map(|offset| positions.take(one.clone(), offset)).into();
        let other = positions.take(("t".to_owned(), 1), 0);
        let position =
            |positions: &Positions, receipts: &[Receipt]| positions.once_done(receipts).remove(&one);
        assert_eq!(position(&positions, &receipts[1..]), Some(3));
        positions.done(&receipts[1..2]);
        assert_eq!(position(&positions, &receipts[..1]), Some(7));
        assert_eq!(position(&positions, &[other]), None);
        positions.done(&receipts[..1]);
        assert_eq!(position(&positions, &receipts[2..]), Some(8));
    }
}
