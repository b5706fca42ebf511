//! The producer with its polling thread, and a second one for single messages.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::Message;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};

use super::callbacks::{Callbacks, ISOLATION_LEVEL, NO_GENERATION, Retry, RetrySet};
use super::cluster_identity;
use super::health::Health;
use super::topics::{self, TopicState};
use crate::pipeline::publish::PublishError;

/// One poll; at most this long is waited for when the producer is dropped.
const POLL: Duration = Duration::from_millis(100);
/// Prefix of the reason after a fatal error of librdkafka.
pub(super) const FATAL: &str = "fatal error: ";
/// Why a client is replaced that reaches no broker. One of librdkafka 2.12 was seen to open no connection any more,
/// after its only broker was frozen.
pub(super) const UNREACHED: &str = "it has reached no broker for longer than any message waits";

/// Why a client is replaced that reaches its brokers again: they may have been restored from an old copy, and give its
/// producer id to another client.
pub(super) const CUT_OFF: &str = "it was cut off from every broker";

/// Why a client is replaced that logs in as it did before.
pub(super) const NEW_LOGIN: &str = "the login has changed";

/// Why a client is replaced that asked for its token too early.
pub(super) const WITHOUT_TOKEN: &str = "there was no token when it was created";

/// Why a client is replaced that had not failed.
pub(super) const RENEWALS: [&str; 4] = [UNREACHED, CUT_OFF, NEW_LOGIN, WITHOUT_TOKEN];

/// How long to wait for the log line of a metadata reply.
const POLLED: Duration = Duration::from_millis(10);
/// How long a replaced producer may take to settle its messages.
const RETIREMENT: Duration = Duration::from_secs(5);

/// A producer whose events are polled by its own thread. rust-rdkafka's `ThreadedProducer` does the
/// same, but a panic of its thread would not be noticed.
pub(super) struct Producer {
    inner: Arc<BaseProducer<Callbacks>>,
    stop: Arc<AtomicBool>,
    /// Held by the thread that handles events, so that they are handled in their order.
    turn: Arc<Mutex<()>>,
    polling: Option<JoinHandle<()>>,
}

