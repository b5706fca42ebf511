//! The transactions: append, read back, commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::calls::{PATIENCE, call, end, is_consequence, is_too_large, passing};
use super::deliveries::Deliveries;
use super::positions::{Partition, Positions};
use super::tail::{Awaited, Own, Refused, Tail};
use crate::bus::error::StartError;
use crate::bus::inspect::Ensure;
use crate::bus::kafka::options::{BATCH_SIZE, MESSAGE_MAX_BYTES, Options, client_config, creation_error};
use crate::bus::kafka::read::consumer_config;
use crate::bus::kafka::topics::{self, Create};
use crate::bus::state::{Change, Clock, Encoded, Outcome, State, StateError, Writer};
use crate::cloudevent::ContentMode;

/// How often states of which the broker has refused one are tried at once.
const TRIES: usize = 5;
/// How long one call of the client waits for the broker before it is called again.
const CALL: Duration = Duration::from_secs(5);
/// How long the client gathers records before it sends them, whatever the operator's linger is: the states of a
/// transaction then go in one request a partition. While a partition has more than one to send, librdkafka polls without
/// pause, which cost a third of the CPU (findings/librdkafka-polls-without-pause-while-batches-wait.sh).
const GATHER: Duration = Duration::from_millis(5);
/// The default of librdkafka, which the default limit of a topic has room for.
const BATCH_BYTES: &str = "1000000";
/// What is sent at a time once a broker has refused a batch for its size.
const SMALL_BATCH: usize = 64 << 10;
/// What the format of a record adds to it at most, in bytes.
const RECORD: usize = 64;
/// How long the tail is read before a batch; what is left is read behind it.
const DRAIN: Duration = Duration::from_millis(100);
/// After this the broker aborts a transaction that its writer has left open. Until then readers that read committed
/// records wait.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest state: Kafka's own limit is the topic's.
const LARGEST_STATE: &str = "8388608";

/// How a transaction has ended.
enum Attempt {
    Committed,
    /// Aborted, as these changes are refused.
    Refused(Refused),
    /// Aborted, as one of these is too large for the broker.
    InABatch(Vec<usize>),
}

pub(super) struct Transactions {
    producer: ThreadedProducer<Deliveries>,
    tail: Tail,
    positions: Arc<Mutex<Positions>>,
    group: ConsumerGroupMetadata,
    content_mode: ContentMode,
    /// How many bytes are sent before their places are waited for.
    room: usize,
}

impl Transactions {
    /// Fences the others. Waits for the broker and for the topics no longer than a moment: an error that is passing is
    /// for the caller to wait out.
    pub(super) fn start(
        options: &Options,
        content_mode: ContentMode,
        writer: &Writer,
        positions: Arc<Mutex<Positions>>,
        now: Clock,
    ) -> Result<Self, StateError> {
        let config = producer_config(options, &writer.name())?;
        let producer: ThreadedProducer<Deliveries> =
            ThreadedProducer::from_config_and_context(&config, Deliveries::default())
                .map_err(|error| creation_error(options, &config, error))?;
        ensure(&producer, options, &config, writer)?;
        call(|| producer.init_transactions(CALL))?;
        // Without members in the group its generation is not checked.
        let consumer: BaseConsumer = consumer_config(options, &writer.group)?.create().map_err(passing)?;
        let group =
            consumer.group_metadata().ok_or_else(|| StateError::Lasting("no consumer group".into()))?;
        let mut tail = Tail::start(options, &writer.addresses, now)?;
        tail.drain(CALL);
        Ok(Self { producer, tail, positions, group, content_mode, room: usize::MAX })
    }

    pub(super) fn idle(&mut self, within: Duration) {
        self.tail.drain(within);
    }

    pub(super) fn publish(&mut self, changes: &[Change]) -> Result<Vec<Outcome>, StateError> {
        self.tail.drain(DRAIN);
        let known = |change: &Change| {
            let state = change.state.as_ref()?;
            self.tail.refuses(&state.key, state.version())
        };
        let mut refused: Vec<Option<Outcome>> = changes.iter().map(known).collect();
        let (mut alone, mut tries, mut was_too_large) = (BTreeSet::new(), 0, false);
        loop {
            let attempt = match self.attempt(changes, &refused, &alone) {
                // The client may fail the transaction after one that a record has ended, too.
                Err(StateError::Passing(error)) if was_too_large && tries < TRIES => {
                    tracing::debug!("kafka: {error}; trying again");
                    tries += 1;
                    continue;
                }
                attempt => attempt?,
            };
            match attempt {
                Attempt::Committed => {
                    return Ok(refused.into_iter().map(|refused| refused.unwrap_or(Outcome::Done)).collect());
                }
                Attempt::Refused(outcomes) => {
                    outcomes.into_iter().for_each(|(at, outcome)| refused[at] = Some(outcome));
                    tries = 0;
                }
                Attempt::InABatch(some) => {
                    (was_too_large, tries) = (true, 0);
                    if some.len() > 1 && self.room > SMALL_BATCH {
                        // Its topic may take less than others do: from now on batches are small.
                        self.room = SMALL_BATCH;
                    } else {
                        alone.extend(some);
                    }
                }
            }
        }
    }

