//! The broker of a run, one or three, Kafka or NATS: the configuration of the bridges, the faults, and the stored
//! messages at the end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::StreamExt;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::options::{Bus, Options};
use crate::support::consumer::NAMES;
use crate::support::kafka;
use crate::support::nats;
use crate::support::proxy::Proxy;
use crate::support::wait::{PATIENCE, eventually_blocking, eventually_ok};

/// Partitions of every topic, so that faults meet several leaders and keys.
const PARTITIONS: i32 = 3;

const STREAM: &str = "ATTIO";

enum Kind {
    Kafka(kafka::Broker),
    Kafkas(kafka::cluster::Cluster),
    Nats(nats::Server),
    Natses(nats::cluster::Cluster),
}

/// A broker, and its proxy if it has one.
pub struct Broker {
    kind: Kind,
    prefix: String,
    pub proxy: Option<Proxy>,
    turn: AtomicUsize,
}

impl Broker {
    /// Starts it, and waits until it is ready.
    pub fn start(options: &Options) -> Self {
        let prefix = "loss".to_owned();
        let mut proxy = None;
        let kind = match (options.bus, options.brokers) {
            (Bus::Kafka, 1) if options.is_proxied() => {
                let (broker, before) = kafka::Broker::start_behind_a_proxy();
                proxy = Some(before);
                Kind::Kafka(broker)
            }
            (Bus::Kafka, 1) => Kind::Kafka(kafka::Broker::start()),
            (Bus::Kafka, _) => Kind::Kafkas(kafka::cluster::Cluster::start()),
            (Bus::Nats, 1) => {
                let server = nats::Server::start();
                if options.is_proxied() {
                    proxy = Some(Proxy::start(server.url().trim_start_matches("nats://").parse().unwrap()));
                }
                Kind::Nats(server)
            }
            (Bus::Nats, _) => Kind::Natses(nats::cluster::Cluster::start()),
        };
        Self { kind, prefix, proxy, turn: AtomicUsize::new(0) }
    }

    /// Formats it as another cluster, with the same topics.
    pub fn format_anew(&self) {
        let Kind::Kafka(broker) = &self.kind else { panic!("only one Kafka is formatted anew") };
        broker.format_anew(kafka::OTHER_CLUSTER);
        for name in NAMES {
            broker.create_topic(&format!("{}.{name}", self.prefix), PARTITIONS, &[]);
        }
    }

    /// The variables of the bridges.
    pub fn variables(&self) -> Vec<(String, String)> {
        let at = |own: &str| match &self.proxy {
            Some(proxy) => proxy.addr().to_string(),
            None => own.trim_start_matches("nats://").to_owned(),
        };
        let kafka = |bootstrap: String, copies: usize| {
            vec![
                ("BUS__TYPE", "kafka".into()),
                ("KAFKA__BOOTSTRAP_SERVERS", bootstrap),
                ("KAFKA__TOPICS__ENSURE", "create".into()),
                ("KAFKA__TOPICS__PARTITIONS", PARTITIONS.to_string()),
                ("KAFKA__TOPICS__REPLICATION_FACTOR", copies.to_string()),
                ("KAFKA__TOPICS__MIN_INSYNC_REPLICAS", if copies == 3 { "2" } else { "1" }.into()),
            ]
        };
        let nats = |servers: String, copies: usize| {
            vec![
                ("BUS__TYPE", "nats".into()),
                ("NATS__SERVERS", servers),
                ("NATS__STREAM__NAME", STREAM.into()),
                ("NATS__STREAM__ENSURE", "create".into()),
                ("NATS__STREAM__REPLICAS", copies.to_string()),
            ]
        };
        let mut variables: Vec<(&str, String)> = match &self.kind {
            Kind::Kafka(broker) => kafka(at(broker.bootstrap()), 1),
            Kind::Kafkas(cluster) => kafka(cluster.all.bootstrap().to_owned(), 3),
            Kind::Nats(server) => nats(format!("nats://{}", at(&server.url())), 1),
            Kind::Natses(cluster) => nats(cluster.urls(), 3),
        };
        variables.push(("ROUTE__PREFIX", self.prefix.clone()));
        let named = |(name, value): (&str, String)| (format!("ATTIO_BRIDGE__{name}"), value);
        variables.into_iter().map(named).collect()
    }

