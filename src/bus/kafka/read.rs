//! The reader: a consumer that assigns itself every partition. It never joins its group, so that it leaves
//! none behind, and commits nothing. For `state run` it begins where that verb has committed.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::diagnose::{ErrorNotes, Probe, first_answer};
use super::options::{Options, client_config, creation_error};
use super::tokens::{self, Tokens};
use crate::bus::error::{ReadError, StartError};
use crate::bus::read::{Begin, Item, Plan, Position, Sink};

type Consumer = BaseConsumer<Notes>;

/// Required for a manual assignment, and never joined.
const GROUP: &str = "attio-bridge-reader";
const OF_PRODUCERS: &str = "acks enable.idempotence partitioner message.timeout.ms linger.ms batch.size \
                            batch.num.messages compression.codec compression.type compression.level \
                            queue.buffering.max.messages queue.buffering.max.kbytes message.send.max.retries retries \
                            delivery.timeout.ms statistics.interval.ms";
/// How often to search for new topics and partitions.
const DISCOVERY: Duration = Duration::from_secs(5);
/// One poll: the longest that a stop waits.
const POLL: Duration = Duration::from_millis(50);
/// How long the client may take to connect, and one request meanwhile.
const CONNECT: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(1));
/// How long the broker may take to answer about topics and offsets.
const REQUEST: Duration = Duration::from_secs(10);
/// How long partitions may be without a leader at the start, and how often to retry.
const LEADERS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(200));

pub(super) struct Notes {
    errors: ErrorNotes,
    tokens: Option<Tokens>,
}

impl Notes {
    pub(super) fn new(tokens: Option<Tokens>) -> Self {
        Self { errors: ErrorNotes::default(), tokens }
    }
}

impl ClientContext for Notes {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        tokens::hand_out(self.tokens.as_ref())
    }

    fn error(&self, error: KafkaError, text: &str) {
        self.errors.add(&error, text);
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, text: &str) {
        tracing::debug!("librdkafka: {text}");
    }
}

impl ConsumerContext for Notes {}

