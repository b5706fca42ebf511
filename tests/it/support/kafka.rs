//! A real Kafka for the tests: one KRaft node as a child process, from what `tests/install.sh` made.
//!
//! ```ignore
//! let broker = kafka::shared();                  // one for the whole test process
//! let topic = broker.topic("orders", 3);         // with a unique name
//! let own = kafka::Broker::start();              // one that the test may kill
//! own.kill(); own.restart();
//! for record in own.read_all(&topic) { … }
//! ```
//!
//! The broker never outlives the tests, whatever ends them: `java` runs under a small shell that
//! kills it as soon as the pipe to this process is closed.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{PATIENCE, eventually, unique};

/// Set to `host:port`, [`shared`] is that broker instead of one of our own.
const RUNNING: &str = "ATTIO_BRIDGE_TEST_KAFKA";

/// One request to a broker.
const REQUEST: Duration = Duration::from_secs(10);

/// A record as it lies in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
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

/// One Kafka node.
pub struct Broker {
    bootstrap: String,
    /// Absent where the broker is not ours.
    node: Option<Node>,
}

struct Node {
    data: tempfile::TempDir,
    properties: Vec<(String, String)>,
    process: Mutex<Option<Process>>,
}

struct Process {
    /// The shell that watches over `java`.
    watchdog: Child,
    /// The process id of `java`.
    java: u32,
}

/// The broker that all tests share. Use unique topic names, and do not kill it.
pub fn shared() -> Arc<Broker> {
    static SHARED: LazyLock<Arc<Broker>> = LazyLock::new(|| {
        Arc::new(match std::env::var(RUNNING) {
            Ok(bootstrap) => Broker { bootstrap, node: None },
            Err(_) => Broker::start(),
        })
    });
    SHARED.clone()
}

impl Broker {
    /// A fresh broker of its own; ready when this returns.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A fresh broker with more or other server properties.
    pub fn start_with(properties: &[(&str, &str)]) -> Self {
        let [client, controller] = free_ports();
        let data = tempfile::tempdir().expect("a folder for the broker's data");
        let mut all = server_properties(data.path(), client, controller);
        for (name, value) in properties {
            all.retain(|(known, _)| known != name);
            all.push(((*name).into(), (*value).into()));
        }
        let node = Node { data, properties: all, process: Mutex::new(None) };
        node.format();
        let broker = Self { bootstrap: format!("127.0.0.1:{client}"), node: Some(node) };
        broker.restart();
        broker.warm_up();
        broker
    }

    /// `host:port`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Ends the broker at once, as a power cut does to the process (SIGKILL).
    pub fn kill(&self) {
        let process = self.node().process.lock().take();
        process.expect("the broker runs").kill();
    }

    /// Starts it again on the same data and ports; ready when this returns.
    pub fn restart(&self) {
        self.restart_without_waiting();
        self.wait_until_ready();
    }

    /// Starts it again, and returns while it is still starting.
    pub fn restart_without_waiting(&self) {
        let node = self.node();
        let mut process = node.process.lock();
        assert!(process.is_none(), "the broker already runs");
        *process = Some(node.run());
    }

    /// Waits until it answers a request for metadata.
    pub fn wait_until_ready(&self) {
        let client: BaseProducer = self.client().create().expect("a client for the broker");
        eventually("the broker answers", || {
            self.assert_alive();
            client
                .client()
                .fetch_metadata(None, Duration::from_secs(1))
                .is_ok_and(|m| !m.brokers().is_empty())
        });
    }

    /// Freezes it: connections stay open, nothing is answered (SIGSTOP).
    pub fn pause(&self) {
        signal("STOP", self.java());
    }

    /// Goes on after [`Self::pause`] (SIGCONT).
    pub fn resume(&self) {
        signal("CONT", self.java());
    }

    /// A new topic with a unique name that begins with `stem`.
    pub fn topic(&self, stem: &str, partitions: i32) -> String {
        let name = unique(stem);
        self.create_topic(&name, partitions, &[]);
        name
    }