    /// Kills it, of three the leader or the next in turn, and restarts it after a while.
    pub fn kill(&self, down: Duration) {
        match &self.kind {
            Kind::Kafka(broker) => {
                broker.kill();
                std::thread::sleep(down);
                broker.restart();
            }
            Kind::Kafkas(cluster) => {
                let at = self.turn(3);
                cluster.kill(at);
                std::thread::sleep(down);
                cluster.restart(at);
                cluster.wait_for(3);
            }
            Kind::Nats(server) => {
                server.kill();
                std::thread::sleep(down);
                server.restart();
            }
            Kind::Natses(cluster) => {
                let at = cluster.leader(STREAM, self.turn(3));
                cluster.servers[at].kill();
                std::thread::sleep(down);
                cluster.servers[at].restart();
                wait_until_replicated(cluster, at);
            }
        }
    }

    /// Freezes it, or one of three, for a while.
    pub fn freeze(&self, still: Duration) {
        match &self.kind {
            Kind::Kafka(broker) => {
                broker.pause();
                std::thread::sleep(still);
                broker.resume();
            }
            Kind::Kafkas(cluster) => {
                let at = self.turn(3);
                cluster.pause(at);
                std::thread::sleep(still);
                cluster.resume(at);
                cluster.wait_for(3);
            }
            Kind::Nats(server) => {
                server.pause();
                std::thread::sleep(still);
                server.resume();
            }
            Kind::Natses(cluster) => {
                let at = self.turn(3);
                cluster.servers[at].pause();
                std::thread::sleep(still);
                cluster.servers[at].resume();
                wait_until_replicated(cluster, at);
            }
        }
    }

    /// Restarts three brokers, one after the other, by SIGTERM.
    pub fn roll(&self) {
        for at in 0..3 {
            match &self.kind {
                Kind::Kafkas(cluster) => {
                    cluster.stop(at);
                    cluster.restart(at);
                    cluster.wait_for(3);
                }
                Kind::Natses(cluster) => {
                    cluster.servers[at].stop();
                    cluster.servers[at].restart();
                    wait_until_replicated(cluster, at);
                }
                Kind::Kafka(_) | Kind::Nats(_) => panic!("a rolling restart takes three brokers"),
            }
        }
    }

    /// Makes another broker the leader. The Kafka client cannot request that, so there one broker is stopped, which
    /// hands over its partitions, and started again.
    pub fn move_leader(&self) {
        match &self.kind {
            Kind::Kafkas(cluster) => {
                let at = self.turn(3);
                cluster.stop(at);
                cluster.restart(at);
                cluster.wait_for(3);
            }
            Kind::Natses(cluster) => cluster.step_down(STREAM),
            Kind::Kafka(_) | Kind::Nats(_) => panic!("a move of the leader takes three brokers"),
        }
    }

