//! The transactions: append, read back, commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use time::OffsetDateTime;

use super::positions::{Partition, Positions};
use super::tail::Tail;
use crate::bus::error::StartError;
use crate::bus::inspect::Ensure;
use crate::bus::kafka::options::{MESSAGE_MAX_BYTES, Options, client_config, creation_error};
use crate::bus::kafka::read::consumer_config;
use crate::bus::kafka::topics::{self, Create};
use crate::bus::state::{Change, Encoded, Outcome, State, StateError, Writer};
use crate::cloudevent::ContentMode;

/// How long one call of the client waits for the broker before it is called again.
const CALL: Duration = Duration::from_secs(5);
/// How long the tail is read before a batch; what is left is read behind it.
const DRAIN: Duration = Duration::from_millis(100);
/// How long a call is repeated before the changes count as failed for now.
const PATIENCE: Duration = Duration::from_secs(60);
/// After this the broker aborts a transaction that its writer has left open. Until then readers that read committed
/// records wait.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest state: Kafka's own limit is the topic's.
const LARGEST_STATE: &str = "8388608";

pub(super) struct Transactions {
    producer: ThreadedProducer<Deliveries>,
    tail: Tail,
    positions: Arc<Mutex<Positions>>,
    group: ConsumerGroupMetadata,
    content_mode: ContentMode,
}

impl Transactions {
    /// Fences the others. Waits for the broker and for the topics no longer than a moment: an error that is passing is
    /// for the caller to wait out.
    pub(super) fn start(
        options: &Options,
        content_mode: ContentMode,
        writer: &Writer,
        positions: Arc<Mutex<Positions>>,
        now: OffsetDateTime,
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
        Ok(Self { producer, tail, positions, group, content_mode })
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
        loop {
            let conflicts = self.attempt(changes, &refused)?;
            if conflicts.is_empty() {
                return Ok(refused.into_iter().map(|refused| refused.unwrap_or(Outcome::Done)).collect());
            }
            for (at, outcome) in conflicts {
                refused[at] = Some(outcome);
            }
        }
    }

    /// One transaction with the changes that are not refused. Returns the conflicts that have aborted it.
    fn attempt(
        &mut self,
        changes: &[Change],
        refused: &[Option<Outcome>],
    ) -> Result<BTreeMap<usize, Outcome>, StateError> {
        let (mut states, mut events) = (Vec::new(), Vec::new());
        for (at, change) in changes.iter().enumerate() {
            match refused[at] {
                Some(Outcome::Newer) => continue,
                Some(_) => {}
                None => states.extend(change.state.as_ref().map(|state| (at, state))),
            }
            events.extend_from_slice(&change.events);
        }
        let positions = self.positions.lock().once_done(&events);
        if states.is_empty() && positions.is_empty() {
            return Ok(BTreeMap::new());
        }
        if let Err(error) = call(|| self.producer.begin_transaction()) {
            // The former one may be open still: its end was not heard of.
            return self.abort(error);
        }
        match self.fill(&states, &positions) {
            Ok(conflicts) if conflicts.is_empty() => match end(|| self.producer.commit_transaction(CALL)) {
                Ok(()) => {
                    self.positions.lock().done(&events);
                    Ok(conflicts)
                }
                Err(error) => self.abort(error),
            },
            Ok(conflicts) => {
                end(|| self.producer.abort_transaction(CALL))?;
                Ok(conflicts)
            }
            Err(error) => self.abort(error),
        }
    }

    /// Aborts, and returns why.
    fn abort<T>(&self, error: StateError) -> Result<T, StateError> {
        if matches!(error, StateError::Passing(_)) {
            end(|| self.producer.abort_transaction(CALL))?;
        }
        Err(error)
    }

    /// Appends the states, reads up to them, and adds the positions. Returns the conflicts.
    fn fill(
        &mut self,
        states: &[(usize, &State)],
        positions: &BTreeMap<Partition, i64>,
    ) -> Result<BTreeMap<usize, Outcome>, StateError> {
        let deliveries = self.producer.context();
        deliveries.0.lock().clear();
        for (at, state) in states {
            self.send(*at, state)?;
        }
        call(|| self.producer.flush(CALL))?;
        let mut places = BTreeMap::new();
        for (at, delivered) in self.producer.context().0.lock().drain(..) {
            places.insert(delivered.map_err(passing)?, at);
        }
        if places.len() < states.len() {
            return Err(StateError::Passing("the broker has not acknowledged every state in time".into()));
        }
        let refused = self.tail.verify(places.keys().cloned(), CALL * 2)?;
        let conflicts =
            refused.into_iter().filter_map(|(place, refused)| Some((*places.get(&place)?, refused)));
        let conflicts: BTreeMap<_, _> = conflicts.collect();
        if conflicts.is_empty() && !positions.is_empty() {
            let mut offsets = TopicPartitionList::new();
            for ((topic, partition), position) in positions {
                offsets
                    .add_partition_offset(topic, *partition, Offset::Offset(*position))
                    .map_err(passing)?;
            }
            call(|| self.producer.send_offsets_to_transaction(&offsets, &self.group, CALL))?;
        }
        Ok(conflicts)
    }

