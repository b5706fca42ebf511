//! Reads the state topics behind what this writer appends: whether a record breaks the rule of
//! [`crate::bus::state`] at its place in the log.
//!
//! It reads records of open and of aborted transactions too. What a record stands for is not less true because its
//! transaction was aborted, and waiting for the end of another writer's transaction could take a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use time::OffsetDateTime;

use super::newest::{Newest, WINDOW};
use super::positions::Partition;
use crate::bus::kafka::options::{Options, creation_error};
use crate::bus::kafka::read::{Notes, consumer_config, item};
use crate::bus::state::{Clock, Outcome, StateError, Version};

/// How long the broker may take to answer about partitions and offsets.
const REQUEST: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

pub(super) struct Tail {
    consumer: BaseConsumer<Notes>,
    newest: Newest,
    /// The next offset of each partition.
    next: BTreeMap<Partition, i64>,
    /// Own records that are waited for, and what those that were read break the rule by.
    awaited: BTreeSet<(Partition, i64)>,
    refused: BTreeMap<(Partition, i64), Outcome>,
    started: OffsetDateTime,
    now: Clock,
}

impl Tail {
    /// Begins to read the last minutes of these topics, which must exist.
    pub(super) fn start(options: &Options, topics: &[Arc<str>], now: Clock) -> Result<Self, StateError> {
        let mut config = consumer_config(options, "attio-bridge-state-tail")?;
        config.set("isolation.level", "read_uncommitted").set("enable.partition.eof", "false");
        let consumer = BaseConsumer::from_config_and_context(&config, Notes::new(None))
            .map_err(|error| creation_error(options, &config, error))?;
        let mut tail = Self {
            consumer,
            newest: Newest::new(),
            next: BTreeMap::new(),
            awaited: BTreeSet::new(),
            refused: BTreeMap::new(),
            started: now(),
            now,
        };
        for topic in topics {
            tail.add_topic(topic)?;
        }
        Ok(tail)
    }

    fn add_topic(&mut self, topic: &str) -> Result<(), StateError> {
        let metadata = self.consumer.fetch_metadata(Some(topic), REQUEST).map_err(passing)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let partitions = found.map(|found| found.partitions()).unwrap_or_default();
        if partitions.is_empty() {
            let advice =
                "create it, as `attio-bridge topics` prints it, or set kafka.topics.ensure to \"create\"";
            return Err(StateError::Passing(format!("topic {topic} does not exist: {advice}")));
        }
        let begin = (self.started - WINDOW).unix_timestamp().max(0) * 1000;
        let (mut list, mut ends) = (TopicPartitionList::new(), BTreeMap::new());
        for partition in partitions.iter().map(|partition| partition.id()) {
            if !self.next.contains_key(&(topic.to_owned(), partition)) {
                list.add_partition_offset(topic, partition, Offset::Offset(begin)).map_err(passing)?;
                // Asked first: what another writer appends between the two questions is read in any case.
                let end = self.consumer.fetch_watermarks(topic, partition, REQUEST).map_err(passing)?.1;
                ends.insert(partition, end);
            }
        }
        for found in self.consumer.offsets_for_times(list, REQUEST).map_err(passing)?.elements() {
            found.error().map_err(passing)?;
            let next = match found.offset() {
                Offset::Offset(offset) => offset,
                // Nothing was as young.
                _ => ends.get(&found.partition()).copied().unwrap_or_default(),
            };
            self.next.insert((topic.to_owned(), found.partition()), next);
        }
        self.assign()
    }

    fn assign(&self) -> Result<(), StateError> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), next) in &self.next {
            list.add_partition_offset(topic, *partition, Offset::Offset(*next)).map_err(passing)?;
        }
        self.consumer.assign(&list).map_err(passing)
    }

    /// What becomes of a state that is appended now, as far as is known; none if it may be.
    pub(super) fn refuses(&self, key: &str, next: Version) -> Option<Outcome> {
        self.newest.refuses(key, next, (self.now)())
    }

    /// Reads what is there, for so long at most.
    pub(super) fn drain(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline && self.poll(Duration::ZERO) {}
    }

    /// Reads up to these own records. Returns those that break the rule where they stand.
    pub(super) fn verify(
        &mut self,
        records: impl IntoIterator<Item = (Partition, i64)>,
        within: Duration,
    ) -> Result<BTreeMap<(Partition, i64), Outcome>, StateError> {
        self.awaited = records.into_iter().collect();
        self.refused.clear();
        let topics: BTreeSet<String> = self.awaited.iter().map(|((topic, _), _)| topic.clone()).collect();
        for topic in topics {
            let is_known = |((of, partition), _): &(Partition, i64)| {
                *of != topic || self.next.contains_key(&(of.clone(), *partition))
            };
            if !self.awaited.iter().all(is_known) {
                self.add_topic(&topic)?;
            }
        }
        let deadline = Instant::now() + within;
        while !self.awaited.is_empty() {
            if Instant::now() > deadline {
                return Err(StateError::Passing(
                    "the state topics cannot be read behind what was written".into(),
                ));
            }
            self.poll(POLL);
        }
        Ok(std::mem::take(&mut self.refused))
    }

    /// Reads one record; false if there is none.
    fn poll(&mut self, within: Duration) -> bool {
        // The consumer is borrowed by its messages.
        let polled = self.consumer.poll(within).map(|polled| polled.map(|message| read(&message)));
        match polled {
            None => false,
            Some(Err(error)) => {
                tracing::debug!("reading the state topics: {error}");
                true
            }
            Some(Ok(Read { place, stamp, state })) => {
                self.next.insert(place.0.clone(), place.1 + 1);
                let is_own = self.awaited.remove(&place);
                if let Some((key, version)) = state {
                    if is_own && let Some(refused) = self.refuses(&key, version) {
                        self.refused.insert(place, refused);
                    }
                    self.newest.add(&key, version, stamp);
                }
                true
            }
        }
    }
}

struct Read {
    place: (Partition, i64),
    /// In milliseconds since 1970.
    stamp: i64,
    /// Its key and its version, if it is a state.
    state: Option<(String, Version)>,
}

fn read(message: &BorrowedMessage<'_>) -> Read {
    let place = ((message.topic().to_owned(), message.partition()), message.offset());
    let stamp = message.timestamp().to_millis().unwrap_or(i64::MIN);
    let item = item(message);
    let key = item.key.map(|key| String::from_utf8_lossy(&key).into_owned());
    Read { place, stamp, state: key.zip(Version::of(&item.headers, &item.payload)) }
}

fn passing(error: KafkaError) -> StateError {
    StateError::Passing(error.to_string())
}
