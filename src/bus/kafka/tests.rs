//! The adapter on librdkafka's mock cluster, where errors can be injected.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::options::Ensure;
use super::*;
use crate::cloudevent::{Attribute, CloudEvent, Data};
use crate::metrics::{Labels, Metrics};
use crate::pipeline::publish::{AckCallback, Destination, PublishResult};
use crate::supervise::Supervisor;

/// Much longer than any step takes, even on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const TOPIC: &str = "attio.record";

pub(super) fn bus_metrics() -> BusMetrics {
    metrics().bus()
}

fn metrics() -> Arc<Metrics> {
    Metrics::new(Labels {
        publish_results: PublishError::LABELS.to_vec(),
        bus: "kafka",
        destinations: vec![TOPIC.into()],
        ..Labels::default()
    })
}

struct Report(SyncSender<PublishResult>);

impl AckCallback for Report {
    fn settle(self: Box<Self>, result: PublishResult) {
        let _ = self.0.send(result);
    }
}

/// A handle, and where its result is received.
pub(super) fn handle() -> (PublishHandle, Receiver<PublishResult>) {
    let (sender, result) = sync_channel(1);
    (PublishHandle::new(Box::new(Report(sender)), metrics().publish(TOPIC), None), result)
}

pub(super) fn requirements(max_body_bytes: usize) -> Requirements {
    let (addresses, quarantine) = (vec![TOPIC.into()], "attio.quarantine".into());
    Requirements { destinations: vec![], addresses, quarantine, max_body_bytes }
}

/// The configuration of a producer with the default limits.
pub(super) fn config(bootstrap: &str) -> rdkafka::ClientConfig {
    options::producer_config(&Options::new(bootstrap), &requirements(524_288)).unwrap()
}

fn start(options: Options, metrics: &Metrics, supervisor: &Supervisor) -> Arc<Kafka> {
    let mode = ContentMode::Structured;
    Kafka::start(options, &requirements(524_288), mode, metrics.bus(), supervisor).unwrap()
}

struct Bench {
    bus: Arc<Kafka>,
    metrics: Arc<Metrics>,
    mock: MockCluster<'static, DefaultProducerContext>,
}

/// A bus on a mock cluster of one broker, ready.
fn bench() -> Bench {
    bench_with(|_| {})
}

fn bench_with(change: impl FnOnce(&mut Options)) -> Bench {
    bench_on(&Supervisor::detached(), change)
}

fn bench_on(supervisor: &Supervisor, change: impl FnOnce(&mut Options)) -> Bench {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 3, 1).unwrap();
    let mut options = Options::new(mock.bootstrap_servers());
    options.topics.ensure = Ensure::Off;
    change(&mut options);
    let metrics = metrics();
    let bus = start(options, &metrics, supervisor);
    let bench = Bench { bus, metrics, mock };
    eventually("the bus is up", || bench.bus.state() == BusState::Up);
    bench
}

impl Bench {
    fn publish_with(&self, data: Bytes, callback: Box<dyn AckCallback>) {
        let mut event = CloudEvent::new("1", &["urn:x"], Data::Json(data));
        event.set(Attribute::PartitionKey, "rec-1");
        let destination = Arc::new(Destination { address: TOPIC.into(), subject: TOPIC.into() });
        let message = Message { destination, event, dedup_key: "0".repeat(32), structured_only: false };
        self.bus.publish(message, PublishHandle::new(callback, self.metrics.publish(TOPIC), None));
    }

    fn publish_bytes(&self, data: Bytes) -> Receiver<PublishResult> {
        let (sender, result) = sync_channel(1);
        self.publish_with(data, Box::new(Report(sender)));
        result
    }

    fn publish(&self) -> Receiver<PublishResult> {
        self.publish_bytes(Bytes::from_static(b"{}"))
    }

    fn result(&self) -> PublishResult {
        self.publish().recv_timeout(PATIENCE).unwrap()
    }

    fn inject(&self, errors: &[RDKafkaRespErr]) {
        self.mock.request_errors(RDKafkaApiKey::Produce, errors);
    }
}

pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn label(result: &PublishResult) -> &'static str {
    result.as_ref().map_or_else(PublishError::label, |_| "acknowledged")
}

#[test]
fn too_few_replicas_are_retried() {
    let bench = bench();
    bench.inject(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 3]);
    assert_eq!(label(&bench.result()), "acknowledged");
    let after_append = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND;
    bench.inject(&[after_append; 2]);
    assert_eq!(label(&bench.result()), "acknowledged");
}

#[test]
fn a_missing_permission_is_refused_and_heals() {
    let bench = bench();
    bench.inject(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let refused = bench.result();
    assert_eq!(label(&refused), "refused");
    assert!(refused.unwrap_err().to_string().contains("not authorised on topic attio.record"));
    eventually("the metadata is refreshed", || label(&bench.result()) == "acknowledged");
}

#[test]
fn too_large_messages_are_rejected_by_the_broker_or_the_client() {
    let bench = bench();
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    bench.inject(&[too_large]);
    assert_eq!(label(&bench.result()), "acknowledged", "refused in a batch, accepted by itself");
    bench.inject(&[too_large; 2]);
    assert_eq!(label(&bench.result()), "rejected", "refused by itself too");
    let huge = Bytes::from(vec![b' '; 9 * 1024 * 1024]);
    let result = bench.publish_bytes(huge).recv_timeout(PATIENCE).unwrap();
    assert_eq!(label(&result), "rejected");
    assert_eq!(label(&bench.result()), "acknowledged");
}

#[test]
fn a_fatal_error_replaces_the_producer_once_and_settles_every_message() {
    let bench = bench();
    assert_eq!(label(&bench.result()), "acknowledged");
    bench.inject(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    let results: Vec<_> = (0..50).map(|_| bench.publish()).collect();
    for result in results {
        let result = result.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(label(&result), "unavailable" | "acknowledged"), "{result:?}");
    }
    eventually("it publishes again", || label(&bench.result()) == "acknowledged");
    assert_eq!(bench.metrics.bus().rebuilds.get(), 1);
    eventually("nothing is pending", || bench.bus.health.pending() == 0);
    assert_eq!(bench.bus.state(), BusState::Up);
}

/// One that librdkafka lets connect no more would never be up again.
#[test]
fn a_client_that_reaches_no_broker_for_long_is_replaced() {
    let bench = bench_with(|options| options.publish_timeout = Duration::from_secs(1));
    bench.mock.broker_down(1).unwrap();
    let generation = bench.bus.health.generation();
    eventually("the client is another", || bench.bus.health.generation() > generation);
    bench.mock.broker_up(1).unwrap();
    eventually("it publishes again", || label(&bench.result()) == "acknowledged");
    assert_eq!(bench.metrics.bus().rebuilds.get(), 0, "none has failed");
}

/// How many messages the topic holds.
fn stored(bench: &Bench) -> usize {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let client: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", bench.mock.bootstrap_servers())
        .create()
        .unwrap();
    let partition = |partition| client.fetch_watermarks(TOPIC, partition, PATIENCE).unwrap();
    (0..3).map(partition).map(|(first, next)| usize::try_from(next - first).unwrap()).sum()
}

/// The first of two requests in flight fails, the second succeeds: the client then reports both as stored.
/// The mock ignores sequence numbers, as a real broker does before a producer's first message.
#[test]
fn acks_inferred_by_the_client_are_timeouts() {
    let bench = bench_with(|options| {
        options.properties.insert("batch.num.messages".into(), "1".into());
    });
    assert_eq!(label(&bench.result()), "acknowledged");
    bench.mock.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    bench.inject(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION]);
    let results: Vec<_> = (0..2).map(|_| bench.publish()).collect();
    let labels: Vec<_> =
        results.iter().map(|result| label(&result.recv_timeout(PATIENCE).unwrap())).collect();
    bench.mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
    let acknowledged = labels.iter().filter(|label| **label == "acknowledged").count();
    assert!(stored(&bench) > acknowledged, "{labels:?}, and {} stored", stored(&bench));
    assert_eq!(
        labels,
        ["timeout", "acknowledged"],
        "the client infers no acks any more: this test is obsolete"
    );
}

