//! A Kafka broker in this process: librdkafka's own mock cluster. It speaks the real protocol on a
//! real port, so any Kafka client of this machine can subscribe; it keeps the last 5 MB of each
//! partition in memory and nothing on disk.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};

use super::{Error, PREFIX};
use crate::catalog::Category;

/// How long one topic may take.
const ASK: Duration = Duration::from_secs(10);

/// The broker. It ends with this value, or with the process.
pub struct Broker(MockCluster<'static, DefaultProducerContext>);

impl Broker {
    /// Starts one, with every topic of the bridge, each of four partitions.
    pub fn start() -> Result<Self, Error> {
        let broker = MockCluster::new(1).map(Self).map_err(Error::Broker)?;
        broker.make_topics().map_err(Error::Broker)?;
        Ok(broker)
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Leaves the broker running until the process ends: the bridge's client takes its leave on a
    /// thread of its own, and would complain of a broker that has gone before it.
    pub fn outlive_its_clients(self) {
        std::mem::forget(self);
    }

    /// A topic that is asked for is made. The cluster's own call for it waits a second now and then,
    /// for a thread that was not woken.
    fn make_topics(&self) -> KafkaResult<()> {
        let client: BaseProducer = ClientConfig::new().set("bootstrap.servers", self.address()).create()?;
        topics().try_for_each(|topic| client.client().fetch_metadata(Some(&topic), ASK).map(drop))
    }
}

/// Every topic that can be written to.
fn topics() -> impl Iterator<Item = String> {
    let categories = Category::ALL.into_iter().map(Category::as_str);
    categories.chain(["unknown", "quarantine"]).map(|name| format!("{PREFIX}.{name}"))
}
