//! The adapter against librdkafka's own mock cluster, where errors can be injected.

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

/// Far longer than anything takes here, on a machine that is busy with something else.
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

struct Tell(SyncSender<PublishResult>);

impl AckCallback for Tell {
    fn settle(self: Box<Self>, verdict: PublishResult) {
        let _ = self.0.send(verdict);
    }
}

/// A handle, and where its verdict comes.
pub(super) fn handle() -> (PublishHandle, Receiver<PublishResult>) {
    let (tell, verdict) = sync_channel(1);
    (PublishHandle::new(Box::new(Tell(tell)), metrics().publish(TOPIC), None), verdict)
}

struct Bench {
    bus: Arc<Kafka>,
    metrics: Arc<Metrics>,
    mock: MockCluster<'static, DefaultProducerContext>,
}

/// A bus on a mock cluster of one broker, warm.
fn bench() -> Bench {
    bench_with(|_| {})
}

fn bench_with(change: impl FnOnce(&mut Options)) -> Bench {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 3, 1).unwrap();
    let mut options = Options::new(mock.bootstrap_servers());
    options.topics.ensure = Ensure::Off;
    change(&mut options);
    let metrics = metrics();
    let topics = vec![TOPIC.into()];
    let bus = Kafka::start(options, topics, ContentMode::Structured, metrics.bus(), &Supervisor::detached())
        .unwrap();
    let bench = Bench { bus, metrics, mock };
    eventually("the bus is up", || bench.bus.state() == BusState::Up);
    bench
}

impl Bench {
    fn publish_bytes(&self, data: Bytes) -> Receiver<PublishResult> {
        let mut event = CloudEvent::new("1", &["urn:x"], Data::Json(data));
        event.set(Attribute::PartitionKey, "rec-1");
        let destination = Arc::new(Destination { address: TOPIC.into(), subject: TOPIC.into() });
        let message = Message { destination, event, dedup_key: "0".repeat(32), structured_only: false };
        let (tell, verdict) = sync_channel(1);
        let handle = PublishHandle::new(Box::new(Tell(tell)), self.metrics.publish(TOPIC), None);
        self.bus.publish(message, handle);
        verdict
    }

    fn publish(&self) -> Receiver<PublishResult> {
        self.publish_bytes(Bytes::from_static(b"{}"))
    }

    fn verdict(&self) -> PublishResult {
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

pub(super) fn label(verdict: &PublishResult) -> &'static str {
    verdict.as_ref().map_or_else(PublishError::label, |_| "acknowledged")
}

#[test]
fn too_few_replicas_for_a_moment_are_waited_for() {
    let bench = bench();
    bench.inject(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 3]);
    assert_eq!(label(&bench.verdict()), "acknowledged");
    let after_append = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND;
    bench.inject(&[after_append; 2]);
    assert_eq!(label(&bench.verdict()), "acknowledged");
}