    /// One transaction with the changes that are not refused.
    fn attempt(
        &mut self,
        changes: &[Change],
        refused: &[Option<Outcome>],
        alone: &BTreeSet<usize>,
    ) -> Result<Attempt, StateError> {
        let (mut states, mut events) = (Vec::new(), Vec::new());
        for (at, change) in changes.iter().enumerate() {
            match refused[at] {
                Some(Outcome::Newer | Outcome::TooOld | Outcome::TooLarge { .. }) => continue,
                Some(_) => {}
                None => states.extend(change.state.as_ref().map(|state| (at, state))),
            }
            events.extend_from_slice(&change.events);
        }
        let positions = self.positions.lock().once_done(&events);
        if states.is_empty() && positions.is_empty() {
            return Ok(Attempt::Committed);
        }
        if let Err(error) = call(|| self.producer.begin_transaction()) {
            // The former one may be open still: its end was not heard of.
            return self.abort(error);
        }
        match self.fill(&states, alone, &positions) {
            Ok(Attempt::Committed) => match end(|| self.producer.commit_transaction(CALL)) {
                Ok(()) => {
                    self.positions.lock().done(&events);
                    Ok(Attempt::Committed)
                }
                Err(error) => self.abort(error),
            },
            Ok(refused) => {
                end(|| self.producer.abort_transaction(CALL))?;
                Ok(refused)
            }
            Err(error) => self.abort(error),
        }
    }

    /// Aborts, and returns why. After an error that ends this writer, too: what it leaves open keeps everybody who reads
    /// committed records waiting. One that is fenced has nothing open, and the client says so at once.
    fn abort<T>(&self, error: StateError) -> Result<T, StateError> {
        match error {
            StateError::Passing(ref reason) => {
                end(|| self.producer.abort_transaction(CALL)).map_err(|open| match open {
                    StateError::Lasting(open) => StateError::Lasting(format!("{reason}; {open}")),
                    open => open,
                })?
            }
            _ => {
                if let Err(open) = call(|| self.producer.abort_transaction(CALL)) {
                    tracing::debug!("kafka: the transaction is not aborted: {open}");
                }
            }
        }
        Err(error)
    }

    /// Appends the states, each of some in a batch of its own, reads up to them, and adds the positions.
    fn fill(
        &mut self,
        states: &[(usize, &State)],
        alone: &BTreeSet<usize>,
        positions: &BTreeMap<Partition, i64>,
    ) -> Result<Attempt, StateError> {
        let first = self.producer.context().begin(states.last().map_or(0, |(at, _)| at + 1));
        let (mut sent, mut unsent, mut under_way) = (0, None, 0);
        for (at, state) in states {
            let encoded = Encoded::new(state, self.content_mode, "ce_", "content-type");
            let is_alone = alone.contains(at);
            let bytes = encoded.bytes() + state.key.len() + RECORD;
            under_way += bytes;
            if is_alone || under_way > self.room {
                self.settled(sent)?;
                under_way = bytes;
            }
            let mut failed = self.send(first + at, state, &encoded).err();
            sent += usize::from(failed.is_none());
            if is_alone && failed.is_none() {
                self.settled(sent)?;
                failed = self.producer.context().failure(*at);
            }
            match failed {
                Some(error) if is_too_large(&error) => {
                    let outcome = Outcome::TooLarge { bytes: encoded.bytes() };
                    return Ok(Attempt::Refused([(*at, outcome)].into()));
                }
                // Once a record is refused, the client takes no other of the transaction: which one is told below.
                Some(error) => {
                    unsent = Some(error);
                    break;
                }
                None => {}
            }
        }
        self.settled(sent)?;
        let (mut awaited, mut failures) = (Awaited::new(), Vec::new());
        for (number, place) in self.producer.context().take() {
            match (place, states.binary_search_by_key(&number, |(at, _)| *at)) {
                (Ok((partition, offset)), Ok(found)) => {
                    let state = states[found].1;
                    let own = Own { offset, number, key: &state.key, version: state.version() };
                    awaited.entry(partition).or_default().push_back(own);
                }
                (Ok(_), Err(_)) => {}
                (Err(error), _) => failures.push((number, error)),
            }
        }
        awaited.values_mut().for_each(|records| records.make_contiguous().sort_by_key(|own| own.offset));
        let in_a_batch: Vec<usize> =
            failures.iter().filter(|(_, error)| is_too_large(error)).map(|(at, _)| *at).collect();
        if !in_a_batch.is_empty() {
            return Ok(Attempt::InABatch(in_a_batch));
        }
        let failures: Vec<KafkaError> = failures.into_iter().map(|(_, error)| error).chain(unsent).collect();
        if let Some(error) = failures.iter().find(|error| !is_consequence(error)).or(failures.first()) {
            return Err(self.cause(states, error.clone()));
        }
        let conflicts = self.tail.verify(awaited, CALL * 2)?;
        if !conflicts.is_empty() {
            return Ok(Attempt::Refused(conflicts));
        }
        if !positions.is_empty() {
            let mut offsets = TopicPartitionList::new();
            for ((topic, partition), position) in positions {
                offsets
                    .add_partition_offset(topic, *partition, Offset::Offset(*position))
                    .map_err(passing)?;
            }
            call(|| self.producer.send_offsets_to_transaction(&offsets, &self.group, CALL))?;
        }
        Ok(Attempt::Committed)
    }