    fn send(&self, at: usize, state: &State) -> Result<(), StateError> {
        let encoded = Encoded::new(state, self.content_mode, "ce_", "content-type");
        let headers = encoded.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let mut record: BaseRecord<'_, str, [u8], usize> =
            BaseRecord::with_opaque_to(&state.destination.address, at)
                .key(state.key.as_str())
                .headers(headers);
        record.payload = encoded.payload.as_deref();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, back)) if error.rdkafka_error_code() == Some(Code::QueueFull) => {
                    if Instant::now() > deadline {
                        return Err(passing(error));
                    }
                    std::thread::sleep(Duration::from_millis(10));
                    record = back;
                }
                Err((error, _)) => return Err(passing(error)),
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
    let timeout = options.publish_timeout.clamp(Duration::from_secs(1), TRANSACTION_TIMEOUT);
    config
        .set("message.timeout.ms", timeout.as_millis().to_string())
        .set("transactional.id", name)
        .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string());
    Ok(config)
}

/// Calls the client until the broker answers.
fn call<T>(attempt: impl Fn() -> KafkaResult<T>) -> Result<T, StateError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if is_retriable(&error) && Instant::now() < deadline => {
                tracing::debug!("kafka: {error}; trying again");
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result.map_err(passing),
        }
    }
}

/// Ends a transaction, however long the broker is away: until the client knows how it has ended, it refuses every other
/// call.
fn end(attempt: impl Fn() -> KafkaResult<()>) -> Result<(), StateError> {
    let mut said = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_retriable(&error) => {
                if said.elapsed() > PATIENCE {
                    said = Instant::now();
                    tracing::warn!("kafka: the states are not committed, trying on: {error}");
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result.map_err(passing),
        }
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => {
            error.is_retriable() && !error.txn_requires_abort() && !error.is_fatal()
        }
        KafkaError::Flush(code) => *code == Code::OperationTimedOut,
        _ => false,
    }
}

/// Whether, and how, the writer can go on after an error.
fn passing(error: KafkaError) -> StateError {
    use Code::{Fatal, Fenced, InvalidProducerEpoch, ProducerFenced};
    let code = error.rdkafka_error_code();
    let is_fatal = matches!(&error, KafkaError::Transaction(error) if error.is_fatal());
    match code {
        Some(Fenced | ProducerFenced | InvalidProducerEpoch) => StateError::Lasting(format!(
            "another process has taken over, or the broker has ended a transaction that was open for too long: one of each of `state run`, `state backfill` and `state diff --repair` may \
             run for a group ({error})"
        )),
        Some(Code::TransactionalIdAuthorizationFailed) => StateError::Lasting(format!(
            "{error}: grant Describe and Write on the transactional id, as `attio-bridge topics` prints it"
        )),
        Some(Code::GroupAuthorizationFailed) => StateError::Lasting(format!(
            "{error}: grant Read on the group, as `attio-bridge topics` prints it"
        )),
        Some(Code::TopicAuthorizationFailed) => StateError::Lasting(format!(
            "{error}: grant Read on the events' topics, Read and Write on the states', as `attio-bridge topics` prints it"
        )),
        _ if is_fatal || code == Some(Fatal) => StateError::Lasting(error.to_string()),
        _ => StateError::Passing(error.to_string()),
    }
}

/// What became of each record: its place, or why it has none.
#[derive(Default)]
struct Deliveries(Mutex<Vec<(usize, Place)>>);

type Place = KafkaResult<(Partition, i64)>;

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, text: &str) {
        tracing::debug!("kafka: {error}: {text}");
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, text: &str) {
        tracing::debug!("librdkafka: {text}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, at: usize) {
        let place = match result {
            Ok(message) => Ok(((message.topic().to_owned(), message.partition()), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        self.0.lock().push((at, place));
    }
}
