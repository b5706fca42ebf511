//! Reads every state while it is published, before the broker forgets the former ones of its key.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use async_nats::jetstream::stream::Source;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::scene::{Bus, Scene};
use super::walks::CATEGORIES;
use crate::support::kafka::Broker;
use crate::support::nats::{self, Server};
use crate::support::wait::eventually_blocking;

/// Longer than a broker takes to answer a fetch: after it there is nothing more.
const QUIET: Duration = Duration::from_secs(3);

/// The time of the last state of each key, none for a tombstone, and how many states there were.
#[derive(Default)]
struct Order {
    last: HashMap<String, Option<OffsetDateTime>>,
    states: usize,
    wrong: Vec<String>,
}

impl Order {
    fn add(&mut self, key: &str, payload: &[u8]) {
        let time = (!payload.is_empty()).then(|| {
            let event: Value = serde_json::from_slice(payload).expect("a structured event");
            OffsetDateTime::parse(event["time"].as_str().expect("a time"), &Rfc3339).unwrap()
        });
        self.states += 1;
        match (self.last.insert(key.to_owned(), time), time) {
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
    Kafka { end: Arc<AtomicBool>, reads: JoinHandle<Order> },
    /// A stream that copies the one of the states, and keeps all.
    Nats { server: Arc<Server>, copy: String },
}

impl Witness {
    /// Begins to read. The topics or the stream are there.
    pub fn start(scene: &Scene) -> Self {
        match &scene.bus {
            Bus::Kafka(broker) => {
                let end = Arc::new(AtomicBool::new(false));
                let topics = CATEGORIES.map(|category| format!("{}-state.{category}", scene.prefix));
                let (broker, ending) = (Arc::clone(broker), Arc::clone(&end));
                Self::Kafka { end, reads: std::thread::spawn(move || read(&broker, &topics, &ending)) }
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

    /// Reads what is left. How many states there were; no key went back in time, and no state followed a tombstone.
    pub fn end(self, seed: u64) -> usize {
        let order = match self {
            Self::Kafka { end, reads } => {
                end.store(true, Ordering::Relaxed);
                reads.join().expect("it reads")
            }
            Self::Nats { server, copy } => {
                let left = async || {
                    let copy = server.admin().await.get_stream(&copy).await.expect("it is there");
                    copy.cached_info().sources.iter().map(|source| source.lag).sum::<u64>()
                };
                eventually_blocking("all is copied", || nats::runtime().block_on(left()) == 0);
                let mut order = Order::default();
                for stored in server.read_all(&copy) {
                    let key = stored.subject.rsplit('.').next().unwrap_or_default();
                    order.add(key, &stored.payload);
                }
                order
            }
        };
        assert!(order.wrong.is_empty(), "seed {seed}: {:#?}", order.wrong);
        order.states
    }
}

/// Reads the topics, and once it is told to end as long as there is something.
fn read(broker: &Broker, topics: &[String], ending: &AtomicBool) -> Order {
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
    let mut order = Order::default();
    loop {
        match consumer.poll(QUIET) {
            Some(Ok(message)) => {
                let key = std::str::from_utf8(message.key().expect("a key")).expect("text");
                order.add(key, message.payload().unwrap_or_default());
            }
            // The broker is away or has just come back.
            Some(Err(_)) => {}
            None if ending.load(Ordering::Relaxed) => return order,
            None => {}
        }
    }
}
