//! Brokers behind a proxy that can break the network between them and the bridge.

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

/// A broker behind a proxy.
pub trait ProxiedBroker: Sized + Send + Sync + 'static {
    /// Whether the broker deduplicates messages.
    const DEDUPLICATES: bool;

    /// Starts a broker and its proxy.
    fn new() -> Self;
    /// The proxy before the broker.
    fn proxy(&self) -> &Proxy;
    /// The prefix of every topic and subject.
    fn prefix(&self) -> &str;
    /// The variables of a bridge that connects through the proxy.
    fn variables(&self) -> Vec<(&'static str, String)>;
    /// All stored messages, read without the proxy.
    fn found(&self) -> Found;
    /// The number of stored copies of an event.
    fn copies(&self, id: &str, want: &Want) -> usize;
    /// Freezes the broker; its connections stay open.
    fn pause(&self);
    /// Ends the freeze.
    fn resume(&self);
    /// Kills the broker.
    fn kill(&self);
    /// Restarts the broker with its data.
    fn restart(&self);

    /// Starts a bridge that connects through the proxy, and waits until it is ready.
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
pub struct ProxiedKafka {
    broker: Broker,
    proxy: Proxy,
    prefix: String,
}

impl ProxiedBroker for ProxiedKafka {
    const DEDUPLICATES: bool = false;

    fn new() -> Self {
        let (broker, proxy) = Broker::start_behind_a_proxy();
        Self { broker, proxy, prefix: unique("proxied") }
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
pub struct ProxiedNats {
    server: Server,
    proxy: Proxy,
    prefix: String,
    stream: String,
}

impl ProxiedBroker for ProxiedNats {
    const DEDUPLICATES: bool = true;

    fn new() -> Self {
        let server = Server::start();
        let proxy = Proxy::start(server.url().trim_start_matches("nats://").parse().expect("an address"));
        Self { server, proxy, prefix: unique("proxied"), stream: stream_name("proxied") }
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
            // A retry waits for the publish whose ack was lost until that times out.
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
