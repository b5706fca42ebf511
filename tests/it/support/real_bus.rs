//! Variables for a real broker, for a bridge in this process and for the program.

use attio_bridge::pipeline::publish::Bus;

use super::bridge::{Bridge, config};
use super::kafka::Broker;
use super::load::ready;
use super::nats::Server;
use super::program::{Variables, lent, variables};

/// Topics with this prefix; missing ones are created.
pub fn kafka(broker: &Broker, prefix: &str, mode: &str) -> Variables {
    variables(&[
        ("BUS__TYPE", "kafka"),
        ("BUS__CONTENT_MODE", mode),
        ("KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap()),
        ("KAFKA__TOPICS__ENSURE", "create"),
        ("ROUTE__PREFIX", prefix),
    ])
}

/// A stream for subjects with this prefix; created if it is missing.
pub fn nats(server: &Server, stream: &str, prefix: &str, mode: &str) -> Variables {
    variables(&[
        ("BUS__TYPE", "nats"),
        ("BUS__CONTENT_MODE", mode),
        ("NATS__SERVERS", &server.url()),
        ("NATS__STREAM__NAME", stream),
        ("NATS__STREAM__ENSURE", "create"),
        ("ROUTE__PREFIX", prefix),
    ])
}

/// Starts a bridge with these variables, and waits until it is ready.
pub async fn bridge(variables: &Variables) -> Bridge<dyn Bus> {
    let bridge = Bridge::serving(config(&lent(variables))).await;
    ready(&bridge).await;
    bridge
}
