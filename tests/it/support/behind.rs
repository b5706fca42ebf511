//! A bridge in this process whose real broker stands behind a proxy. The test itself reads the broker
//! past the proxy.

use std::net::SocketAddr;

use attio_bridge::pipeline::publish::Bus;

use super::bridge::{Bridge, config};
use super::consumer::Found;
use super::kafka::{Broker, Layout, free_ports};
use super::load::ready;
use super::nats::Server;
use super::nats::place::Place;
use super::proxy::Proxy;
use super::unique;

/// The broker behind the proxy.
enum Real {
    Kafka { broker: Broker, prefix: String },
    Nats { server: Server, place: Place },
}

/// All of it.
pub struct Behind {
    real: Real,
    pub proxy: Proxy,
    pub bridge: Bridge<dyn Bus>,
}

impl Behind {
    /// With a Kafka of its own, ready.
    pub async fn kafka(more: &[(&str, &str)]) -> Self {
        let [proxied] = free_ports();
        let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], proxied)));
        let broker = Broker::start_where(|client, controller| behind(client, controller, proxied, &proxy));
        let (prefix, address) = (unique("behind"), proxy.address().to_string());
        let mut variables = vec![
            ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
            ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", &*address),
            ("ATTIO_BRIDGE__ROUTE__PREFIX", &*prefix),
            ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "create"),
        ];
        variables.extend_from_slice(more);
        let bridge = Bridge::serving(config(&variables)).await;
        ready(&bridge).await;
        Self { real: Real::Kafka { broker, prefix }, proxy, bridge }
    }

    /// With a NATS of its own, ready.
    pub async fn nats(more: &[(&str, &str)]) -> Self {
        let (server, place) = (Server::start(), Place::new("behind"));
        let url = server.url();
        let proxy = Proxy::start(url.trim_start_matches("nats://").parse().unwrap());
        let url = format!("nats://{}", proxy.address());
        let mut variables = vec![("ATTIO_BRIDGE__NATS__SERVERS", &*url)];
        variables.extend_from_slice(more);
        let bridge = place.bridge(&server, &variables).await;
        ready(&bridge).await;
        Self { real: Real::Nats { server, place }, proxy, bridge }
    }

    /// The first part of its topics or subjects.
    pub fn prefix(&self) -> &str {
        match &self.real {
            Real::Kafka { prefix, .. } => prefix,
            Real::Nats { place, .. } => &place.prefix,
        }
    }

    /// Whether the broker itself stores a message once that comes again.
    pub fn knows_duplicates(&self) -> bool {
        matches!(self.real, Real::Nats { .. })
    }

    /// What a consumer finds.
    pub fn found(&self) -> Found {
        match &self.real {
            Real::Kafka { broker, prefix } => Found::on(broker, prefix),
            Real::Nats { server, place } => Found::in_stream(server, &place.stream, &place.prefix),
        }
    }

    /// Freezes the broker.
    pub fn pause(&self) {
        match &self.real {
            Real::Kafka { broker, .. } => broker.pause(),
            Real::Nats { server, .. } => server.pause(),
        }
    }

    /// It goes on.
    pub fn resume(&self) {
        match &self.real {
            Real::Kafka { broker, .. } => broker.resume(),
            Real::Nats { server, .. } => server.resume(),
        }
    }
}

/// A node with one more listener, which tells its clients that it is where the proxy is.
pub fn behind(client: u16, controller: u16, proxied: u16, proxy: &Proxy) -> Layout {
    let here = |name: &str, port: u16| format!("{name}://127.0.0.1:{port}");
    let [plain, own] = [here("PLAIN", client), here("PROXIED", proxied)];
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let properties = vec![
        pair("listeners", [&*plain, &here("CTRL", controller), &own].join(",")),
        pair("advertised.listeners", format!("{plain},{}", here("PROXIED", proxy.address().port()))),
        pair("listener.security.protocol.map", "PLAIN:PLAINTEXT,CTRL:PLAINTEXT,PROXIED:PLAINTEXT".to_owned()),
    ];
    Layout { properties, ..Layout::default() }
}
