//! A real Redis or Valkey as a child process, installed by `tests/install.sh`.

use std::path::{Path, PathBuf};
use std::process::Command;

use redis::{Client, Connection};

use super::certificates::Certificates;
use super::ports::free_ports;
use super::wait::{eventually_blocking, eventually_ok};
use super::watched::{Process, kit};

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Redis,
    Valkey,
}

impl Kind {
    fn program(self) -> PathBuf {
        match self {
            Self::Redis => "redis-server".into(),
            Self::Valkey => kit("valkey-server").join("valkey-server"),
        }
    }
}

/// The servers of a cluster, or those that a sentinel watches.
#[derive(Clone, Copy)]
pub enum Servers<'a> {
    Of(Kind),
    /// Redis that asks clients and each other for certificates. The Valkey of the tests was built without TLS.
    WithTls(&'a Certificates),
}

impl Servers<'_> {
    pub fn kind(self) -> Kind {
        match self {
            Self::Of(kind) => kind,
            Self::WithTls(_) => Kind::Redis,
        }
    }

    /// The scheme of their URL.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Of(_) => "redis",
            Self::WithTls(_) => "rediss",
        }
    }

    /// The port for TLS, if they have one, and the settings.
    fn tls(self) -> (Option<u16>, Vec<(&'static str, String)>) {
        let Self::WithTls(made) = self else { return Default::default() };
        let ([port], file) = (free_ports(), |name: &str| made.path(name).display().to_string());
        let settings = vec![
            ("tls-port", port.to_string()),
            ("tls-cluster", "yes".into()),
            ("tls-replication", "yes".into()),
            ("tls-ca-cert-file", file("ca.pem")),
            ("tls-cert-file", file("server.pem")),
            ("tls-key-file", file("server.key")),
            ("tls-client-cert-file", file("client.pem")),
            ("tls-client-key-file", file("client.key")),
        ];
        (Some(port), settings)
    }

    fn start(self, more: &[&str]) -> Redis {
        let (tls_port, settings) = self.tls();
        let words = settings.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]);
        let more = words.chain(more.iter().map(|word| (*word).to_owned())).collect();
        Redis::made(self.kind(), tls_port, more)
    }
}

/// A server. Its data is in memory alone: a restart finds nothing.
pub struct Redis {
    /// Ends before its folder does.
    process: Process,
    folder: tempfile::TempDir,
    kind: Kind,
    port: u16,
    tls_port: Option<u16>,
    more: Vec<String>,
}

impl Redis {
    /// A fresh server of its own; ready when this returns.
    pub fn start(kind: Kind) -> Self {
        Self::with(kind, &[])
    }

    /// The same with more arguments, as in its configuration file.
    pub fn with(kind: Kind, more: &[&str]) -> Self {
        Self::made(kind, None, more.iter().map(|argument| (*argument).to_owned()).collect())
    }

    fn made(kind: Kind, tls_port: Option<u16>, more: Vec<String>) -> Self {
        let [port] = free_ports();
        let folder = tempfile::tempdir().expect("a folder for the server");
        let server = Self { process: Process::default(), folder, kind, port, tls_port, more };
        server.restart();
        server
    }

    /// Starts it again on the same port, empty; ready when this returns.
    pub fn restart(&self) {
        let mut command = Command::new(self.kind.program());
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

    /// The port without TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of clients, and of servers of its kind.
    pub fn served_port(&self) -> u16 {
        self.tls_port.unwrap_or(self.port)
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
pub fn cluster(servers: Servers<'_>) -> Vec<Redis> {
    // The last one begins with a range of slots of the bridge, 1,024 each, so that it shares none: what is claimed at another
    // node does not wait for it.
    const SLOTS: [[&str; 2]; 3] = [["0", "5460"], ["5461", "11263"], ["11264", "16383"]];
    let node = || {
        let [bus] = free_ports::<1>().map(|port| port.to_string());
        servers.start(&["--cluster-enabled", "yes", "--cluster-port", &bus])
    };
    let nodes: Vec<Redis> = SLOTS.iter().map(|_| node()).collect();
    for (node, [first, last]) in nodes.iter().zip(SLOTS) {
        node.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", first, last]);
    }
    for other in &nodes[1..] {
        let bus = other.more.last().expect("its cluster port");
        nodes[0].run::<()>(&["CLUSTER", "MEET", "127.0.0.1", &other.served_port().to_string(), bus]);
    }
    eventually_blocking("every node knows the whole cluster", || {
        nodes.iter().all(|node| {
            let info: String = node.run(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        })
    });
    nodes
}

/// Their URL.
pub fn cluster_url(servers: Servers<'_>, nodes: &[Redis]) -> String {
    let hosts: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.served_port())).collect();
    format!("{}-cluster://{}", servers.scheme(), hosts.join(","))
}

/// The same with a replica of the last of them, which takes over within seconds; the replica is the last.
pub fn cluster_with_replica(servers: Servers<'_>) -> Vec<Redis> {
    let mut nodes = cluster(servers);
    let [bus] = free_ports::<1>().map(|port| port.to_string());
    let replica = servers.start(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
    replica.run::<()>(&[
        "CLUSTER",
        "MEET",
        "127.0.0.1",
        &nodes[0].served_port().to_string(),
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
    pub url: String,
    sentinel: Process,
    /// Outlives the sentinel.
    folder: tempfile::TempDir,
}

impl Watched {
    /// Ready when this returns.
    pub fn start(servers: Servers<'_>) -> Self {
        let master = servers.start(&[]);
        let port = master.served_port().to_string();
        let replica = servers.start(&["--replicaof", "127.0.0.1", &port]);
        let ([plain_port], folder) = (free_ports(), tempfile::tempdir().expect("a folder"));
        let file = folder.path().join("sentinel.conf");
        let (tls_port, settings) = servers.tls();
        let settings: String = settings.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        let text = format!(
            "{settings}port {plain_port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        );
        std::fs::write(&file, text).expect("the configuration is written");
        let url =
            format!("{}-sentinel://127.0.0.1:{}/main", servers.scheme(), tls_port.unwrap_or(plain_port));
        let watched = Self { master, replica, url, sentinel: Process::default(), folder };
        let mut command = Command::new(servers.kind().program());
        command.arg(file).arg("--sentinel");
        watched.sentinel.start(&command, watched.folder.path());
        eventually_blocking("the sentinel knows both", || {
            let client = Client::open(format!("redis://127.0.0.1:{plain_port}")).expect("a URL");
            let Ok(mut connection) = client.get_connection() else { return false };
            let found: redis::RedisResult<String> = redis::cmd("INFO").arg("sentinel").query(&mut connection);
            found.is_ok_and(|info| info.contains("slaves=1") && info.contains("status=ok"))
        });
        watched
    }
}