impl Producer {
    pub(super) fn new(config: &ClientConfig, mut context: Callbacks) -> Result<Self, KafkaError> {
        let mut config = config.clone();
        let wanted = config.get("debug");
        context.verbose = wanted.is_some();
        let debug = wanted
            .map_or(cluster_identity::DEBUG.into(), |more| format!("{},{more}", cluster_identity::DEBUG));
        // The end of a partition is behind every message, not before the first open transaction of somebody else.
        config.set("debug", debug).set(ISOLATION_LEVEL, "read_uncommitted");
        config.set_log_level(RDKafkaLogLevel::Debug);
        let inner = Arc::new(BaseProducer::from_config_and_context(&config, context)?);
        let (stop, turn) = <(Arc<AtomicBool>, Arc<Mutex<()>>)>::default();
        let polling = {
            let (producer, stop, turn) = (Arc::clone(&inner), Arc::clone(&stop), Arc::clone(&turn));
            thread::Builder::new().name("kafka-poll".into()).spawn(move || {
                let poll = || {
                    while !stop.load(Ordering::Relaxed) {
                        let _turn = turn.lock();
                        producer.poll(POLL);
                    }
                };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(poll)) {
                    producer.context().health.polling_panicked(panic);
                }
            })
        };
        let no_thread = |error: io::Error| KafkaError::ClientCreation(error.to_string());
        Ok(Self { inner, stop, turn, polling: Some(polling.map_err(no_thread)?) })
    }

    pub(super) fn get(&self) -> &BaseProducer<Callbacks> {
        &self.inner
    }

    /// Sends what lingers and waits for the acks.
    pub(super) fn flush(&self, within: Duration) {
        let deadline = Instant::now() + within;
        if let Some(_turn) = self.turn.try_lock_until(deadline) {
            // A timeout shows in what is pending.
            let _ = self.inner.flush(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Confirms which cluster the client is connected to: asks for each topic that it knows, then for the round's
    /// mark, until every connected broker has answered. False if one of them is of another cluster, does not have what
    /// was acknowledged, or has not answered since it was connected.
    pub(super) fn confirm(&self, within: Duration) -> Result<bool, KafkaError> {
        let (client, identity) = (self.inner.client(), &self.inner.context().identity);
        let (round, topics) = identity.begin_round();
        let (latest, mut used) = (identity.latest(), BTreeSet::new());
        for topic in topics.iter().filter(|_| identity.is_unconfirmed()) {
            let metadata = client.fetch_metadata(Some(topic), within)?;
            // The client asks the broker that it used last, or any of those that it used within the same second: a
            // leader that has been idle for longer is used here, or it would not be asked for its cluster.
            for partition in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
                let (id, leader) = (partition.id(), partition.leader());
                let known = latest.get(&(topic.clone(), id)).copied();
                if !identity.is_to_confirm(leader) || known.is_none() && used.contains(&leader) {
                    continue;
                }
                used.insert(leader);
                match (client.fetch_watermarks(topic, id, within), known) {
                    (Ok((_, end)), Some(known)) if end < known => {
                        self.inner.context().truncated(topic, id, end);
                    }
                    // A new leader may not know it yet. Without it the offset of each ack still tells.
                    (Err(error), Some(_)) => {
                        tracing::debug!(topic, partition = id, %error, "kafka: the end of a partition is not known");
                        if identity.is_recent() {
                            return Ok(false);
                        }
                    }
                    _ => {}
                }
            }
        }
        let deadline = Instant::now() + within;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut answered = false;
        // One request may not reach every broker. The log line of the answer comes with the next poll.
        while !left().is_zero() && identity.invalid().is_none() {
            match client.fetch_metadata(Some(&cluster_identity::probe_topic(round)), left()) {
                Err(error) if !answered => return Err(error),
                _ => answered = true,
            }
            let polled = Instant::now() + POLLED;
            while Instant::now() < polled {
                if identity.has_answered(round) {
                    return Ok(identity.is_confirmed());
                }
                thread::sleep(POLLED / 20);
            }
        }
        Ok(answered && identity.is_confirmed())
    }

    /// Finds out which cluster and topics these are; returns whether that is known of the cluster. The client tells the
    /// ids in its log, in the order of the answers, so that all are read once a later request is answered.
    pub(super) fn identify(&self, topics: &[Arc<str>], within: Duration) -> bool {
        let (client, identity) = (self.inner.client(), &self.inner.context().identity);
        let deadline = Instant::now() + topics::ROUND;
        let unknown = identity.unknown(topics);
        let exists = |topic: &Arc<str>| {
            let left = deadline.saturating_duration_since(Instant::now());
            matches!(topics::fetch(client, topic, left), Ok(TopicState::Ready | TopicState::Leaderless(_)))
        };
        let found: Vec<_> = unknown.iter().filter(|topic| exists(topic)).cloned().collect();
        let is_new = !found.is_empty() || identity.told().is_none();
        if is_new && matches!(self.confirm(within), Ok(true)) {
            identity.found(&found);
        }
        identity.told().is_some()
    }

    /// Why this producer cannot be used any more.
    pub(super) fn failure(&self) -> Option<String> {
        let context = self.inner.context();
        if context.identity.is_overdue() {
            context.invalidate("a broker that was connected has not named its cluster in time");
        }
        let fatal = || self.inner.client().fatal_error().map(|(_, text)| format!("{FATAL}{text}"));
        context.identity.invalid().map(|invalid| invalid.reason.to_string()).or_else(fatal)
    }

    /// Ends a producer that others may still use: settles all its messages and ends its threads.
    pub(super) fn retire(self: Arc<Self>) {
        self.inner.purge(PurgeConfig::default().queue().inflight());
        self.inner.context().invalidate("its client was replaced before the cluster was confirmed");
        let deadline = Instant::now() + RETIREMENT;
        // A publish in progress may hold it for a moment. It must not be the last holder, because
        // dropping a producer waits for its thread.
        let in_use =
            |producer: &Arc<Self>| Arc::strong_count(producer) > 1 || producer.inner.context().pending() > 0;
        while in_use(&self) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let left = self.inner.context().pending();
        if left > 0 {
            tracing::error!(left, "kafka: a replaced producer has messages that it never settled");
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(polling) = self.polling.take() {
            // Its panic was caught.
            let _ = polling.join();
        }
    }
}

/// Sends single messages again, each in its own batch: a broker refuses a whole batch for one of its
/// messages, with the same error for each. A message that is refused here is itself the cause.
///
/// The producer is created when it is needed and dropped when it is idle.
pub(super) struct SingleMessageProducer {
    config: ClientConfig,
    retries: RetrySet,
    producer: Option<Arc<Producer>>,
    last_used: Option<Instant>,
}

/// How long an idle producer is kept.
const IDLE: Duration = Duration::from_secs(60);

impl SingleMessageProducer {
    pub(super) fn new(config: &ClientConfig, retries: RetrySet) -> Self {
        Self { config: one_by_one(config), retries, producer: None, last_used: None }
    }

    /// Has the next producer log in by another configuration.
    pub(super) fn log_in_by(&mut self, config: &ClientConfig) {
        self.config = one_by_one(config);
    }

    /// Sends what waits in the retry set; the producer's callbacks settle it. Ends a producer that is
    /// idle or dead.
    pub(super) fn send_all(&mut self, health: &Arc<Health>, now: Instant) {
        let retries = self.retries.take();
        if !retries.is_empty() {
            self.last_used = Some(now);
        }
        let dead = |producer: &Arc<Producer>| producer.failure().is_some();
        let idle = self.last_used.is_none_or(|at| now.saturating_duration_since(at) >= IDLE);
        if let Some(producer) = self.producer.take_if(|producer| idle || dead(producer)) {
            producer.retire();
        }
        for retry in retries {
            match self.producer(health) {
                Some(producer) => send(producer, retry),
                None => give_up(health, retry),
            }
        }
    }

    /// Confirms its cluster if that is due; true if it is to be tried again.
    pub(super) fn confirm(&self, within: Duration) -> bool {
        let unconfirmed = |producer: &&Arc<Producer>| producer.get().context().identity.is_unconfirmed();
        self.producer.as_ref().filter(unconfirmed).is_some_and(|producer| {
            // It is tried again.
            !producer.confirm(within).unwrap_or(false)
        })
    }

    /// Ends the producer, and has the next message create one.
    pub(super) fn replace(&mut self) {
        if let Some(producer) = self.producer.take() {
            producer.retire();
        }
    }

    fn producer(&mut self, health: &Arc<Health>) -> Option<&Producer> {
        if self.producer.is_none() {
            match Producer::new(&self.config, Callbacks::new(Arc::clone(health), NO_GENERATION, None)) {
                Ok(producer) => self.producer = Some(Arc::new(producer)),
                Err(error) => {
                    tracing::error!(%error, "kafka: cannot create the producer for single messages");
                }
            }
        }
        self.producer.as_deref()
    }

    /// Ends the producer; everything is settled.
    pub(super) fn shut_down(mut self, health: &Health) {
        self.replace();
        self.retries.take().into_iter().for_each(|retry| give_up(health, retry));
    }
}

fn one_by_one(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.set("batch.num.messages", "1");
    config
}

fn send(producer: &Producer, retry: Retry) {
    let Retry { pending, mut message } = retry;
    let headers = message.detach_headers();
    let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(message.topic(), Box::new(pending));
    record.key = message.key();
    record.payload = message.payload();
    record.headers = headers;
    let producer = producer.get();
    producer.context().enqueued_again();
    if let Err((error, record)) = producer.send(record) {
        producer.context().failed(*record.delivery_opaque, error.rdkafka_error_code());
    }
}

fn give_up(health: &Health, retry: Retry) {
    let detail = "refused in a batch and not sent again by itself".into();
    retry.pending.handle.settle(Err(PublishError::Unavailable { detail }));
    health.settled();
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::OwnedMessage;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::bus::kafka::record::Pending;
    use crate::bus::kafka::tests::{TOPIC, bus_metrics, config, eventually, handle, label};
    use crate::pipeline::publish::Destination;

    struct Bench {
        mock: MockCluster<'static, DefaultProducerContext>,
        health: Arc<Health>,
        single: SingleMessageProducer,
        now: Instant,
    }

    fn bench() -> Bench {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic(TOPIC, 1, 1).unwrap();
        let config = config(&mock.bootstrap_servers());
        let single = SingleMessageProducer::new(&config, RetrySet::default());
        let (health, _) = Health::new(mock.bootstrap_servers(), bus_metrics());
        Bench { mock, health, single, now: Instant::now() }
    }

    impl Bench {
        /// The result of a message that is sent again.
        fn retry(&mut self) -> &'static str {
            let (handle, result) = handle();
            let destination = Arc::new(Destination { address: TOPIC.into(), subject: TOPIC.into() });
            let payload = Some(b"{}".to_vec());
            let message = OwnedMessage::new(payload, None, TOPIC.into(), Timestamp::NotAvailable, 0, 0, None);
            self.health.enqueued();
            let retry = Retry { pending: Pending { handle, destination }, message };
            assert!(self.single.retries.add(retry).is_ok());
            self.single.send_all(&self.health, self.now);
            let mut settled = None;
            eventually("it has a result", || {
                // As the monitor does.
                self.single.confirm(Duration::from_secs(1));
                settled = settled.take().or_else(|| result.try_recv().ok());
                settled.is_some()
            });
            let result = settled.unwrap();
            eventually("it is settled", || self.health.pending() == 0);
            label(&result)
        }

        /// Whether there is a producer so much later.
        fn has_producer(&mut self, later: Duration) -> bool {
            self.single.send_all(&self.health, self.now + later);
            self.single.producer.is_some()
        }
    }

    #[test]
    fn an_idle_producer_is_dropped_and_created_again_when_needed() {
        let mut bench = bench();
        assert!(!bench.has_producer(Duration::ZERO), "none is created before it is needed");
        assert_eq!(bench.retry(), "acknowledged");
        assert!(bench.has_producer(IDLE / 2));
        assert!(!bench.has_producer(IDLE));
        assert_eq!(bench.retry(), "acknowledged", "another is created");
    }

    #[test]
    fn leader_that_has_been_idle_for_seconds_is_confirmed() {
        let mock = MockCluster::new(3).unwrap();
        mock.create_topic(TOPIC, 3, 1).unwrap();
        (0..3).for_each(|at| mock.partition_leader(TOPIC, at, Some(at + 1)).unwrap());
        let (health, _) = Health::new(mock.bootstrap_servers(), bus_metrics());
        let context = Callbacks::new(health, 0, Some(RetrySet::default()));
        let producer = Producer::new(&config(&mock.bootstrap_servers()), context).unwrap();
        for partition in 0..3 {
            let (handle, result) = handle();
            let destination = Arc::new(Destination { address: TOPIC.into(), subject: TOPIC.into() });
            let pending = Box::new(Pending { handle, destination });
            let record = BaseRecord::<[u8], [u8], _>::with_opaque_to(TOPIC, pending);
            producer.get().context().enqueued();
            assert!(producer.get().send(record.partition(partition).payload(b"{}")).is_ok());
            let mut settled = None;
            eventually("it is acknowledged", || {
                producer.confirm(Duration::from_secs(1)).unwrap();
                settled = settled.take().or_else(|| result.try_recv().ok());
                settled.is_some()
            });
            assert_eq!(label(&settled.unwrap()), "acknowledged");
        }
        // librdkafka counts idleness in whole seconds.
        thread::sleep(Duration::from_millis(2100));
        let identity = &producer.get().context().identity;
        for (server, id) in mock.bootstrap_servers().split(',').zip(1..) {
            for (from, to) in [("UP", "DOWN"), ("APIVERSION_QUERY", "UP")] {
                let line = format!("{server}/{id}: Broker changed state {from} -> {to}");
                identity.read("STATE", &line, false);
            }
            assert!(identity.is_to_confirm(id));
            assert!(producer.confirm(Duration::from_secs(10)).unwrap(), "broker {id} has not answered");
        }
    }

    #[test]
    fn a_dead_producer_is_replaced() {
        let mut bench = bench();
        let fatal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        bench.mock.request_errors(RDKafkaApiKey::Produce, &[fatal]);
        assert_eq!(bench.retry(), "unavailable");
        assert!(!bench.has_producer(Duration::ZERO));
        assert_eq!(bench.retry(), "acknowledged");
    }
}