    /// Makes a topic; usable when this returns.
    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let topic = config.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let admin = self.admin();
        let made = block_on(admin.create_topics([&topic], &admin_options())).expect("the broker answers");
        made[0].as_ref().expect("the topic is made");
        eventually("the new topic has its leaders", || {
            self.partitions(name).is_some_and(|count| count == usize::try_from(partitions).unwrap_or(count))
        });
    }

    /// Removes a topic; gone when this returns.
    pub fn delete_topic(&self, name: &str) {
        let admin = self.admin();
        let gone = block_on(admin.delete_topics(&[name], &admin_options())).expect("the broker answers");
        gone[0].as_ref().expect("the topic is removed");
        eventually("the topic is gone", || self.partitions(name).is_none());
    }

    /// The number of partitions that have a leader; `None` where there is no such topic.
    pub fn partitions(&self, topic: &str) -> Option<usize> {
        let client: BaseProducer = self.client().create().expect("a client for the broker");
        let metadata = client.client().fetch_metadata(Some(topic), REQUEST).expect("the broker answers");
        let topic = metadata.topics().first().filter(|topic| topic.error().is_none())?;
        Some(topic.partitions().iter().filter(|partition| partition.leader() >= 0).count())
    }

    /// A setting of a topic as the broker has it.
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
        let partitions = self.partitions(topic).expect("the topic exists");
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
                Err(KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure)) => {}
                Err(error) => panic!("cannot read {topic}: {error}"),
            }
        }
        records.sort_by_key(|record: &Record| (record.partition, record.offset));
        records
    }

    /// The settings of a client for this broker.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "50");
        config
    }

    /// A new admin client: an old one may still look for a controller that is gone.
    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client for the broker")
    }

    /// One idempotent message, so that no test pays for the broker's first one.
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

    fn java(&self) -> u32 {
        self.node().process.lock().as_ref().expect("the broker runs").java
    }

    fn assert_alive(&self) {
        let Some(node) = &self.node else { return };
        let mut process = node.process.lock();
        let process = process.as_mut().expect("the broker was started");
        if let Ok(Some(status)) = process.watchdog.try_wait() {
            panic!("the broker ended ({status}):\n{}", node.log());
        }
    }
}

impl Node {
    fn format(&self) {
        let text: String = self.properties.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(self.properties_file(), text).expect("the properties are written");
        let output = self
            .java()
            .args(["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c"])
            .arg(self.properties_file())
            .output()
            .expect("java starts");
        assert!(output.status.success(), "the storage cannot be formatted: {output:?}");
    }

    /// Starts `java` under a shell that reads from a pipe of this process and kills it at its end.
    fn run(&self) -> Process {
        const WATCHDOG: &str = r#"
            "$@" </dev/null &
            java=$!
            echo "$java" >"$PID_FILE.new" && mv "$PID_FILE.new" "$PID_FILE"
            exec 1>&- 2>&-
            ( cat >/dev/null; kill -KILL "$java" ) 2>/dev/null <&3 &
            exec 3<&-
            wait "$java"
        "#;
        let pid_file = self.data.path().join("java.pid");
        let _ = fs::remove_file(&pid_file);
        let java = self.java();
        let output =
            || fs::File::options().append(true).create(true).open(self.data.path().join("output.log"));
        let watchdog = Command::new("sh")
            .arg("-c")
            .arg(format!("exec 3<&0\n{WATCHDOG}"))
            .arg("watchdog")
            .arg(java.get_program())
            .args(java.get_args())
            .arg("kafka.Kafka")
            .arg(self.properties_file())
            .env("PID_FILE", &pid_file)
            .stdin(Stdio::piped())
            .stdout(output().expect("a file for the output"))
            .stderr(output().expect("a file for the output"))
            .spawn()
            .expect("sh starts");
        let java =
            super::eventually_some("java starts", || fs::read_to_string(&pid_file).ok()?.trim().parse().ok());
        Process { watchdog, java }
    }

