//! The consumer that reads everything back. It runs on a thread of its own, assigns itself every
//! partition of every topic of the bridge, and commits nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::cloud::{Cloud, Received};
use super::readback::{QUEUE, Readback, Request};
use super::{Error, PREFIX};

/// The end of each partition.
type Ends = BTreeMap<(String, i32), i64>;

/// How long to wait for the broker's word on topics and offsets.
const ASK: Duration = Duration::from_secs(10);

/// How often to look for topics that are new.
const LOOK: Duration = Duration::from_secs(5);

/// How long one poll may take: the longest that a request waits.
const POLL: Duration = Duration::from_millis(25);

/// Where to begin in a topic that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With its first message: the broker is our own.
    First,
    /// After its last one: the broker is somebody else's.
    Next,
}

/// Starts to read. What is there when this returns, or comes later, will be read.
pub fn start(bootstrap: &str, begin: Begin) -> Result<Readback, Error> {
    let failed = |source| Error::Reader { bootstrap: bootstrap.to_owned(), source };
    let mut worker = Worker::new(bootstrap).map_err(failed)?;
    worker.look(begin).map_err(failed)?;
    let (sender, messages) = mpsc::channel(QUEUE);
    let (requests, asked) = mpsc::channel(1);
    let thread = std::thread::Builder::new().name("dev-reader".into());
    let thread = thread.spawn(move || worker.run(&sender, asked)).map_err(Error::Thread)?;
    Ok(Readback::new(messages, requests, move || {
        // A thread that panicked has said so, and has left the broker as well.
        let _ = thread.join();
    }))
}

/// What the thread owns.
struct Worker {
    consumer: BaseConsumer,
    /// The next offset to be read, by topic and partition.
    next: BTreeMap<(String, i32), i64>,
}

impl Worker {
    fn new(bootstrap: &str) -> KafkaResult<Self> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("client.id", "attio-bridge-dev")
            // Needed for an assignment by hand, and never joined.
            .set("group.id", "attio-bridge-dev")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            // The mock broker answers a fetch that found nothing only after this long.
            .set("fetch.wait.max.ms", "10")
            .set("reconnect.backoff.max.ms", "1000")
            .create()?;
        Ok(Self { consumer, next: BTreeMap::new() })
    }

    fn run(mut self, messages: &mpsc::Sender<Received>, mut requests: mpsc::Receiver<Request>) {
        let mut looked = Instant::now();
        let mut waiting: Option<(Request, Ends)> = None;
        while !messages.is_closed() {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let place = (message.topic().to_owned(), message.partition());
                    self.next.insert(place, message.offset() + 1);
                    if messages.blocking_send(received(&message)).is_err() {
                        return;
                    }
                }
                // The client heals by itself; what it cannot read is missed at the end.
                Some(Err(error)) => tracing::warn!("reading back: {error}"),
                None => {}
            }
            if waiting.is_none()
                && let Ok(answer) = requests.try_recv()
            {
                waiting = self.ends().map(|ends| (answer, ends));
            }
            if let Some((answer, ends)) = waiting.take_if(|(_, ends)| self.has_read(ends)) {
                tracing::debug!(partitions = ends.len(), "read everything");
                // Nobody waits any more: nobody needs to know.
                let _ = answer.send(());
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look_again();
            }
        }
    }

    /// Where each partition ends now; nothing where the broker does not say.
    fn ends(&mut self) -> Option<BTreeMap<(String, i32), i64>> {
        self.look_again();
        let end = |(topic, partition): &(String, i32)| {
            let (_, end) = self.consumer.fetch_watermarks(topic, *partition, ASK)?;
            Ok(((topic.clone(), *partition), end))
        };
        let ends: KafkaResult<_> = self.next.keys().map(end).collect();
        ends.inspect_err(|error| tracing::warn!("asking where the topics end: {error}")).ok()
    }

    fn has_read(&self, ends: &BTreeMap<(String, i32), i64>) -> bool {
        ends.iter().all(|(place, end)| self.next.get(place).is_some_and(|next| next >= end))
    }

    /// New topics are read from their first message: they are younger than the reader.
    fn look_again(&mut self) {
        if let Err(error) = self.look(Begin::First) {
            tracing::warn!("looking for topics: {error}");
        }
    }

    /// Assigns every partition there is; those that are new begin where they are told to.
    fn look(&mut self, begin: Begin) -> KafkaResult<()> {
        let metadata = self.consumer.fetch_metadata(None, ASK)?;
        let mut new = Vec::new();
        for topic in metadata.topics() {
            let ours = topic.name().strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with('.'));
            let places = topic.partitions().iter().map(|partition| (topic.name().to_owned(), partition.id()));
            new.extend(places.filter(|place| ours && !self.next.contains_key(place)));
        }
        if new.is_empty() {
            return Ok(());
        }
        for (topic, partition) in new {
            let (first, next) = self.consumer.fetch_watermarks(&topic, partition, ASK)?;
            let offset = if begin == Begin::First { first } else { next };
            self.next.insert((topic, partition), offset);
        }
        self.assign()
    }

    fn assign(&self) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(self.next.len());
        for ((topic, partition), next) in &self.next {
            list.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
        }
        self.consumer.assign(&list)
    }
}

fn received(message: &BorrowedMessage<'_>) -> Received {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let headers = headers.map(|header| (header.key, header.value));
    Received {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(Bytes::copy_from_slice),
        event: Cloud::read(headers, message.payload().unwrap_or_default()),
    }
}
