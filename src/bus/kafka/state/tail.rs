//! Reads the state topics behind what this writer appends: whether a record breaks the rule of
//! [`crate::bus::state`] at its place in the log.
//!
//! It reads records of open and of aborted transactions too. What a record stands for is not less true because its
//! transaction was aborted, and waiting for the end of another writer's transaction could take a minute.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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

/// A record of this writer. Its key and its version are known, so that what is read back need not be decoded.
pub(super) struct Own<'a> {
    pub(super) offset: i64,
    /// Its number in the transaction.
    pub(super) number: usize,
    pub(super) key: &'a str,
    pub(super) version: Version,
}

/// Records of this writer that are waited for, by their order in each partition.
pub(super) type Awaited<'a> = BTreeMap<Partition, VecDeque<Own<'a>>>;

/// What becomes of the records that break the rule, by their numbers.
pub(super) type Refused = BTreeMap<usize, Outcome>;

pub(super) struct Tail {
    consumer: BaseConsumer<Notes>,
    newest: Newest,
    /// The next offset of each partition.
    next: BTreeMap<Partition, i64>,
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
        let mut tail = Self { consumer, newest: Newest::new(), next: BTreeMap::new(), started: now(), now };
        for topic in topics {
            tail.add_topic(topic)?;
        }
        tail.assign()?;
        Ok(tail)
    }

    /// Finds out where to begin in a topic. While partitions are assigned, each request waits behind a fetch that the broker
    /// holds open.
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
                // Asked first: what another writer appends between the two requests is read in any case.
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
        Ok(())
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
        while Instant::now() < deadline && self.poll(Duration::ZERO, &mut Awaited::new(), &mut Refused::new())
        {
        }
    }

    /// Reads up to these own records. Returns those that break the rule where they stand, by their numbers.
    pub(super) fn verify(
        &mut self,
        mut awaited: Awaited<'_>,
        within: Duration,
    ) -> Result<Refused, StateError> {
        let unknown = awaited.keys().filter(|partition| !self.next.contains_key(*partition));
        let topics: BTreeSet<String> = unknown.map(|(topic, _)| topic.clone()).collect();
        if !topics.is_empty() {
            let added = topics.iter().try_for_each(|topic| self.add_topic(topic));
            // Those before one that cannot be found are known from now on.
            self.assign()?;
            added?;
        }
        let mut refused = Refused::new();
        let deadline = Instant::now() + within;
        while awaited.values().any(|records| !records.is_empty()) {
            if Instant::now() > deadline {
                return Err(StateError::Passing(
                    "the state topics cannot be read behind what was written".into(),
                ));
            }
            self.poll(POLL, &mut awaited, &mut refused);
        }
        Ok(refused)
    }

    /// Reads one record; false if there is none. Adds an own one that breaks the rule to those that are refused.
    fn poll(&mut self, within: Duration, awaited: &mut Awaited<'_>, refused: &mut Refused) -> bool {
        let message = match self.consumer.poll(within) {
            None => return false,
            Some(Err(error)) => {
                tracing::debug!("reading the state topics: {error}");
                return true;
            }
            Some(Ok(message)) => message,
        };
        let (partition, offset) = ((message.topic().to_owned(), message.partition()), message.offset());
        let stamp = message.timestamp().to_millis().unwrap_or(i64::MIN);
        let awaited = awaited.get_mut(&partition);
        let own = awaited.filter(|records| records.front().is_some_and(|own| own.offset == offset));
        let own = own.and_then(VecDeque::pop_front);
        match self.next.get_mut(&partition) {
            Some(next) => *next = offset + 1,
            None => drop(self.next.insert(partition, offset + 1)),
        }
        let Some(Own { number, key, version, .. }) = own else {
            if let Some((key, version)) = decoded(&message) {
                self.newest.add(&key, version, stamp);
            }
            return true;
        };
        refused.extend(self.refuses(key, version).map(|outcome| (number, outcome)));
        self.newest.add(key, version, stamp);
        true
    }
}

/// The key and the version of a record, if it is a state.
fn decoded(message: &BorrowedMessage<'_>) -> Option<(String, Version)> {
    let item = item(message);
    let version = Version::of(&item.headers, &item.payload)?;
    Some((String::from_utf8_lossy(&item.key?).into_owned(), version))
}

fn passing(error: KafkaError) -> StateError {
    StateError::Passing(error.to_string())
}