    /// Why the client has failed a record. What the broker has refused first the client tells to whoever goes on with the
    /// transaction: the records get another error, as they are purged. It is aborted in any case.
    fn cause(&self, states: &[(usize, &State)], error: KafkaError) -> StateError {
        let Some((_, state)) = states.first().filter(|_| is_consequence(&error)) else {
            return passing(error);
        };
        let mut offsets = TopicPartitionList::new();
        let added = offsets.add_partition_offset(&state.destination.address, 0, Offset::Offset(0));
        match added.and_then(|()| self.producer.send_offsets_to_transaction(&offsets, &self.group, CALL)) {
            Err(KafkaError::Transaction(cause)) if cause.txn_requires_abort() => {
                passing(KafkaError::Transaction(cause))
            }
            _ => passing(error),
        }
    }

    /// Waits until so many records of the transaction have their places, or one has none.
    fn settled(&self, sent: usize) -> Result<(), StateError> {
        match self.producer.context().wait(sent, Instant::now() + PATIENCE) {
            true => Ok(()),
            false => Err(StateError::Passing("the broker has not acknowledged every state in time".into())),
        }
    }

    fn send(&self, mark: usize, state: &State, encoded: &Encoded) -> KafkaResult<()> {
        let headers = encoded.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let mut record: BaseRecord<'_, str, [u8], usize> =
            BaseRecord::with_opaque_to(&state.destination.address, mark).key(&*state.key).headers(headers);
        record.payload = encoded.payload.as_deref();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, back))
                    if error.rdkafka_error_code() == Some(Code::QueueFull) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                    record = back;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }
}

/// Creates missing topics where configured.
fn ensure(
    producer: &ThreadedProducer<Deliveries>,
    options: &Options,
    config: &ClientConfig,
    writer: &Writer,
) -> Result<(), StateError> {
    if options.topics.ensure != Ensure::Create {
        return Ok(());
    }
    let mut missing = BTreeSet::new();
    for address in &writer.addresses {
        let found = topics::fetch(producer.client(), address, CALL).map_err(passing)?;
        if found == topics::TopicState::Missing {
            missing.insert(Arc::clone(address));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let settings = topics::compacted_settings(&options.topics);
    let mut config = config.clone();
    config.remove("transactional.id").remove("transaction.timeout.ms");
    let refused = topics::create_with(&missing, &options.topics, &settings, &config, Create::Commit)
        .map_err(passing)?;
    match refused.first() {
        Some((topic, code)) => {
            Err(StateError::Passing(format!("{topic}: {code}: {}", topics::creation_advice(*code))))
        }
        None => Ok(()),
    }
}

pub(super) fn producer_config(options: &Options, name: &str) -> Result<ClientConfig, StartError> {
    let mut config = client_config(options)?;
    config.remove("statistics.interval.ms");
    if !options.properties.contains_key(MESSAGE_MAX_BYTES) {
        config.set(MESSAGE_MAX_BYTES, LARGEST_STATE);
    }
    if !options.properties.contains_key(BATCH_SIZE) {
        config.set(BATCH_SIZE, BATCH_BYTES);
    }
    let timeout = options.publish_timeout.clamp(Duration::from_secs(1), TRANSACTION_TIMEOUT);
    config
        .set("linger.ms", GATHER.as_millis().to_string())
        .set("message.timeout.ms", timeout.as_millis().to_string())
        .set("transactional.id", name)
        .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string());
    Ok(config)
}
