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

/// A broker that can be frozen, killed and restarted.
pub trait Controls {
    /// Freezes it: connections stay open, and nothing is answered.
    fn pause(&self);
    /// Ends the freeze.
    fn resume(&self);
    /// Kills it.
    fn kill(&self);
    /// Restarts it with its data.
    fn restart(&self);
}

macro_rules! controls {
    ($($broker:ty)*) => {
        $(
            impl Controls for $broker {
                fn pause(&self) {
                    <$broker>::pause(self);
                }

                fn resume(&self) {
                    <$broker>::resume(self);
                }

                fn kill(&self) {
                    <$broker>::kill(self);
                }

                fn restart(&self) {
                    <$broker>::restart(self);
                }
            }
        )*
    };
}

controls!(Broker Server);

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
    /// The broker.
    fn broker(&self) -> &dyn Controls;

    /// [`Controls::pause`] of the broker.
    fn pause(&self) {
        self.broker().pause();
    }

    /// [`Controls::resume`] of the broker.
    fn resume(&self) {
        self.broker().resume();
    }

    /// [`Controls::kill`] of the broker.
    fn kill(&self) {
        self.broker().kill();
    }

    /// [`Controls::restart`] of the broker.
    fn restart(&self) {
        self.broker().restart();
    }

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

    fn broker(&self) -> &dyn Controls {
        &self.broker
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

    fn broker(&self) -> &dyn Controls {
        &self.server
    }
}
