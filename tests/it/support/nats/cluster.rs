//! Three servers with one JetStream.

use async_nats::jetstream::stream::Info;

use super::{Server, Settings, block_on};
use crate::support::ports::free_ports;
use crate::support::wait::eventually_some;

/// Three servers that replicate among themselves.
pub struct Cluster {
    pub servers: [Server; 3],
}

impl Cluster {
    /// Starts the servers, and waits for a meta leader.
    pub fn start() -> Self {
        Self::with("")
    }

    /// The same with more of each server's configuration, in its own language.
    pub fn with(settings: &str) -> Self {
        let ports: [u16; 3] = free_ports();
        let routes = ports.map(|port| format!("nats://127.0.0.1:{port}")).join(", ");
        let mut number = 0;
        let servers = ports.map(|port| {
            number += 1;
            let more = format!(
                "server_name: n{number}\ncluster {{ name: kit, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}\n{settings}"
            );
            Server::prepared(Settings { more, ..Settings::default() })
        });
        servers.iter().for_each(Server::restart_without_waiting);
        servers.iter().for_each(Server::wait_until_ready);
        let cluster = Self { servers };
        // The first stream is made once a meta leader is agreed on.
        eventually_some("the cluster has a meta leader", || {
            let asked = block_on(async { cluster.servers[0].admin().await.query_account().await });
            asked.ok()
        });
        cluster
    }

    /// The addresses of all, as the configuration takes them.
    pub fn urls(&self) -> String {
        self.servers.each_ref().map(Server::url).join(",")
    }

    /// The state of a stream, from a running server.
    pub fn info(&self, stream: &str, by: usize) -> Option<Info> {
        block_on(async {
            let stream = self.servers[by].admin().await.get_stream(stream).await.ok()?;
            Some(stream.cached_info().clone())
        })
    }

    /// The leader of a stream.
    pub fn leader(&self, stream: &str, by: usize) -> usize {
        eventually_some("the stream has a leader", || {
            let leader = self.info(stream, by)?.cluster?.leader?;
            leader.strip_prefix('n')?.parse::<usize>().ok()?.checked_sub(1)
        })
    }

    /// Makes another server the leader of a stream.
    pub fn step_down(&self, stream: &str) {
        block_on(async {
            let client = self.servers[0].admin_options().connect(self.servers[0].url()).await;
            let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
            // A stream that has no leader just now is about to get another.
            let _ = client.expect("a server of the cluster answers").request(subject, "".into()).await;
        });
    }

    /// Whether all replicas of a stream are current.
    pub fn is_whole(&self, stream: &str, by: usize) -> bool {
        let cluster = self.info(stream, by).and_then(|info| info.cluster);
        cluster.is_some_and(|cluster| {
            cluster.leader.is_some()
                && cluster.replicas.len() == 2
                && cluster.replicas.iter().all(|replica| replica.current && !replica.offline)
        })
    }
}
