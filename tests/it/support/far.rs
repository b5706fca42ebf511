//! A whole bridge whose broker is on the other side of a proxy, alike for Kafka and NATS.

use attio_bridge::pipeline::publish::Bus;

use super::bridge::{Bridge, config};
use super::consumer::Found;
use super::kafka::Broker;
use super::load::ready;
use super::mix::Want;
use super::nats::Server;
use super::nats::bench::stream_name;
use super::proxy::Proxy;
use super::unique;

/// A broker behind a proxy, and what it holds.
pub trait Far: Sized + Send + Sync + 'static {
    /// Whether the broker itself stores a message only once, whoever sends it again.
    const KNOWS_DUPLICATES: bool;

    /// A fresh broker.
    fn new() -> Self;
    /// What stands before it.
    fn proxy(&self) -> &Proxy;
    /// What every topic and subject begins with.
    fn prefix(&self) -> &str;
    /// What a bridge is told to get to it through the proxy.
    fn variables(&self) -> Vec<(&'static str, String)>;
    /// Everything that is stored; read past the proxy.
    fn found(&self) -> Found;
    /// How often one event is stored.
    fn copies(&self, id: &str, want: &Want) -> usize;
    /// It stands still, connections and all.
    fn pause(&self);
    /// It goes on.
    fn resume(&self);
    /// It ends at once.
    fn kill(&self);
    /// It is there again, with all its data.
    fn restart(&self);

    /// A bridge onto it, ready.
    fn bridge(&self, more: &[(&str, &str)]) -> impl Future<Output = Bridge<dyn Bus>> + Send {
        let own = self.variables();
        let mut variables: Vec<_> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
        variables.extend_from_slice(more);
        let config = config(&variables);
        async {
            let bridge = Bridge::serving(config).await;
            ready(&bridge).await;
            bridge
        }
    }
}

/// A real Kafka.
pub struct FarKafka {
    broker: Broker,
    proxy: Proxy,
    prefix: String,
}

impl Far for FarKafka {
    const KNOWS_DUPLICATES: bool = false;

    fn new() -> Self {
        let (broker, proxy) = Broker::start_behind_a_proxy();
        Self { broker, proxy, prefix: unique("far") }
    }

    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn prefix(&self) -> &str {
        &self.prefix
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ATTIO_BRIDGE__BUS__TYPE", "kafka".into()),
            ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", self.proxy.addr().to_string()),
            ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "create".into()),
            ("ATTIO_BRIDGE__ROUTE__PREFIX", self.prefix.clone()),
        ]
    }

    fn found(&self) -> Found {
        Found::on(&self.broker, &self.prefix)
    }

    fn copies(&self, id: &str, want: &Want) -> usize {
        Found::on_topics(&self.broker, [want.topic.clone()]).copies(id)
    }

    fn pause(&self) {
        self.broker.pause();
    }

    fn resume(&self) {
        self.broker.resume();
    }

    fn kill(&self) {
        self.broker.kill();
    }

    fn restart(&self) {
        self.broker.restart();
    }
}

/// A real NATS.
pub struct FarNats {
    server: Server,
    proxy: Proxy,
    prefix: String,
    stream: String,
}

impl Far for FarNats {
    const KNOWS_DUPLICATES: bool = true;

    fn new() -> Self {
        let server = Server::start();
        let proxy = Proxy::start(server.url().trim_start_matches("nats://").parse().expect("an address"));
        Self { server, proxy, prefix: unique("far"), stream: stream_name("far") }
    }

    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn prefix(&self) -> &str {
        &self.prefix
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ATTIO_BRIDGE__BUS__TYPE", "nats".into()),
            ("ATTIO_BRIDGE__NATS__SERVERS", format!("nats://{}", self.proxy.addr())),
            ("ATTIO_BRIDGE__NATS__STREAM__NAME", self.stream.clone()),
            // Retries wait for a publish that has lost its ack until that is given up.
            ("ATTIO_BRIDGE__NATS__PUBLISH_TIMEOUT", "2s".into()),
            ("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "create".into()),
            ("ATTIO_BRIDGE__ROUTE__PREFIX", self.prefix.clone()),
        ]
    }

    fn found(&self) -> Found {
        Found::in_stream(&self.server, &self.stream, &self.prefix)
    }

    fn copies(&self, id: &str, _: &Want) -> usize {
        self.found().copies(id)
    }

    fn pause(&self) {
        self.server.pause();
    }

    fn resume(&self) {
        self.server.resume();
    }

    fn kill(&self) {
        self.server.kill();
    }

    fn restart(&self) {
        self.server.restart();
    }
}
