//! A Kafka broker in this process: librdkafka's own mock cluster. It speaks the real protocol on a
//! real port, so any Kafka client of this machine can subscribe; it keeps the last 5 MB of each
//! partition in memory and nothing on disk.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::{Error, PREFIX};
use crate::catalog::Category;

/// Enough to show that a key keeps its partition.
const PARTITIONS: i32 = 4;

/// The broker. It ends with this value.
pub struct Broker(MockCluster<'static, DefaultProducerContext>);

impl Broker {
    /// Starts one, with every topic of the bridge.
    pub fn start() -> Result<Self, Error> {
        let cluster = MockCluster::new(1).map_err(Error::Broker)?;
        for topic in topics() {
            cluster.create_topic(&topic, PARTITIONS, 1).map_err(Error::Broker)?;
        }
        Ok(Self(cluster))
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.0.bootstrap_servers()
    }
}

/// Every topic that can be written to.
pub fn topics() -> impl Iterator<Item = String> {
    let categories = Category::ALL.into_iter().map(Category::as_str);
    categories.chain(["unknown", "quarantine"]).map(|name| format!("{PREFIX}.{name}"))
}
