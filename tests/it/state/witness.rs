//! Reads the states while they are published, before the broker forgets the former ones of their keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use async_nats::jetstream::stream::Source;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::scene::{Bus, Scene};
use super::walks::CATEGORIES;
use crate::support::kafka::Broker;
use crate::support::nats::Server;
use crate::support::wait::eventually_blocking;

/// Between two looks at whether it is over.
const PAUSE: Duration = Duration::from_millis(200);

/// The time of the last state of each key, none for a tombstone.
type Last = HashMap<String, Option<OffsetDateTime>>;

/// What was read, in order.
#[derive(Clone, Default)]
pub struct Order {
    last: Last,
    states: usize,
    wrong: Vec<String>,
}

fn time(event: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(event["time"].as_str().expect("a time"), &Rfc3339).unwrap()
}

impl Order {
    fn add(&mut self, key: &str, payload: &[u8]) {
        let now = (!payload.is_empty()).then(|| time(&serde_json::from_slice(payload).expect("an event")));
        self.states += 1;
        match (self.last.insert(key.to_owned(), now), now) {
            (Some(None), Some(now)) => self.wrong.push(format!("{key}: gone, and then {now}")),
            (Some(Some(before)), Some(now)) if before > now => {
                self.wrong.push(format!("{key}: {before}, and then {now}"));
            }
            _ => {}
        }
    }
}

pub enum Witness {
    /// A consumer that reads beside the cleaner.
    Kafka(Reading),
    /// A stream that copies that of the states and keeps all. What is replaced before it is copied is not seen.
    Nats { server: Arc<Server>, copy: String },
}

/// A consumer on a thread of its own, which ends before the test does: a client of librdkafka must not run while the
/// process ends.
pub struct Reading {
    order: Arc<Mutex<Order>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reading {
    fn end(&mut self) -> std::thread::Result<()> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // Where it has failed, the test fails already.
        let _ = self.end();
    }
}

impl Witness {
    /// Begins to read. The topics or the stream are there.
    pub fn start(scene: &Scene) -> Self {
        match &scene.bus {
            Bus::Kafka(broker) => {
                let (order, end) = (Arc::<Mutex<Order>>::default(), Arc::new(AtomicBool::new(false)));
                let topics = CATEGORIES.map(|category| format!("{}-state.{category}", scene.prefix));
                let (broker, seen, ending) = (Arc::clone(broker), Arc::clone(&order), Arc::clone(&end));
                let thread = Some(std::thread::spawn(move || read(&broker, &topics, &seen, &ending)));
                Self::Kafka(Reading { order, end, thread })
            }
            Bus::Nats(server) => {
                let stream = scene.variables.iter().find(|(name, _)| name.ends_with("STATE__STREAM"));
                let name = stream.expect("it is named").1.clone();
                let copy = format!("{name}-COPY");
                let source = Source { name, ..Source::default() };
                server.create_stream(&copy, &[], |config| config.sources = Some(vec![source]));
                Self::Nats { server: Arc::clone(server), copy }
            }
        }
    }

    fn seen(&self) -> Order {
        match self {
            Self::Kafka(reading) => reading.order.lock().clone(),
            Self::Nats { server, copy } => {
                let mut order = Order::default();
                for stored in server.read_all(copy) {
                    order.add(stored.subject.rsplit('.').next().unwrap_or_default(), &stored.payload);
                }
                order
            }
        }
    }

    /// Waits until it has read what is kept last of each key. How many states it has seen; no key went back in time, and
    /// no state followed a tombstone.
    pub fn end(mut self, scene: &Scene, seed: u64) -> usize {
        let kept = CATEGORIES.into_iter().flat_map(|category| scene.kept_of(category));
        let last: Last = kept.map(|kept| (kept.key, kept.event.as_ref().map(time))).collect();
        let mut seen = Order::default();
        eventually_blocking("everything that is kept was read", || {
            seen = self.seen();
            seen.last == last
        });
        if let Self::Kafka(reading) = &mut self {
            reading.end().expect("it reads");
        }
        assert!(seen.wrong.is_empty(), "seed {seed}: {:#?}", seen.wrong);
        assert!(seen.states > last.len(), "it has seen no former states: {} of {}", seen.states, last.len());
        seen.states
    }
}

/// Reads the topics until it is told to end.
fn read(broker: &Broker, topics: &[String], order: &Mutex<Order>, ending: &AtomicBool) {
    let mut config = broker.client();
    config.set("group.id", "witness").set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    for topic in topics {
        for partition in 0..broker.partitions(topic).expect("the topic is there") {
            list.add_partition_offset(topic, partition as i32, Offset::Beginning).unwrap();
        }
    }
    consumer.assign(&list).unwrap();
    while !ending.load(Ordering::Relaxed) {
        // Without a message the broker has nothing new, is away, or has just come back.
        if let Some(Ok(message)) = consumer.poll(PAUSE) {
            let key = std::str::from_utf8(message.key().expect("a key")).expect("text");
            order.lock().add(key, message.payload().unwrap_or_default());
        }
    }
}
