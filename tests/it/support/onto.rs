//! A bridge onto a real broker and the program beside it, told the same in variables.

use attio_bridge::pipeline::publish::Bus;

use super::bridge::{Bridge, config};
use super::kafka::Broker;
use super::load::ready;
use super::nats::Server;
use super::program::{Variables, lent, variables};

/// Topics of this prefix, made where missing.
pub fn kafka(broker: &Broker, prefix: &str, mode: &str) -> Variables {
    variables(&[
        ("BUS__TYPE", "kafka"),
        ("BUS__CONTENT_MODE", mode),
        ("KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap()),
        ("KAFKA__TOPICS__ENSURE", "create"),
        ("ROUTE__PREFIX", prefix),
    ])
}

/// A stream for subjects of this prefix, made where missing.
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

/// A bridge that is told so, ready.
pub async fn bridge(variables: &Variables) -> Bridge<dyn Bus> {
    let bridge = Bridge::serving(config(&lent(variables))).await;
    ready(&bridge).await;
    bridge
}