#[test]
fn missing_rights_are_refused_and_heal() {
    let bench = bench();
    bench.inject(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let refused = bench.verdict();
    assert_eq!(label(&refused), "refused");
    assert!(refused.unwrap_err().to_string().contains("not authorised on topic attio.record"));
    eventually("the client looks again", || label(&bench.verdict()) == "acknowledged");
}

#[test]
fn what_is_too_large_is_rejected_by_the_broker_or_by_the_client() {
    let bench = bench();
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    bench.inject(&[too_large]);
    assert_eq!(label(&bench.verdict()), "acknowledged", "only in company: alone it passes");
    bench.inject(&[too_large; 2]);
    assert_eq!(label(&bench.verdict()), "rejected", "alone too");
    let huge = Bytes::from(vec![b' '; 9 * 1024 * 1024]);
    let verdict = bench.publish_bytes(huge).recv_timeout(PATIENCE).unwrap();
    assert_eq!(label(&verdict), "rejected");
    assert_eq!(label(&bench.verdict()), "acknowledged");
}

#[test]
fn a_fatal_error_gives_one_new_client_and_every_message_its_verdict() {
    let bench = bench();
    assert_eq!(label(&bench.verdict()), "acknowledged");
    bench.inject(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
    let verdicts: Vec<_> = (0..50).map(|_| bench.publish()).collect();
    for verdict in verdicts {
        let verdict = verdict.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(label(&verdict), "unavailable" | "acknowledged"), "{verdict:?}");
    }
    eventually("it publishes again", || label(&bench.verdict()) == "acknowledged");
    assert_eq!(bench.metrics.bus().rebuilds.get(), 1);
    eventually("nothing is pending", || bench.bus.health.pending() == 0);
    assert_eq!(bench.bus.state(), BusState::Up);
}

/// Everything that lies in the topic.
fn stored(bench: &Bench) -> usize {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let client: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", bench.mock.bootstrap_servers())
        .create()
        .unwrap();
    let partition = |partition| client.fetch_watermarks(TOPIC, partition, PATIENCE).unwrap();
    (0..3).map(partition).map(|(first, next)| usize::try_from(next - first).unwrap()).sum()
}

/// The first of two requests on their way fails, the second succeeds: the client then reports both as
/// stored. This broker minds no sequence numbers, as a real one does not before a producer's first message.
#[test]
fn what_the_client_only_infers_is_not_acknowledged() {
    let bench = bench_with(|options| {
        options.properties.insert("batch.num.messages".into(), "1".into());
    });
    assert_eq!(label(&bench.verdict()), "acknowledged");
    bench.mock.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    bench.inject(&[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION]);
    let verdicts: Vec<_> = (0..2).map(|_| bench.publish()).collect();
    let labels: Vec<_> =
        verdicts.iter().map(|verdict| label(&verdict.recv_timeout(PATIENCE).unwrap())).collect();
    bench.mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
    let acknowledged = labels.iter().filter(|label| **label == "acknowledged").count();
    assert!(stored(&bench) > acknowledged, "{labels:?}, and {} stored", stored(&bench));
    assert_eq!(
        labels,
        ["timeout", "acknowledged"],
        "the client infers no more: this test has lost its cause"
    );
}

#[test]
fn a_full_queue_is_told_at_once() {
    let bench = bench_with(|options| {
        options.properties.insert("queue.buffering.max.messages".into(), "10".into());
    });
    bench.mock.broker_round_trip_time(1, Duration::from_secs(1)).unwrap();
    let verdicts: Vec<_> = (0..100).map(|_| bench.publish()).collect();
    let busy = verdicts.iter().filter_map(|verdict| verdict.try_recv().ok()).filter(|v| label(v) == "busy");
    assert!(busy.count() >= 80);
}

#[test]
fn without_a_broker_it_refuses_at_once_and_comes_back() {
    let bench = bench();
    bench.mock.broker_down(1).unwrap();
    eventually("the loss is noticed", || bench.bus.state() == BusState::Down);
    assert_eq!(bench.metrics.bus().up.get(), 0);
    let verdict = bench.publish().try_recv().expect("the verdict is there when publish returns");
    assert_eq!(label(&verdict), "unavailable");
    bench.mock.broker_up(1).unwrap();
    eventually("the return is noticed", || bench.bus.state() == BusState::Up);
    assert_eq!(label(&bench.verdict()), "acknowledged");
}

#[test]
fn no_broker_at_the_start_is_no_error() {
    let mut options = Options::new("127.0.0.1:1");
    options.topics.ensure = Ensure::Verify;
    let metrics = metrics();
    let bus = Kafka::start(
        options,
        vec![TOPIC.into()],
        ContentMode::Structured,
        metrics.bus(),
        &Supervisor::detached(),
    )
    .unwrap();
    eventually("it is known to be away", || bus.health.down().is_some());
    assert_eq!(bus.state(), BusState::Starting);
}

#[test]
fn a_bus_that_is_dropped_settles_what_it_has() {
    let bench = bench();
    bench.mock.broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
    let verdict = bench.publish();
    drop(bench.bus);
    assert_eq!(label(&verdict.recv_timeout(PATIENCE).unwrap()), "unavailable");
}

#[test]
fn flush_waits_for_the_verdicts_and_counts_what_is_left() {
    let bench = bench();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    bench.mock.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    let verdicts: Vec<_> = (0..10).map(|_| bench.publish()).collect();
    assert_eq!(runtime.block_on(bench.bus.flush(PATIENCE)), 0);
    assert!(verdicts.iter().all(|verdict| label(&verdict.try_recv().unwrap()) == "acknowledged"));
    bench.mock.broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
    let _verdict = bench.publish();
    assert_eq!(runtime.block_on(bench.bus.flush(Duration::from_millis(50))), 1);
}

#[test]
fn settings_that_contradict_each_other_are_found_without_a_broker() {
    let mut options = Options::new("127.0.0.1:1");
    assert!(check(&options).is_ok());
    options.properties.insert("max.in.flight".into(), "100".into());
    let error = check(&options).unwrap_err().to_string();
    assert!(error.contains("max.in.flight"), "{error}");
    let mut options = Options::new("127.0.0.1:1");
    let junk = tempfile::NamedTempFile::new().unwrap();
    options.security_protocol = Some("ssl".into());
    options.ca_file = Some(junk.path().into());
    let error = check(&options).unwrap_err().to_string();
    assert!(error.starts_with("kafka.ca_file: "), "{error}");
}