#[test]
fn a_full_queue_is_busy_at_once() {
    let bench = bench_with(|options| {
        options.properties.insert("queue.buffering.max.messages".into(), "10".into());
    });
    bench.mock.broker_round_trip_time(1, Duration::from_secs(1)).unwrap();
    let results: Vec<_> = (0..100).map(|_| bench.publish()).collect();
    let busy = results.iter().filter_map(|result| result.try_recv().ok()).filter(|v| label(v) == "busy");
    assert!(busy.count() >= 80);
}

#[test]
fn without_a_broker_publishes_fail_at_once_until_it_is_back() {
    let bench = bench();
    bench.mock.broker_down(1).unwrap();
    eventually("the loss is noticed", || bench.bus.state() == BusState::Down);
    assert_eq!(bench.metrics.bus().up.get(), 0);
    let result = bench.publish().try_recv().expect("settled when publish returns");
    assert_eq!(label(&result), "unavailable");
    bench.mock.broker_up(1).unwrap();
    eventually("the return is noticed", || bench.bus.state() == BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
}

#[test]
fn an_unreachable_broker_at_the_start_is_not_an_error() {
    let mut options = Options::new("127.0.0.1:1");
    options.topics.ensure = Ensure::Verify;
    let metrics = metrics();
    let bus = start(options, &metrics, &Supervisor::detached());
    eventually("the bus is down", || bus.health.down().is_some());
    assert_eq!(bus.state(), BusState::Starting);
}

#[test]
fn a_dropped_bus_settles_its_messages() {
    let bench = bench();
    bench.mock.broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
    let result = bench.publish();
    drop(bench.bus);
    assert_eq!(label(&result.recv_timeout(PATIENCE).unwrap()), "unavailable");
}

#[test]
fn flush_waits_for_results_and_returns_the_number_left() {
    let bench = bench();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    bench.mock.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    let results: Vec<_> = (0..10).map(|_| bench.publish()).collect();
    assert_eq!(runtime.block_on(bench.bus.flush(PATIENCE)), 0);
    assert!(results.iter().all(|result| label(&result.try_recv().unwrap()) == "acknowledged"));
    bench.mock.broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
    let _result = bench.publish();
    assert_eq!(runtime.block_on(bench.bus.flush(Duration::from_millis(50))), 1);
}

#[test]
fn contradictory_settings_are_found_without_a_broker() {
    let mut options = Options::new("127.0.0.1:1");
    assert!(check(&options, &requirements(524_288)).is_ok());
    options.properties.insert("max.in.flight".into(), "100".into());
    let error = check(&options, &requirements(524_288)).unwrap_err().to_string();
    assert!(error.contains("max.in.flight"), "{error}");
    let mut options = Options::new("127.0.0.1:1");
    let junk = tempfile::NamedTempFile::new().unwrap();
    options.security_protocol = Some("ssl".into());
    options.ca_file = Some(junk.path().into());
    let error = check(&options, &requirements(524_288)).unwrap_err().to_string();
    assert!(error.starts_with("kafka.ca_file: "), "{error}");
}

#[test]
fn the_clients_limits_follow_the_largest_body() {
    let limits = |max_body_bytes: usize, options: &Options| {
        let config = options::producer_config(options, &requirements(max_body_bytes)).unwrap();
        let limit = |name| config.get(name).unwrap().parse::<usize>().unwrap();
        // A client can be created from them.
        let _: rdkafka::producer::BaseProducer = config.create().unwrap();
        (limit("message.max.bytes"), limit("queue.buffering.max.kbytes"))
    };
    let mut options = Options::new("127.0.0.1:1");
    assert_eq!(limits(524_288, &options), (8 << 20, 65_536 + 687));
    let largest = (16_usize << 20).div_ceil(3) * 4 + 4096;
    assert_eq!(limits(16 << 20, &options), (largest, 65_536 + largest.div_ceil(1024)));
    assert_eq!(limits(1 << 30, &options).0, 1_000_000_000, "librdkafka's own limit");
    options.properties.insert("message.max.bytes".into(), "5000000".into());
    assert_eq!(limits(16 << 20, &options).0, 5_000_000, "the operator decides");
}

#[test]
fn every_event_of_the_largest_delivery_fits_what_may_be_in_flight() {
    let bench = bench();
    bench.mock.broker_round_trip_time(1, Duration::from_secs(2)).unwrap();
    let events = crate::pipeline::parse::MAX_EVENTS;
    let results: Vec<_> = (0..events).map(|_| bench.publish_bytes(Bytes::from(vec![b' '; 2048]))).collect();
    bench.mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
    for result in results {
        assert_eq!(label(&result.recv_timeout(PATIENCE).unwrap()), "acknowledged");
    }
}

/// The next supervised part that ends within the patience of the tests.
fn ended(mut ends: crate::supervise::Ends) -> crate::supervise::Ended {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, ends.next()).await }).expect("a part ends")
}

