//! A real Kafka for the tests: one KRaft node as a child process, installed by `tests/install.sh`.
//!
//! ```ignore
//! let broker = kafka::shared();                  // one for the whole test process
//! let topic = broker.topic("orders", 3);         // with a unique name
//! let own = kafka::Broker::start();              // one that the test may kill
//! own.kill(); own.restart();
//! for record in own.read_all(&topic) { … }
//! ```
//!
//! The broker never outlives the tests: `java` runs under a small shell that kills it when the pipe to this
//! process is closed.

pub mod bench;
pub mod cluster;
pub mod gate;
mod node;
pub mod security;
pub mod variables;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::ports::free_ports;
use super::proxy::Proxy;
use super::unique;
use crate::support::wait::{PATIENCE, eventually_blocking, eventually_ok};
use node::Node;
pub use node::{CLUSTER, Layout, OTHER_CLUSTER};

/// `host:port` of a running broker for [`shared`] to use.
const RUNNING: &str = "ATTIO_BRIDGE_TEST_KAFKA";

/// One request to a broker.
const REQUEST: Duration = Duration::from_secs(10);

/// A stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    /// In milliseconds since 1970.
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub value: Option<Vec<u8>>,
}

impl Record {
    /// The key as text.
    pub fn key(&self) -> &str {
        std::str::from_utf8(self.key.as_deref().expect("the record has a key")).expect("the key is text")
    }

    /// The value as text.
    pub fn value(&self) -> &str {
        std::str::from_utf8(self.value.as_deref().expect("the record has a value"))
            .expect("the value is text")
    }

    /// The value of a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(found, _)| found == name)?;
        value.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }
}

/// Offsets by topic and partition.
pub type Offsets = BTreeMap<(String, i32), i64>;

/// One Kafka node.
pub struct Broker {
    bootstrap: String,
    /// None for a running broker.
    node: Option<Node>,
}

/// The broker that all tests share. Use unique topic names, and do not kill it.
pub fn shared() -> Arc<Broker> {
    static SHARED: LazyLock<Arc<Broker>> = LazyLock::new(|| {
        Arc::new(match std::env::var(RUNNING) {
            Ok(bootstrap) => Broker::at(bootstrap),
            Err(_) => Broker::start(),
        })
    });
    SHARED.clone()
}

impl Broker {
    /// A fresh broker, ready.
    pub fn start() -> Self {
        Self::start_where(|_, _| Layout::default())
    }

    /// A fresh broker with another layout, which may depend on its client and controller ports.
    pub fn start_where(layout: impl FnOnce(u16, u16) -> Layout) -> Self {
        let [client, controller] = free_ports();
        let node = Node::new(client, controller, layout(client, controller));
        let broker = Self { bootstrap: format!("127.0.0.1:{client}"), node: Some(node) };
        broker.restart();
        broker.warm_up();
        broker
    }

    /// A running broker.
    pub fn at(bootstrap: String) -> Self {
        Self { bootstrap, node: None }
    }

    /// A fresh broker with a second listener behind a proxy, whose address that listener advertises. The
    /// methods of this type do not use the proxy.
    pub fn start_behind_a_proxy() -> (Self, Proxy) {
        let [port] = free_ports();
        let proxy = Proxy::start(([127, 0, 0, 1], port).into());
        let broker = Self::start_where(|client, controller| {
            let listeners = |far: String| format!("PLAIN://127.0.0.1:{client},FAR://{far}");
            let controllers = format!(",CTRL://127.0.0.1:{controller}");
            let properties = [
                ("listeners", listeners(format!("127.0.0.1:{port}")) + &controllers),
                ("advertised.listeners", listeners(proxy.addr().to_string())),
                ("listener.security.protocol.map", "PLAIN:PLAINTEXT,CTRL:PLAINTEXT,FAR:PLAINTEXT".into()),
            ];
            let own = |(name, value): (&str, String)| (name.to_owned(), value);
            Layout { properties: properties.map(own).into(), ..Layout::default() }
        });
        (broker, proxy)
    }

    /// `host:port`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Keeps its data when it is dropped; returns its folder, unless the broker is not ours.
    pub fn keep(&mut self) -> Option<PathBuf> {
        self.node.as_mut().map(Node::keep)
    }

