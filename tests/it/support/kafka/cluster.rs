//! Three Kafka nodes: replication 3, min.insync.replicas 2.

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::producer::{BaseProducer, Producer};

use super::Broker;
use super::node::{Layout, Node};
use crate::support::ports::free_ports;
use crate::support::wait::eventually_blocking;

/// Three nodes, each broker and controller.
pub struct Cluster {
    nodes: [Node; 3],
    /// All of them, as one address list.
    pub all: Broker,
}

impl Cluster {
    /// A fresh one, ready.
    pub fn start() -> Self {
        let ports: [u16; 6] = free_ports();
        let [clients, controllers] = [&ports[..3], &ports[3..]];
        let nodes = [0, 1, 2].map(|at| {
            let layout = Layout { properties: properties(at, controllers), ..Layout::default() };
            Node::new(clients[at], controllers[at], layout)
        });
        let bootstrap = [0, 1, 2].map(|at| format!("127.0.0.1:{}", clients[at])).join(",");
        let cluster = Self { nodes, all: Broker { bootstrap, node: None } };
        cluster.nodes.iter().for_each(Node::start);
        cluster.wait_for(3);
        cluster
    }

    /// Keeps their data when they are dropped; returns its folders.
    pub fn keep(&mut self) -> [PathBuf; 3] {
        self.nodes.each_mut().map(Node::keep)
    }

    /// Kills one node (SIGKILL).
    pub fn kill(&self, at: usize) {
        self.nodes[at].process.take().kill();
    }

    /// Stops one node (SIGTERM), which hands over its partitions, and waits for its end.
    pub fn stop(&self, at: usize) {
        self.nodes[at].process.take().stop();
    }

    /// Freezes one (SIGSTOP).
    pub fn pause(&self, at: usize) {
        self.nodes[at].process.running().freeze();
    }

    /// Resumes it (SIGCONT).
    pub fn resume(&self, at: usize) {
        self.nodes[at].process.running().signal("CONT");
    }

    /// Starts one again.
    pub fn restart(&self, at: usize) {
        self.nodes[at].start();
    }

    /// Waits until the cluster has so many brokers.
    pub fn wait_for(&self, brokers: usize) {
        eventually_blocking(&format!("the cluster has {brokers} brokers"), || {
            // A new client each time: an old one may still be connected to a dead node.
            let client: BaseProducer = self.all.client().create().expect("a client for the cluster");
            let metadata = client.client().fetch_metadata(None, Duration::from_secs(2));
            metadata.is_ok_and(|metadata| metadata.brokers().len() == brokers)
        });
    }
}

fn properties(at: usize, controllers: &[u16]) -> Vec<(String, String)> {
    let voters: Vec<_> =
        controllers.iter().enumerate().map(|(at, port)| format!("{}@127.0.0.1:{port}", at + 1)).collect();
    let pairs = [
        ("node.id", (at + 1).to_string()),
        ("controller.quorum.voters", voters.join(",")),
        ("default.replication.factor", "3".to_owned()),
        ("min.insync.replicas", "2".to_owned()),
        ("offsets.topic.replication.factor", "3".to_owned()),
        ("transaction.state.log.replication.factor", "3".to_owned()),
        ("transaction.state.log.min.isr", "2".to_owned()),
        ("share.coordinator.state.topic.replication.factor", "3".to_owned()),
        ("share.coordinator.state.topic.min.isr", "2".to_owned()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}