    fn java(&self) -> Command {
        let kit = kit();
        let mut command = Command::new("java");
        command
            .args(["-Xmx160m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .arg(format!("-XX:SharedArchiveFile={}", kit.join("kafka.jsa").display()))
            .arg(format!("-Dlog4j2.configurationFile={}", kit.join("log4j2.properties").display()))
            .arg(format!("-Dkit.log={}", self.data.path().join("server.log").display()))
            .arg("-cp")
            .arg(format!("{}/*", kit.join("jars").display()));
        command
    }

    fn properties_file(&self) -> PathBuf {
        self.data.path().join("server.properties")
    }

    fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.data.path().join(name)).unwrap_or_default();
        format!("{}{}", read("output.log"), read("server.log"))
    }
}

impl Process {
    fn kill(mut self) {
        signal("KILL", self.java);
        drop(self.watchdog.stdin.take());
        self.watchdog.wait().expect("the watchdog ends");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(process) = self.process.lock().take() {
            process.kill();
        }
    }
}

/// Where `tests/install.sh` puts things: beside the build of this test.
fn kit() -> PathBuf {
    static KIT: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let program = std::env::current_exe().ok()?;
        let kit = program.ancestors().map(|folder| folder.join("kit")).find(|kit| kit.is_dir())?;
        kit.join("kafka.jsa").is_file().then_some(kit)
    });
    KIT.clone().expect("no Kafka to test with: run tests/install.sh once (it fetches one into target/kit)")
}

fn free_ports() -> [u16; 2] {
    let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.each_ref().map(|listener| listener.local_addr().expect("it is bound").port())
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(sent.expect("kill starts").success(), "the broker does not run");
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
        key: message.key().map(Into::into),
        headers: headers.unwrap_or_default(),
        value: message.payload().map(Into::into),
    }
}

/// A small and quick node; the session time-out makes a restart after a kill take 3 s instead of 11.
fn server_properties(data: &Path, client: u16, controller: u16) -> Vec<(String, String)> {
    let listeners = format!("PLAIN://127.0.0.1:{client},CTRL://127.0.0.1:{controller}");
    let text = format!(
        "process.roles=broker,controller
        node.id=1
        listeners={listeners}
        advertised.listeners=PLAIN://127.0.0.1:{client}
        listener.security.protocol.map=PLAIN:PLAINTEXT,CTRL:PLAINTEXT
        inter.broker.listener.name=PLAIN
        controller.listener.names=CTRL
        controller.quorum.voters=1@127.0.0.1:{controller}
        log.dirs={}
        auto.create.topics.enable=false
        num.partitions=1
        default.replication.factor=1
        min.insync.replicas=1
        offsets.topic.replication.factor=1
        offsets.topic.num.partitions=1
        transaction.state.log.replication.factor=1
        transaction.state.log.min.isr=1
        transaction.state.log.num.partitions=1
        share.coordinator.state.topic.replication.factor=1
        share.coordinator.state.topic.min.isr=1
        share.coordinator.state.topic.num.partitions=1
        group.initial.rebalance.delay.ms=0
        log.cleaner.dedupe.buffer.size=2097152
        log.cleaner.io.buffer.size=65536
        log.segment.bytes=16777216
        log.index.size.max.bytes=1048576
        offsets.topic.segment.bytes=1048576
        num.network.threads=1
        num.io.threads=2
        background.threads=1
        num.replica.fetchers=1
        num.recovery.threads.per.data.dir=1
        broker.session.timeout.ms=1500
        broker.heartbeat.interval.ms=300
        controller.quorum.election.timeout.ms=200
        controller.quorum.election.backoff.max.ms=100
        controller.quorum.fetch.timeout.ms=500",
        data.join("data").display()
    );
    let pair = |line: &str| line.trim().split_once('=').map(|(name, value)| (name.into(), value.into()));
    text.lines().filter_map(pair).collect()
}
