//! The partitions that are read, and how far.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use time::OffsetDateTime;

use super::Consumer;
use crate::bus::read::Begin;

/// How long to wait for the broker's word on topics and offsets.
const ASK: Duration = Duration::from_secs(10);

/// One partition.
struct Place {
    /// The next offset to be read.
    next: i64,
    /// Where it ended when it was first looked at.
    end: i64,
}

/// Every partition of the wanted topics.
pub(super) struct Places {
    topics: Vec<Arc<str>>,
    missing: Vec<Arc<str>>,
    places: BTreeMap<(String, i32), Place>,
}

impl Places {
    pub(super) fn new(topics: Vec<Arc<str>>) -> Self {
        Self { topics, missing: Vec::new(), places: BTreeMap::new() }
    }

    /// The topics that are not there, or not shown to this user.
    pub(super) fn missing(&self) -> &[Arc<str>] {
        &self.missing
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A message was read.
    pub(super) fn read(&mut self, topic: &str, partition: i32, offset: i64) {
        if let Some(place) = self.places.get_mut(&(topic.to_owned(), partition)) {
            place.next = offset + 1;
        }
    }

    /// The client has come to the end of a partition. It does not say of which topic, so that only
    /// the partition of a single topic counts: there, what lies before the end may be gone.
    pub(super) fn ended(&mut self, partition: i32) {
        if let [topic] = &self.topics[..]
            && let Some(place) = self.places.get_mut(&(topic.to_string(), partition))
        {
            place.next = place.next.max(place.end);
        }
    }

    /// Whether everything has been read that was there at the start.
    pub(super) fn are_read(&self) -> bool {
        self.places.values().all(|place| place.next >= place.end)
    }

    /// What is new is younger than the reader.
    pub(super) fn look_again(&mut self, consumer: &Consumer) -> KafkaResult<()> {
        self.look(consumer, Begin::Beginning)
    }

    /// Assigns every partition there is; those that are new begin where they are told to.
    pub(super) fn look(&mut self, consumer: &Consumer, begin: Begin) -> KafkaResult<()> {
        let mut new = Vec::new();
        self.missing.clear();
        // By name, because a list of all topics can be long.
        for topic in &self.topics {
            let metadata = consumer.fetch_metadata(Some(topic), ASK)?;
            let found = metadata.topics().iter().find(|found| found.name() == &**topic);
            let found = found.filter(|found| !found.partitions().is_empty());
            let Some(found) = found else {
                self.missing.push(Arc::clone(topic));
                continue;
            };
            let places = found.partitions().iter().map(|partition| (topic.to_string(), partition.id()));
            new.extend(places.filter(|place| !self.places.contains_key(place)));
        }
        if new.is_empty() {
            return Ok(());
        }
        let mut added = BTreeMap::new();
        for (topic, partition) in new {
            let (first, end) = consumer.fetch_watermarks(&topic, partition, ASK)?;
            let next = match begin {
                Begin::Beginning => first,
                Begin::At(time) => at(consumer, &topic, partition, time)?.unwrap_or(end),
                Begin::Now => end,
            };
            added.insert((topic, partition), Place { next, end });
        }
        self.places.append(&mut added);
        self.assign(consumer)
    }

    fn assign(&self, consumer: &Consumer) -> KafkaResult<()> {
        let mut list = TopicPartitionList::with_capacity(self.places.len());
        for ((topic, partition), place) in &self.places {
            list.add_partition_offset(topic, *partition, Offset::Offset(place.next))?;
        }
        consumer.assign(&list)
    }
}

/// The first offset of that time or later; none where everything is older.
fn at(consumer: &Consumer, topic: &str, partition: i32, time: OffsetDateTime) -> KafkaResult<Option<i64>> {
    let millis = i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX).max(0);
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, partition, Offset::Offset(millis))?;
    let found = consumer.offsets_for_times(list, ASK)?;
    let Some(found) = found.find_partition(topic, partition) else { return Ok(None) };
    match found.error() {
        Err(error) if error.rdkafka_error_code() != Some(Code::NoError) => Err(error),
        _ => Ok(match found.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }),
    }
}
