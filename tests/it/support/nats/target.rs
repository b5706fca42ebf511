//! A stream and a prefix of its own for one test.

use attio_bridge::pipeline::publish::Bus;

use super::bench::stream_name;
use super::{Server, Stored};
use crate::support::bridge::{Bridge, config};
use crate::support::unique;

/// A stream and a prefix that no other test uses.
pub struct NatsTarget {
    pub prefix: String,
    pub stream: String,
}

impl NatsTarget {
    pub fn new(stem: &str) -> Self {
        Self { prefix: unique(stem), stream: stream_name(stem) }
    }

    /// Starts a bridge that publishes to the stream; it creates the stream by default.
    pub async fn bridge(&self, server: &Server, more: &[(&str, &str)]) -> Bridge<dyn Bus> {
        let url = server.url();
        let mut variables = vec![
            ("ATTIO_BRIDGE__BUS__TYPE", "nats"),
            ("ATTIO_BRIDGE__NATS__SERVERS", &*url),
            ("ATTIO_BRIDGE__NATS__STREAM__NAME", &*self.stream),
            ("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "create"),
            ("ATTIO_BRIDGE__ROUTE__PREFIX", &*self.prefix),
        ];
        variables.extend_from_slice(more);
        Bridge::serving(config(&variables)).await
    }

    /// All messages of the stream.
    pub fn stored(&self, server: &Server) -> Vec<Stored> {
        server.read_all(&self.stream)
    }
}
