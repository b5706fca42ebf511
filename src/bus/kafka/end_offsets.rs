//! Where each partition ends at least, as far as a client knows from acks and from the brokers.

use std::cmp::Reverse;
use std::collections::HashMap;

/// The ends of partitions, by topic, as the brokers tell them.
pub(super) type EndOffsets = HashMap<String, Vec<i64>>;

/// Partitions whose ends are compared on a new connection; each takes the broker two requests.
const LATEST: usize = 16;

#[derive(Clone, Default)]
pub(super) struct KnownEndOffsets {
    /// The end of each partition and the number of its last ack (0 without one), by topic.
    partitions: HashMap<String, Vec<(i64, u64)>>,
    acks: u64,
}

impl KnownEndOffsets {
    /// The end of a partition; 0 if nothing is known of it.
    pub(super) fn get(&self, topic: &str, partition: i32) -> i64 {
        let at = usize::try_from(partition).unwrap_or(usize::MAX);
        self.partitions.get(topic).and_then(|ends| ends.get(at)).map_or(0, |(end, _)| *end)
    }

    /// Notes an ack at this offset.
    pub(super) fn acknowledged(&mut self, topic: &str, partition: i32, offset: i64) {
        self.acks += 1;
        self.set(topic, partition, offset + 1, self.acks);
    }

    /// Notes ends that the brokers told.
    pub(super) fn told(&mut self, ends: EndOffsets) {
        for (topic, ends) in ends {
            for (partition, end) in (0..).zip(ends) {
                self.set(&topic, partition, end.max(self.get(&topic, partition)), 0);
            }
        }
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &String> {
        self.partitions.keys()
    }

    /// The partitions that were acknowledged last, each with its end: these are not in an old copy.
    pub(super) fn latest(&self) -> HashMap<(String, i32), i64> {
        let each =
            self.partitions.iter().flat_map(|(topic, ends)| (0..).zip(ends).map(move |end| (topic, end)));
        let mut acknowledged: Vec<_> = each.filter(|(_, (_, (_, ack)))| *ack > 0).collect();
        acknowledged.sort_unstable_by_key(|(_, (_, (_, ack)))| Reverse(*ack));
        let latest = acknowledged.into_iter().take(LATEST);
        latest.map(|(topic, (partition, (end, _)))| ((topic.clone(), partition), *end)).collect()
    }

    fn set(&mut self, topic: &str, partition: i32, end: i64, ack: u64) {
        let Ok(at) = usize::try_from(partition) else { return };
        // Without `entry`, which would copy the topic's name for every ack.
        if !self.partitions.contains_key(topic) {
            self.partitions.insert(topic.to_owned(), Vec::new());
        }
        let Some(ends) = self.partitions.get_mut(topic) else { return };
        if ends.len() <= at {
            ends.resize(at + 1, (0, 0));
        }
        ends[at] = (end, ack);
    }
}
