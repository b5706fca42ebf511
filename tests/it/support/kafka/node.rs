//! One Kafka node as a child process that cannot outlive this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::Mutex;

use crate::support::watched::{Process, kit};

/// The cluster id of every node.
pub const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qk";

/// Another one.
pub const OTHER_CLUSTER: &str = "QUJDREVGR0hJSktMTU5PUA";

/// How a node differs from the default one.
#[derive(Default)]
pub struct Layout {
    /// Server properties that override the defaults.
    pub properties: Vec<(String, String)>,
    /// SCRAM users, in the syntax of the storage tool.
    pub scram: Vec<String>,
    /// Flags of the JVM.
    pub flags: Vec<String>,
    /// Jars of classes that its settings name.
    pub classes: Vec<PathBuf>,
}

/// A node: its data and settings, and its process while it runs.
pub struct Node {
    /// Dropped before its data.
    pub process: Process,
    data: tempfile::TempDir,
    properties: Mutex<Vec<(String, String)>>,
    /// Of the JVM.
    flags: Vec<String>,
}

impl Node {
    /// A formatted node that is not started.
    pub fn new(client: u16, controller: u16, layout: Layout) -> Self {
        let data = tempfile::tempdir().expect("a folder for the broker's data");
        let usual = server_properties(data.path(), client, controller);
        let Layout { properties, scram, mut flags, classes } = layout;
        flags.extend(["-cp".to_owned(), class_path(&classes)]);
        let node = Self { process: Process::default(), data, properties: Mutex::new(usual), flags };
        node.set(properties);
        node.format(CLUSTER, &scram);
        node
    }

    /// Deletes its data and formats it as another cluster, or as a new one with the same id. Not while it runs.
    pub fn format_anew(&self, cluster: &str) {
        fs::remove_dir_all(self.data.path().join("data")).expect("the data is deleted");
        self.format(cluster, &[]);
    }

    /// A copy of its data. Not while it runs.
    pub fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a folder for the copy");
        copy_folder(&self.data.path().join("data"), &copy.path().join("data"));
        copy
    }

    /// Replaces its data by a copy. Not while it runs.
    pub fn restore(&self, copy: &tempfile::TempDir) {
        let data = self.data.path().join("data");
        fs::remove_dir_all(&data).expect("the data is deleted");
        copy_folder(&copy.path().join("data"), &data);
    }

    /// Changes server properties; they take effect at the next start.
    pub fn set(&self, more: Vec<(String, String)>) {
        let mut properties = self.properties.lock();
        for (name, value) in more {
            properties.retain(|(known, _)| *known != name);
            properties.push((name, value));
        }
        let text: String = properties.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(self.properties_file(), text).expect("the properties are written");
    }

    /// Starts it.
    pub fn start(&self) {
        let mut java = self.java();
        java.arg("kafka.Kafka").arg(self.properties_file());
        self.process.start(&java, self.data.path());
    }

    /// Keeps its data when it is dropped; returns its folder.
    pub fn keep(&mut self) -> PathBuf {
        self.data.disable_cleanup(true);
        self.data.path().to_owned()
    }

    /// Fails the test with the broker's log if it has died.
    pub fn assert_alive(&self) {
        self.process.assert_alive(|| self.log());
    }

    fn format(&self, cluster: &str, scram: &[String]) {
        let output = self
            .java()
            .args(["kafka.tools.StorageTool", "format", "-t", cluster, "-c"])
            .arg(self.properties_file())
            .args(scram.iter().flat_map(|user| ["--add-scram", user]))
            .output()
            .expect("java starts");
        assert!(output.status.success(), "the storage cannot be formatted: {output:?}");
    }

    fn java(&self) -> Command {
        let kit = kit("kafka.jsa");
        let mut command = Command::new("java");
        command
            .args(["-Xmx160m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])
            .arg(format!("-XX:SharedArchiveFile={}", kit.join("kafka.jsa").display()))
            .arg(format!("-Dlog4j2.configurationFile={}", kit.join("log4j2.properties").display()))
            .arg(format!("-Dkit.log={}", self.data.path().join("server.log").display()))
            .args(&self.flags);
        command
    }

    fn properties_file(&self) -> PathBuf {
        self.data.path().join("server.properties")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.data.path().join(name)).unwrap_or_default();
        format!("{}{}", read("output.log"), read("server.log"))
    }
}

/// Kafka's jars, as the class archive has them, and after them these.
fn class_path(more: &[PathBuf]) -> String {
    let kafka = format!("{}/*", kit("kafka.jsa").join("jars").display());
    more.iter().fold(kafka, |path, jar| format!("{path}:{}", jar.display()))
}

fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp starts");
    assert!(copied.success(), "the data is copied");
}

/// A small and fast node; the session timeout makes a restart after a kill take 3 s instead of 11.
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