/// Begins to read.
pub async fn read(
    options: Options,
    plan: Plan,
    sink: Sink,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, ReadError> {
    read_as(options, plan, None, sink, stop).await
}

/// The same; a partition in which this group has a position begins there.
pub(super) async fn read_as(
    options: Options,
    plan: Plan,
    group: Option<String>,
    sink: Sink,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, ReadError> {
    let begun = tokio::task::spawn_blocking(move || Worker::start(&options, &plan, group.as_deref()));
    let worker = begun.await.map_err(|error| broken(format!("the reader panicked: {error}")))??;
    Ok(tokio::task::spawn_blocking(move || worker.run(&sink, &stop)))
}

fn broken(reason: impl Into<String>) -> ReadError {
    ReadError::broker("kafka", reason)
}

pub(super) fn consumer_config(options: &Options, group: &str) -> Result<ClientConfig, StartError> {
    let mut config = client_config(options)?;
    for name in OF_PRODUCERS.split(' ') {
        config.remove(name);
    }
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("enable.partition.eof", "true");
    let defaults = [
        // Limits what is fetched ahead; the defaults of librdkafka are 64 and 50 MiB.
        ("queued.max.messages.kbytes", "8192"),
        ("fetch.max.bytes", "8388608"),
        // No delivery waits for it, and a fetch may take a while.
        ("socket.timeout.ms", "10000"),
    ];
    for (name, value) in defaults.into_iter().filter(|(name, _)| !options.properties.contains_key(*name)) {
        config.set(name, value);
    }
    Ok(config)
}

struct Worker {
    config: ClientConfig,
    tokens: Option<Tokens>,
    consumer: Consumer,
    offsets: Offsets,
    follow: bool,
}

impl Worker {
    fn start(options: &Options, plan: &Plan, group: Option<&str>) -> Result<Self, ReadError> {
        let config = consumer_config(options, group.unwrap_or(GROUP))?;
        let (within, request) = CONNECT;
        let tokens = tokens::of_verb(options.oauth.clone())?;
        tokens.iter().try_for_each(|tokens| tokens.first(within)).map_err(broken)?;
        let consumer = Consumer::from_config_and_context(&config, Notes::new(tokens.clone()))
            .map_err(|error| creation_error(options, &config, error))?;
        let topics: BTreeSet<Arc<str>> = plan.destinations.iter().map(|to| Arc::clone(&to.address)).collect();
        let topics = topics.into_iter().collect();
        let has_group = group.is_some();
        let mut offsets = Offsets { topics, missing: Vec::new(), partitions: BTreeMap::new(), has_group };
        let topic = offsets.topics.first().map(|topic| &**topic);
        // Polling gives it its token, and reports errors of the connection.
        let poll = || while consumer.poll(Duration::ZERO).is_some() {};
        let request = || {
            poll();
            let answer = consumer.fetch_metadata(topic, request).map(drop);
            poll();
            answer
        };
        first_answer(&Probe::new(options), &consumer.context().errors, within, request)
            .map_err(|(_, reason)| broken(reason))?;
        let assigned = offsets.begin(&consumer, plan.begin);
        assigned.map_err(|error| broken(error.to_string()))?;
        if !offsets.missing.is_empty() {
            let what = if offsets.missing.len() == 1 { "topic" } else { "topics" };
            let names = offsets.missing.join(", ");
            let text = format!("no such {what}, or none that this user may see: {names}");
            if !plan.follow {
                return Err(broken(text));
            }
            match offsets.partitions.is_empty() {
                true => tracing::warn!("{text}; waiting for them"),
                false => tracing::debug!("{text}"),
            }
        }
        Ok(Self { config, tokens, consumer, offsets, follow: plan.follow })
    }

    fn run(mut self, sink: &Sink, stop: &CancellationToken) {
        let discovered = self
            .follow
            .then(|| discover(&self.config, self.tokens.clone(), self.offsets.clone(), stop.clone()));
        while !stop.is_cancelled() && (self.follow || !self.offsets.are_at_end()) {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let partition = (message.topic().to_owned(), message.partition());
                    if let Some(progress) = self.offsets.partitions.get_mut(&partition) {
                        progress.next = message.offset() + 1;
                    }
                    if sink.blocking_send(Ok(item(&message))).is_err() {
                        return;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.offsets.ended(partition),
                Some(Err(error)) => match error.rdkafka_error_code() {
                    // Fails if the reader was dropped.
                    Some(Code::TopicAuthorizationFailed) => {
                        let advice = "grant this user Read on the topics, or use one that has it";
                        return drop(sink.blocking_send(Err(broken(format!("{error}: {advice}")))));
                    }
                    Some(Code::Fatal) => return drop(sink.blocking_send(Err(broken(error.to_string())))),
                    // The client retries.
                    _ => tracing::debug!("reading: {error}"),
                },
                None => {}
            }
            if let Some(added) = discovered.as_ref().and_then(|discovered| discovered.try_recv().ok()) {
                self.offsets.partitions.extend(added);
                if let Err(error) = self.offsets.assign(&self.consumer) {
                    tracing::warn!("reading new partitions: {error}");
                }
            }
        }
    }
}

/// Searches for new topics and partitions, on a thread and a connection of its own: on the reader's connection each
/// request waits behind a fetch that the broker holds open.
fn discover(
    config: &ClientConfig,
    tokens: Option<Tokens>,
    mut offsets: Offsets,
    stop: CancellationToken,
) -> mpsc::Receiver<Partitions> {
    let (found, discovered) = mpsc::sync_channel(1);
    let config = config.clone();
    let search = move || {
        let (mut consumer, mut searched) = (None, Instant::now());
        while !stop.is_cancelled() {
            thread::sleep(POLL);
            if searched.elapsed() < DISCOVERY {
                continue;
            }
            // What is new is younger than the reader.
            let searching = match &consumer {
                Some(consumer) => offsets.search(consumer, Begin::Beginning, &stop),
                None => Consumer::from_config_and_context(&config, Notes::new(tokens.clone()))
                    .and_then(|new| offsets.search(consumer.insert(new), Begin::Beginning, &stop)),
            };
            match searching {
                Ok(added) if added.is_empty() => {}
                // The reader may have ended.
                Ok(added) => drop(found.send(added)),
                Err(error) => tracing::warn!("searching for new topics: {error}"),
            }
            searched = Instant::now();
        }
    };
    if let Err(error) = thread::Builder::new().name("kafka-discovery".into()).spawn(search) {
        tracing::warn!("new topics are not searched for: {error}");
    }
    discovered
}

pub(super) fn item(message: &BorrowedMessage<'_>) -> Item {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let bytes = |bytes: Option<&[u8]>| Bytes::copy_from_slice(bytes.unwrap_or_default());
    let stored_at = message.timestamp().to_millis().map(|millis| i128::from(millis) * 1_000_000);
    Item {
        address: message.topic().to_owned(),
        key: message.key().map(Bytes::copy_from_slice),
        headers: headers.map(|header| (header.key.to_owned(), bytes(header.value))).collect(),
        payload: bytes(message.payload()),
        stored_at: stored_at.and_then(|at| OffsetDateTime::from_unix_timestamp_nanos(at).ok()),
        position: Position::Kafka { partition: message.partition(), offset: message.offset() },
    }
}

type Partitions = BTreeMap<(String, i32), Progress>;

/// How far one partition is read: the next offset, and the end when it was assigned.
#[derive(Clone, Copy)]
struct Progress {
    next: i64,
    end: i64,
}

#[derive(Clone)]
struct Offsets {
    topics: Vec<Arc<str>>,
    /// Topics that do not exist, or that this user may not see.
    missing: Vec<Arc<str>>,
    partitions: Partitions,
    /// Whether the group may have positions.
    has_group: bool,
}

impl Offsets {
    /// The client reached the end of a partition. It does not say of which topic, so only the partition of
    /// a single topic counts: there, messages before the end may be expired.
    fn ended(&mut self, partition: i32) {
        if let [topic] = &self.topics[..]
            && let Some(progress) = self.partitions.get_mut(&(topic.to_string(), partition))
        {
            progress.next = progress.next.max(progress.end);
        }
    }

    fn are_at_end(&self) -> bool {
        self.partitions.values().all(|progress| progress.next >= progress.end)
    }

    /// The first assignment. A partition may be without a leader for a moment: one that is new, or whose broker
    /// has just died.
    fn begin(&mut self, consumer: &Consumer, begin: Begin) -> KafkaResult<()> {
        let (within, pause) = LEADERS;
        let deadline = Instant::now() + within;
        let is_leaderless = |error: &KafkaError| {
            use Code::{LeaderNotAvailable, NotLeaderForPartition, OffsetNotAvailable};
            matches!(
                error.rdkafka_error_code(),
                Some(NotLeaderForPartition | LeaderNotAvailable | OffsetNotAvailable)
            )
        };
        loop {
            let searched = self.search(consumer, begin, &CancellationToken::new());
            match searched.and_then(|_| self.assign(consumer)) {
                Err(error) if is_leaderless(&error) && Instant::now() < deadline => thread::sleep(pause),
                assigned => return assigned,
            }
        }
    }

    /// Searches for partitions that are new, which begin at `begin`, and returns them.
    fn search(
        &mut self,
        consumer: &Consumer,
        begin: Begin,
        stop: &CancellationToken,
    ) -> KafkaResult<Partitions> {
        let mut new = Vec::new();
        self.missing.clear();
        // By name, because a list of all topics can be long.
        for topic in &self.topics {
            if stop.is_cancelled() {
                return Ok(Partitions::new());
            }
            let metadata = consumer.fetch_metadata(Some(topic), REQUEST)?;
            let found = metadata.topics().iter().find(|found| found.name() == &**topic);
            let Some(found) = found.filter(|found| !found.partitions().is_empty()) else {
                self.missing.push(Arc::clone(topic));
                continue;
            };
            let partitions = found.partitions().iter().map(|partition| (topic.to_string(), partition.id()));
            new.extend(partitions.filter(|partition| !self.partitions.contains_key(partition)));
        }
        let mut added = Partitions::new();
        for (topic, partition) in new {
            let (first, end) = consumer.fetch_watermarks(&topic, partition, REQUEST)?;
            let committed = if self.has_group { committed(consumer, &topic, partition)? } else { None };
            let next = match (committed, begin) {
                (Some(committed), _) => committed,
                (None, Begin::Beginning) => first,
                (None, Begin::At(time)) => offset_at(consumer, &topic, partition, time)?.unwrap_or(end),
                (None, Begin::Now) => end,
            };
            added.insert((topic, partition), Progress { next, end });
        }
        self.partitions.extend(added.clone());
        Ok(added)
    }

    fn assign(&self, consumer: &Consumer) -> KafkaResult<()> {
        let mut list = TopicPartitionList::with_capacity(self.partitions.len());
        for ((topic, partition), progress) in &self.partitions {
            list.add_partition_offset(topic, *partition, Offset::Offset(progress.next))?;
        }
        consumer.assign(&list)
    }
}

/// Where the group goes on; none if it has no position.
fn committed(consumer: &Consumer, topic: &str, partition: i32) -> KafkaResult<Option<i64>> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition(topic, partition);
    let committed = consumer.committed_offsets(list, REQUEST)?;
    let Some(found) = committed.find_partition(topic, partition) else { return Ok(None) };
    found.error()?;
    Ok(if let Offset::Offset(offset) = found.offset() { Some(offset) } else { None })
}

/// The first offset of that time or later; none if every message is older.
fn offset_at(
    consumer: &Consumer,
    topic: &str,
    partition: i32,
    time: OffsetDateTime,
) -> KafkaResult<Option<i64>> {
    let millis = i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX).max(0);
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, partition, Offset::Offset(millis))?;
    let found = consumer.offsets_for_times(list, REQUEST)?;
    let Some(found) = found.find_partition(topic, partition) else { return Ok(None) };
    match (found.error(), found.offset()) {
        (Err(error), _) if error.rdkafka_error_code() != Some(Code::NoError) => Err(error),
        (_, Offset::Offset(offset)) => Ok(Some(offset)),
        _ => Ok(None),
    }
}
