//! The reading side: a consumer that assigns itself every partition by hand. It never joins its group,
//! so that none is left behind, and commits nothing.

mod context;
mod places;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client_config::{client_config, creation_error};
use super::options::Options;
use super::trouble::{self, Looker};
use crate::bus::error::{ReadError, StartError};
use crate::bus::read::{Begin, Item, Plan, Position, Sink, addresses};
use context::Notes;
use places::Places;

type Consumer = BaseConsumer<Notes>;

/// Needed for an assignment by hand, and never joined.
const GROUP: &str = "attio-bridge-reader";

/// What only a producer is told.
const OF_PRODUCERS: [&str; 16] = [
    "acks",
    "enable.idempotence",
    "partitioner",
    "message.timeout.ms",
    "linger.ms",
    "batch.size",
    "batch.num.messages",
    "compression.codec",
    "compression.type",
    "compression.level",
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
    "message.send.max.retries",
    "retries",
    "delivery.timeout.ms",
    "statistics.interval.ms",
];

/// How often to look for topics and partitions that are new.
const LOOK: Duration = Duration::from_secs(5);

/// How long one poll may take: the longest that a stop waits.
const POLL: Duration = Duration::from_millis(50);

/// How long the broker may take to let the client in.
const GET_IN: Duration = Duration::from_secs(8);

/// One try of it.
const TRY: Duration = Duration::from_secs(1);

/// How long partitions may be without a leader at the start.
const LEADERS: Duration = Duration::from_secs(10);

/// Between two looks for one.
const PAUSE: Duration = Duration::from_millis(200);

/// Begins to read.
pub async fn read(
    options: Options,
    plan: Plan,
    sink: Sink,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, ReadError> {
    let begun = tokio::task::spawn_blocking(move || Worker::start(&options, &plan));
    let worker = begun.await.map_err(|error| broken(format!("the reader ended by itself: {error}")))??;
    Ok(tokio::task::spawn_blocking(move || worker.run(&sink, &stop)))
}

fn broken(reason: impl Into<String>) -> ReadError {
    ReadError::Broker { bus: "kafka", reason: reason.into() }
}

fn config(options: &Options) -> Result<ClientConfig, StartError> {
    let mut config = client_config(options)?;
    for name in OF_PRODUCERS {
        config.remove(name);
    }
    config
        .set("group.id", GROUP)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("enable.partition.eof", "true");
    Ok(config)
}

/// What the reading thread owns.
struct Worker {
    consumer: Consumer,
    places: Places,
    follow: bool,
}

impl Worker {
    fn start(options: &Options, plan: &Plan) -> Result<Self, ReadError> {
        let config = config(options)?;
        let consumer = Consumer::from_config_and_context(&config, Notes::default())
            .map_err(|error| creation_error(options, &config, error))?;
        let topics = addresses(&plan.destinations);
        let first = topics.first().map(|topic| &**topic);
        get_in(&consumer, first, &Looker::new(options)).map_err(broken)?;
        let mut places = Places::new(topics);
        look(&mut places, &consumer, plan.begin).map_err(|error| broken(error.to_string()))?;
        match places.missing() {
            [] => {}
            missing if !plan.follow => return Err(broken(no_topics(missing))),
            missing if places.is_empty() => tracing::warn!("{}; waiting for them", no_topics(missing)),
            missing => tracing::debug!("{}", no_topics(missing)),
        }
        Ok(Self { consumer, places, follow: plan.follow })
    }

    fn run(mut self, sink: &Sink, stop: &CancellationToken) {
        let mut looked = Instant::now();
        while !stop.is_cancelled() {
            if !self.follow && self.places.are_read() {
                return;
            }
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    self.places.read(message.topic(), message.partition(), message.offset());
                    if sink.blocking_send(Ok(item(&message))).is_err() {
                        return;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.places.ended(partition),
                Some(Err(error)) if is_fatal(&error) => {
                    // Nobody who reads any more needs to know.
                    let _ = sink.blocking_send(Err(broken(refusal(&error))));
                    return;
                }
                // The client heals by itself.
                Some(Err(error)) => tracing::debug!("reading: {error}"),
                None => {}
            }
            if self.follow && looked.elapsed() >= LOOK {
                if let Err(error) = self.places.look_again(&self.consumer) {
                    tracing::warn!("looking for new topics: {error}");
                }
                looked = Instant::now();
            }
        }
    }
}

/// Looks for the first time. A partition may be without a leader for a moment: one that was just made, or
/// whose broker has just gone.
fn look(places: &mut Places, consumer: &Consumer, begin: Begin) -> KafkaResult<()> {
    let deadline = Instant::now() + LEADERS;
    loop {
        match places.look(consumer, begin) {
            Err(error) if is_leaderless(&error) && Instant::now() < deadline => thread::sleep(PAUSE),
            looked => return looked,
        }
    }
}

fn is_leaderless(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::NotLeaderForPartition | Code::LeaderNotAvailable | Code::OffsetNotAvailable)
    )
}

/// Whether reading can never go on.
fn is_fatal(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::TopicAuthorizationFailed | Code::Fatal))
}

fn refusal(error: &KafkaError) -> String {
    let denied = error.rdkafka_error_code() == Some(Code::TopicAuthorizationFailed);
    let advice = if denied { ": grant this user Read on the topics, or use one that has it" } else { "" };
    format!("{error}{advice}")
}

/// Asks until there is an answer, or a reason why there is none.
fn get_in(consumer: &Consumer, topic: Option<&str>, looker: &Looker) -> Result<(), String> {
    use rdkafka::consumer::Consumer as _;
    let deadline = Instant::now() + GET_IN;
    loop {
        let Err(error) = consumer.fetch_metadata(topic, TRY) else { return Ok(()) };
        // What the client complains of comes by polling.
        while let Some(polled) = consumer.poll(Duration::ZERO) {
            drop(polled);
        }
        if let Some(complaint) = consumer.context().farthest() {
            let explained = trouble::puzzle(&complaint).and_then(|server| looker.explain(Some(server)));
            return Err(explained.map_or_else(|| trouble::words(&complaint).1, |(_, why)| why));
        }
        if Instant::now() >= deadline {
            let silent = || format!("no answer within {} s: {error}", GET_IN.as_secs());
            return Err(looker.explain(None).map_or_else(silent, |(_, why)| why));
        }
    }
}

fn no_topics(missing: &[Arc<str>]) -> String {
    let many = if missing.len() == 1 { "topic" } else { "topics" };
    format!("no such {many}, or none that this user may see: {}", missing.join(", "))
}

fn item(message: &BorrowedMessage<'_>) -> Item {
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