    /// Kills the broker (SIGKILL).
    pub fn kill(&self) {
        self.node().process.take().kill();
    }

    /// Changes server properties; they take effect at the next start.
    pub fn set(&self, properties: &[(&str, &str)]) {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.node().set(properties.iter().map(own).collect());
    }

    /// Starts it again on the same data and ports; ready when this returns.
    pub fn restart(&self) {
        self.restart_without_waiting();
        self.wait_until_ready();
    }

    /// Kills it, deletes its data, formats it with this cluster id and starts it again; ready when this returns.
    pub fn format_anew(&self, cluster: &str) {
        self.kill();
        self.node().format_anew(cluster);
        self.restart();
        self.warm_up();
    }

    /// Stops it, copies its data, and starts it again; ready when this returns.
    pub fn copy(&self) -> tempfile::TempDir {
        self.node().process.take().stop();
        let copy = self.node().copy();
        self.restart();
        copy
    }

    /// Kills it, replaces its data by a copy, and starts it again; ready when this returns.
    pub fn restore(&self, copy: &tempfile::TempDir) {
        self.kill();
        self.node().restore(copy);
        self.restart();
    }

    /// Starts it again without waiting.
    pub fn restart_without_waiting(&self) {
        self.node().start();
    }

    /// Waits until it answers a request for metadata.
    pub fn wait_until_ready(&self) {
        let client: BaseProducer = self.client().create().expect("a client for the broker");
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.node.iter().for_each(Node::assert_alive);
            let metadata = client.client().fetch_metadata(None, Duration::from_secs(1));
            match metadata {
                Ok(metadata) if !metadata.brokers().is_empty() => return,
                answer if Instant::now() > deadline => {
                    let log = self.node.as_ref().map(Node::log).unwrap_or_default();
                    panic!("the broker does not answer: {:?}\n{log}", answer.err());
                }
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Pauses it: connections stay open, nothing is answered (SIGSTOP).
    pub fn pause(&self) {
        self.node().process.running().freeze();
    }

    /// Resumes it after [`Self::pause`] (SIGCONT).
    pub fn resume(&self) {
        self.node().process.running().signal("CONT");
    }

    /// A new topic with a unique name that begins with `stem`.
    pub fn topic(&self, stem: &str, partitions: i32) -> String {
        let name = unique(stem);
        self.create_topic(&name, partitions, &[]);
        name
    }

    /// Creates a topic, unless a bridge has just done so; usable when this returns.
    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let topic = config.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let admin = self.admin();
        let made = block_on(admin.create_topics([&topic], &admin_options())).expect("the broker answers");
        let there = |(_, code): &(String, RDKafkaErrorCode)| *code == RDKafkaErrorCode::TopicAlreadyExists;
        assert!(made[0].as_ref().map_or_else(there, |_| true), "the topic is created: {:?}", made[0]);
        eventually_blocking("the new topic has its leaders", || {
            self.partitions(name).is_some_and(|count| count == usize::try_from(partitions).unwrap_or(count))
        });
    }

    /// Deletes a topic; gone when this returns.
    pub fn delete_topic(&self, name: &str) {
        let admin = self.admin();
        let gone = block_on(admin.delete_topics(&[name], &admin_options())).expect("the broker answers");
        gone[0].as_ref().expect("the topic is removed");
        eventually_blocking("the topic is gone", || self.partitions(name).is_none());
    }

    /// The names of all topics. None is requested by name, which would create it on some brokers.
    pub fn topics(&self) -> Vec<String> {
        let client: BaseProducer = self.client().create().expect("a client for the broker");
        let metadata = client.client().fetch_metadata(None, REQUEST).expect("the broker answers");
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }

    /// The number of partitions with a leader; `None` where the topic does not exist.
    pub fn partitions(&self, topic: &str) -> Option<usize> {
        self.leaders(topic).map(|(led, _)| led)
    }

    /// The number of partitions that have a leader, and of all partitions.
    fn leaders(&self, topic: &str) -> Option<(usize, usize)> {
        // A consumer: a producer's request would create the topic on some brokers.
        let client: BaseConsumer = self.client().create().expect("a client for the broker");
        let metadata = client.client().fetch_metadata(Some(topic), REQUEST).expect("the broker answers");
        let topic = metadata.topics().first().filter(|topic| topic.error().is_none())?;
        let led = topic.partitions().iter().filter(|partition| partition.leader() >= 0);
        Some((led.count(), topic.partitions().len()))
    }

    /// A setting of a topic.
    pub fn topic_setting(&self, topic: &str, name: &str) -> Option<String> {
        let admin = self.admin();
        let resource = rdkafka::admin::ResourceSpecifier::Topic(topic);
        let described =
            block_on(admin.describe_configs([&resource], &admin_options())).expect("the broker answers");
        described[0].as_ref().expect("the topic is described").get(name)?.value.clone()
    }

    /// Everything in a topic, in the order of partition and offset.
    pub fn read_all(&self, topic: &str) -> Vec<Record> {
        let consumer: BaseConsumer = self
            .client()
            .set("group.id", "reads-all")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "10")
            .create()
            .expect("a consumer for the broker");
        let mut partitions = 0;
        // A broker that was paused may have lost the leadership for a moment.
        eventually_blocking("every partition has a leader", || {
            self.leaders(topic).is_some_and(|(led, all)| {
                partitions = all;
                led == all && all > 0
            })
        });
        let mut list = TopicPartitionList::new();
        for partition in 0..i32::try_from(partitions).expect("few partitions") {
            list.add_partition_offset(topic, partition, Offset::Offset(0)).expect("a valid offset");
        }
        consumer.assign(&list).expect("the assignment is taken");
        let (mut records, mut at_end) = (Vec::new(), 0);
        while at_end < partitions {
            match consumer.poll(PATIENCE).expect("the broker answers") {
                Ok(message) => records.push(record(&message)),
                Err(KafkaError::PartitionEOF(_)) => at_end += 1,
                // A broker that has just come back closes what it had open; the client tries again by itself.
                Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                )) => {}
                Err(error) => panic!("cannot read {topic}: {error}"),
            }
        }
        records.sort_by_key(|record: &Record| (record.partition, record.offset));
        records
    }

    /// Changes a setting of a topic.
    pub fn set_topic(&self, topic: &str, name: &str, value: &str) {
        let admin = self.admin();
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        let changed = block_on(admin.alter_configs([&change], &admin_options())).expect("the broker answers");
        changed[0].as_ref().expect("the topic is changed");
        eventually_blocking("the change is in force", || {
            self.topic_setting(topic, name).as_deref() == Some(value)
        });
    }

    /// The names of all consumer groups.
    pub fn groups(&self) -> Vec<String> {
        let client: BaseConsumer = self.client().create().expect("a client for the broker");
        let groups = client.client().fetch_group_list(None, REQUEST).expect("the broker answers");
        groups.groups().iter().map(|group| group.name().to_owned()).collect()
    }

    /// A consumer group's state, and the number of its members.
    pub fn group(&self, name: &str) -> (String, usize) {
        let list = || {
            let client: BaseConsumer = self.client().create().expect("a client for the broker");
            client.client().fetch_group_list(Some(name), REQUEST)
        };
        // The broker refuses while it loads the group.
        let groups = eventually_ok("the group is listed", list);
        let group = groups.groups().first().map(|group| (group.state().to_owned(), group.members().len()));
        group.unwrap_or_default()
    }

    /// The end of each partition that has records.
    pub fn ends(&self, topics: &[String]) -> Offsets {
        let client: BaseConsumer = self.client().create().expect("a client for the broker");
        let mut ends = Offsets::new();
        for topic in topics {
            let partitions = self.partitions(topic).expect("the topic is there");
            for partition in 0..i32::try_from(partitions).expect("few partitions") {
                let (_, end) =
                    client.fetch_watermarks(topic, partition, REQUEST).expect("the broker answers");
                if end > 0 {
                    ends.insert((topic.clone(), partition), end);
                }
            }
        }
        ends
    }

    /// What a group has committed in these partitions.
    pub fn committed<'a>(&self, group: &str, partitions: impl Iterator<Item = &'a (String, i32)>) -> Offsets {
        let client: BaseConsumer =
            self.client().set("group.id", group).create().expect("a client for the broker");
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition);
        }
        let committed = || client.committed_offsets(list.clone(), REQUEST);
        let committed = eventually_ok("the group's offsets are read", committed);
        let mut offsets = Offsets::new();
        for partition in committed.elements() {
            if let Offset::Offset(offset) = partition.offset() {
                offsets.insert((partition.topic().to_owned(), partition.partition()), offset);
            }
        }
        offsets
    }

    /// Asks again and again whether a group has committed everything in these topics, with one client. Not for a
    /// broker that is killed meanwhile.
    pub fn progress(&self, group: &str, topics: &[String]) -> Progress {
        let client = self.client().set("group.id", group).create().expect("a client for the broker");
        let count = |topic: &str| self.partitions(topic).and_then(|count| i32::try_from(count).ok());
        let of = |topic: &String| {
            let partitions = 0..count(topic).expect("the topic is there");
            partitions.map(|partition| (topic.clone(), partition)).collect::<Vec<_>>()
        };
        Progress { client, partitions: topics.iter().flat_map(of).collect() }
    }

    /// Publishes one record.
    pub fn publish(
        &self,
        topic: &str,
        key: Option<&str>,
        headers: &[(&str, Option<&[u8]>)],
        value: Option<&[u8]>,
    ) {
        let producer: BaseProducer = self.client().create().expect("a producer for the broker");
        let add = |all: OwnedHeaders, (key, value): &(&str, Option<&[u8]>)| {
            all.insert(Header { key, value: *value })
        };
        let headers = headers.iter().fold(OwnedHeaders::new(), add);
        let record = BaseRecord::to(topic).headers(headers);
        let record = key.into_iter().fold(record, BaseRecord::key);
        let record = value.into_iter().fold(record, BaseRecord::payload);
        assert!(producer.send(record).is_ok(), "the record is taken");
        producer.flush(PATIENCE).expect("the broker acknowledges");
    }

    /// The configuration of a client for this broker.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "50");
        config
    }

    /// A new admin client: an old one may still be connected to a dead controller.
    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client for the broker")
    }

    /// Publishes one idempotent message, which is slow the first time.
    fn warm_up(&self) {
        let topic = self.topic("warm-up", 1);
        let producer: BaseProducer =
            self.client().set("enable.idempotence", "true").create().expect("a producer for the broker");
        let record: BaseRecord<'_, str, str> = BaseRecord::to(&topic).payload("warm").key("warm");
        assert!(producer.send(record).is_ok(), "the message is taken");
        producer.flush(PATIENCE).expect("the broker acknowledges");
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap_or_else(|| {
            panic!(
                "this needs a broker of its own: {RUNNING} names one that is not ours, use Broker::start()"
            )
        })
    }
}

/// How far a consumer group is.
pub struct Progress {
    client: BaseConsumer,
    partitions: Vec<(String, i32)>,
}

impl Progress {
    /// Whether the group has committed the end of each partition that has records. Not while the broker does not say.
    pub fn is_done(&self) -> bool {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in &self.partitions {
            list.add_partition(topic, *partition);
        }
        let Ok(committed) = self.client.committed_offsets(list, REQUEST) else { return false };
        committed.elements().iter().all(|at| {
            let watermarks = self.client.fetch_watermarks(at.topic(), at.partition(), REQUEST);
            watermarks.is_ok_and(|(_, end)| end == 0 || at.offset() == Offset::Offset(end))
        })
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST))
}

/// On a thread of its own, because the test may be inside a runtime already.
fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    let wait = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future);
    let waited = std::thread::scope(|scope| scope.spawn(wait).join());
    waited.expect("the request does not panic")
}

fn record<M: Message>(message: &M) -> Record {
    let headers = message.headers().map(|headers| {
        let one = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned(), header.value.map(Into::into))
        };
        headers.iter().map(one).collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().expect("every record has a timestamp"),
        key: message.key().map(Into::into),
        headers: headers.unwrap_or_default(),
        value: message.payload().map(Into::into),
    }
}