struct Panic;

impl AckCallback for Panic {
    fn settle(self: Box<Self>, result: PublishResult) {
        panic!("settled as {}", label(&result));
    }
}

#[test]
fn a_panic_of_the_polling_thread_is_reported_to_the_supervisor() {
    let (supervisor, ends) = Supervisor::new();
    let bench = bench_on(&supervisor, |_| {});
    bench.publish_with(Bytes::from_static(b"{}"), Box::new(Panic));
    let ended = ended(ends);
    assert_eq!((ended.part, &*ended.cause), ("kafka-monitor", "settled as acknowledged"));
}

#[test]
fn a_panic_of_the_single_message_producers_polling_thread_is_reported_to_the_supervisor() {
    let (supervisor, ends) = Supervisor::new();
    let bench = bench_on(&supervisor, |_| {});
    // Refused in a batch, then acknowledged by itself.
    bench.inject(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    bench.publish_with(Bytes::from_static(b"{}"), Box::new(Panic));
    let ended = ended(ends);
    assert_eq!((ended.part, &*ended.cause), ("kafka-monitor", "settled as acknowledged"));
}

/// While a probe of a listener hangs, the monitor reconnects and reacts to the stop.
#[test]
fn a_diagnosis_that_hangs_delays_neither_recovery_nor_stop() {
    let (supervisor, ends) = Supervisor::new();
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 1, 1).unwrap();
    let mut options = Options::new(mock.bootstrap_servers());
    options.topics.ensure = Ensure::Off;
    let metrics = metrics();
    let (release, hang) = sync_channel::<()>(1);
    let hang = parking_lot::Mutex::new(hang);
    let (started, probing) = sync_channel(1);
    let explain = move |_: Option<&str>| {
        let _ = started.try_send(());
        let _ = hang.lock().recv();
        None
    };
    let (mode, metrics) = (ContentMode::Structured, metrics.bus());
    let bus =
        Kafka::start_with(options, &requirements(524_288), mode, metrics, &supervisor, explain).unwrap();
    eventually("the bus is up", || bus.state() == BusState::Up);
    bus.health.connection_error("SSL".into(), "ssl://k:9/1: x: certificate verify failed: y");
    probing.recv_timeout(PATIENCE).expect("the listener is probed");
    mock.broker_down(1).unwrap();
    eventually("the loss is noticed", || bus.state() == BusState::Down);
    mock.broker_up(1).unwrap();
    eventually("the bus is up again", || bus.state() == BusState::Up);
    drop(bus);
    assert_eq!(ended(ends).part, "kafka-monitor", "it ends before the diagnosis");
    drop(release);
}

#[test]
fn a_panic_of_the_diagnosis_is_reported_to_the_supervisor() {
    let (supervisor, ends) = Supervisor::new();
    let explain = |_: Option<&str>| panic!("no such certificate");
    let (options, mode) = (Options::new("127.0.0.1:1"), ContentMode::Structured);
    let metrics = metrics().bus();
    let bus =
        Kafka::start_with(options, &requirements(524_288), mode, metrics, &supervisor, explain).unwrap();
    bus.health.connection_error("SSL".into(), "ssl://k:9/1: x: certificate verify failed: y");
    let ended = ended(ends);
    assert_eq!((ended.part, &*ended.cause), ("kafka-diagnosis", "no such certificate"));
}
