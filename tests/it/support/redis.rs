//! A real Redis or Valkey as a child process, installed by `tests/install.sh`.

use std::path::{Path, PathBuf};
use std::process::Command;

use redis::{Client, Connection};

use super::ports::free_ports;
use super::wait::{eventually_blocking, eventually_ok};
use super::watched::{Process, kit};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Redis,
    Valkey,
}

/// A server. Its data is in memory alone: a restart finds nothing.
pub struct Redis {
    /// Ends before its folder does.
    process: Process,
    folder: tempfile::TempDir,
    kind: Kind,
    port: u16,
    more: Vec<String>,
}

impl Redis {
    /// A fresh server of its own; ready when this returns.
    pub fn start(kind: Kind) -> Self {
        Self::with(kind, &[])
    }

    /// The same with more arguments, as in its configuration file.
    pub fn with(kind: Kind, more: &[&str]) -> Self {
        let [port] = free_ports();
        let more = more.iter().map(|argument| (*argument).to_owned()).collect();
        let folder = tempfile::tempdir().expect("a folder for the server");
        let server = Self { process: Process::default(), folder, kind, port, more };
        server.restart();
        server
    }

    fn program(&self) -> PathBuf {
        match self.kind {
            Kind::Redis => "redis-server".into(),
            Kind::Valkey => kit("valkey-server").join("valkey-server"),
        }
    }

    /// Starts it again on the same port, empty; ready when this returns.
    pub fn restart(&self) {
        let mut command = Command::new(self.program());
        let port = self.port.to_string();
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        command.arg(self.folder()).args(&self.more);
        self.process.start(&command, self.folder());
        eventually_ok("the server answers", || {
            self.process.assert_alive(|| self.log());
            let mut connection = Client::open(self.url()).and_then(|client| client.get_connection())?;
            match redis::cmd("PING").exec(&mut connection) {
                // It runs, and asks for a login.
                Err(error) if error.to_string().contains("NOAUTH") => Ok(()),
                other => other,
            }
        });
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://host:port`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection of the administrator.
    pub fn admin(&self) -> Connection {
        let client = Client::open(self.url()).expect("a URL");
        eventually_ok("the server accepts a connection", || client.get_connection())
    }

    /// Runs a command, given by its words.
    pub fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_run(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The same for a server that may end the connection.
    pub fn try_run<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.admin())
    }

    /// Kills it (SIGKILL) with what it remembers.
    pub fn kill(&self) {
        self.process.take().kill();
    }

    /// Freezes it: connections stay open, nothing is answered (SIGSTOP).
    pub fn pause(&self) {
        self.process.running().freeze();
    }

    /// Resumes it after [`Self::pause`] (SIGCONT).
    pub fn resume(&self) {
        self.process.running().signal("CONT");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("output.log")).unwrap_or_default()
    }
}

/// Three masters; ready when this returns.
pub fn cluster() -> Vec<Redis> {
    const SLOTS: [[&str; 2]; 3] = [["0", "5460"], ["5461", "10922"], ["10923", "16383"]];
    let node = || {
        let [bus] = free_ports::<1>().map(|port| port.to_string());
        Redis::with(Kind::Redis, &["--cluster-enabled", "yes", "--cluster-port", &bus])
    };
    let nodes: Vec<Redis> = SLOTS.iter().map(|_| node()).collect();
    for (node, [first, last]) in nodes.iter().zip(SLOTS) {
        node.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", first, last]);
    }
    for other in &nodes[1..] {
        let bus = other.more.last().expect("its cluster port");
        nodes[0].run::<()>(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string(), bus]);
    }
    eventually_blocking("every node knows the whole cluster", || {
        nodes.iter().all(|node| {
            let info: String = node.run(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        })
    });
    nodes
}

/// The same with a replica of the last of them, which takes over within seconds; the replica is the last.
pub fn cluster_with_replica() -> Vec<Redis> {
    let mut nodes = cluster();
    let [bus] = free_ports::<1>().map(|port| port.to_string());
    let replica = Redis::with(Kind::Redis, &["--cluster-enabled", "yes", "--cluster-port", &bus]);
    replica.run::<()>(&[
        "CLUSTER",
        "MEET",
        "127.0.0.1",
        &nodes[0].port.to_string(),
        nodes[0].more.last().expect("its cluster port"),
    ]);
    let master: String = nodes[2].run(&["CLUSTER", "MYID"]);
    eventually_blocking("it may follow its master", || {
        replica.try_run::<()>(&["CLUSTER", "REPLICATE", &master]).is_ok()
    });
    nodes.push(replica);
    for node in &nodes {
        node.run::<()>(&["CONFIG", "SET", "cluster-node-timeout", "1000"]);
    }
    eventually_blocking("the replica is in step, and every node knows it", || {
        let follows = nodes[3].run::<String>(&["INFO", "replication"]).contains("master_link_status:up");
        let known = |node: &Redis| node.run::<String>(&["CLUSTER", "INFO"]).contains("cluster_known_nodes:4");
        follows && nodes.iter().all(known)
    });
    nodes
}

/// A master with a replica, and a sentinel that watches them as `main`.
pub struct Watched {
    pub master: Redis,
    pub replica: Redis,
    sentinel: Process,
    sentinel_port: u16,
    /// Outlives the sentinel.
    folder: tempfile::TempDir,
}

impl Watched {
    /// Ready when this returns.
    pub fn start() -> Self {
        let master = Redis::start(Kind::Redis);
        let port = master.port().to_string();
        let replica = Redis::with(Kind::Redis, &["--replicaof", "127.0.0.1", &port]);
        let ([sentinel_port], folder) = (free_ports(), tempfile::tempdir().expect("a folder"));
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "port {sentinel_port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        );
        std::fs::write(&file, text).expect("the configuration is written");
        let watched = Self { master, replica, sentinel: Process::default(), sentinel_port, folder };
        let mut command = Command::new("redis-server");
        command.arg(file).arg("--sentinel");
        watched.sentinel.start(&command, watched.folder.path());
        eventually_blocking("the sentinel knows both", || {
            let client = Client::open(format!("redis://127.0.0.1:{sentinel_port}")).expect("a URL");
            let Ok(mut connection) = client.get_connection() else { return false };
            let found: redis::RedisResult<String> = redis::cmd("INFO").arg("sentinel").query(&mut connection);
            found.is_ok_and(|info| info.contains("slaves=1") && info.contains("status=ok"))
        });
        watched
    }

    pub fn url(&self) -> String {
        format!("redis-sentinel://127.0.0.1:{}/main", self.sentinel_port)
    }
}
