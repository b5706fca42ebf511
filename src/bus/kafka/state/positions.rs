//! Which events are done: the position to commit of a partition is behind the last event before which all are done.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::bus::state::Receipt;

/// Topic and partition.
pub(super) type Partition = (String, i32);

#[derive(Default)]
pub(super) struct Positions {
    given: u64,
    events: HashMap<Receipt, (Partition, i64)>,
    partitions: HashMap<Partition, Progress>,
}

#[derive(Default)]
struct Progress {
    open: BTreeSet<i64>,
    /// Behind the last event that was taken.
    next: i64,
}

impl Positions {
    /// An event was taken.
    pub(super) fn take(&mut self, partition: Partition, offset: i64) -> Receipt {
        self.given += 1;
        let receipt = Receipt(self.given);
        let progress = self.partitions.entry(partition.clone()).or_default();
        progress.open.insert(offset);
        progress.next = offset + 1;
        self.events.insert(receipt, (partition, offset));
        receipt
    }

    /// Where to go on once these events are done too, for every partition that they are of.
    pub(super) fn once_done(&self, receipts: &[Receipt]) -> BTreeMap<Partition, i64> {
        let done: HashSet<_> = receipts.iter().filter_map(|receipt| self.events.get(receipt)).collect();
        let partitions: BTreeSet<&Partition> = done.iter().map(|(partition, _)| partition).collect();
        let position = |partition: &Partition| {
            let progress = self.partitions.get(partition)?;
            let is_open = |offset: &&i64| !done.contains(&(partition.clone(), **offset));
            Some((partition.clone(), progress.open.iter().find(is_open).copied().unwrap_or(progress.next)))
        };
        partitions.into_iter().filter_map(position).collect()
    }

    /// These events are done, and their positions committed.
    pub(super) fn done(&mut self, receipts: &[Receipt]) {
        for (partition, offset) in receipts.iter().filter_map(|receipt| self.events.remove(receipt)) {
            if let Some(progress) = self.partitions.get_mut(&partition) {
                progress.open.remove(&offset);
            }
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