    fn turn(&self, of: usize) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed) % of
    }

    /// Reads everything, each as category, key (Kafka) and value.
    pub fn read(&self, mut each: impl FnMut(&str, Option<&str>, &str) + Send) {
        match &self.kind {
            Kind::Kafka(broker) => self.read_kafka(broker, &mut each),
            Kind::Kafkas(cluster) => self.read_kafka(&cluster.all, &mut each),
            Kind::Nats(server) => self.read_nats(server, &mut each),
            Kind::Natses(cluster) => self.read_nats(&cluster.servers[0], &mut each),
        }
    }

    fn read_kafka(&self, broker: &kafka::Broker, each: &mut impl FnMut(&str, Option<&str>, &str)) {
        let consumer: BaseConsumer = broker
            .client()
            .set("group.id", "reads-all")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("fetch.wait.max.ms", "10")
            .create()
            .expect("a consumer for the broker");
        // Nothing is compacted, so every offset has a record: a reader that skips one is not reliable.
        let mut next: BTreeMap<(String, i32), i64> = BTreeMap::new();
        let (mut list, mut open) = (TopicPartitionList::new(), 0);
        for name in NAMES {
            for partition in 0..PARTITIONS {
                let topic = format!("{}.{name}", self.prefix);
                list.add_partition_offset(&topic, partition, Offset::Offset(0)).expect("a valid offset");
                open += 1;
                next.insert((topic, partition), 0);
            }
        }
        consumer.assign(&list).expect("the assignment is taken");
        while open > 0 {
            match consumer.poll(PATIENCE).expect("the broker answers") {
                Ok(message) => {
                    let place = (message.topic().to_owned(), message.partition());
                    let next = next.entry(place.clone()).or_default();
                    assert_eq!(message.offset(), *next, "{place:?} was read with a gap");
                    *next += 1;
                    let text = |bytes| std::str::from_utf8(bytes).expect("keys and values are text");
                    let category = message.topic()[self.prefix.len()..].trim_start_matches('.');
                    each(category, message.key().map(text), message.payload().map_or("", text));
                }
                Err(KafkaError::PartitionEOF(_)) => open -= 1,
                Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                )) => {}
                Err(error) => panic!("cannot read it back: {error}"),
            }
        }
        for ((topic, partition), read) in next {
            // The client may have to look for the partition's leader again.
            let (_, end) = eventually_ok("the broker tells where a partition ends", || {
                consumer.fetch_watermarks(&topic, partition, PATIENCE)
            });
            assert_eq!(read, end, "{topic} [{partition}] was not read to its end");
        }
    }

    fn read_nats(&self, server: &nats::Server, each: &mut (impl FnMut(&str, Option<&str>, &str) + Send)) {
        let read = async {
            let client = server.admin_options().connect(server.url()).await?;
            let stream = async_nats::jetstream::new(client).get_stream(STREAM).await?;
            let count = stream.cached_info().state.messages;
            let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
            let consumer = stream.create_consumer(config).await?;
            let mut messages = consumer.stream().max_messages_per_batch(2000).messages().await?;
            for _ in 0..count {
                let next = tokio::time::timeout(PATIENCE, messages.next()).await?;
                let message = next.ok_or("the stream has fewer")??;
                let below = message.subject[self.prefix.len()..].trim_start_matches('.');
                let category = below.split_once('.').map_or(below, |(category, _)| category);
                let value = std::str::from_utf8(&message.payload).expect("values are text");
                each(category, None, value);
            }
            Ok::<_, async_nats::Error>(())
        };
        let read = std::thread::scope(|scope| scope.spawn(|| nats::runtime().block_on(read)).join());
        read.expect("reading does not panic").expect("the stream can be read");
    }

    /// Keeps its data on drop; returns the folders.
    pub fn keep(&mut self) -> Vec<PathBuf> {
        match &mut self.kind {
            Kind::Kafka(broker) => broker.keep().into_iter().collect(),
            Kind::Kafkas(cluster) => cluster.keep().into(),
            Kind::Nats(server) => vec![server.keep()],
            Kind::Natses(cluster) => cluster.servers.each_mut().map(nats::Server::keep).into(),
        }
    }

    /// Waits until all of it can be read.
    pub fn settle(&self) {
        match &self.kind {
            Kind::Kafkas(cluster) => cluster.wait_for(3),
            Kind::Natses(cluster) => wait_until_replicated(cluster, 0),
            Kind::Kafka(_) | Kind::Nats(_) => {}
        }
    }
}

fn wait_until_replicated(cluster: &nats::cluster::Cluster, by: usize) {
    eventually_blocking("all copies are up to date", || cluster.is_whole(STREAM, by));
}

#[test]
fn the_data_of_a_broker_is_left_where_it_says() {
    let mut broker = Broker::start(&Options::new("kept", Bus::Nats, 1, 1));
    let kept = broker.keep();
    drop(broker);
    assert_eq!(kept.len(), 1);
    assert!(kept[0].join("server.conf").is_file() && kept[0].join("output.log").is_file());
    std::fs::remove_dir_all(&kept[0]).expect("it is ours");
}
