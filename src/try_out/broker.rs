//! A Kafka broker in this process: librdkafka's mock cluster. It uses the real protocol on a real port, so
//! any Kafka client of this machine can subscribe. It keeps the last 5 MB of each partition in memory and
//! nothing on disk.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};

use super::{Error, PREFIX};
use crate::catalog::Category;

const TIMEOUT: Duration = Duration::from_secs(10);

pub struct Broker(MockCluster<'static, DefaultProducerContext>);

impl Broker {
    /// Starts one with the bridge's topics, of four partitions each.
    pub fn start() -> Result<Self, Error> {
        let broker = MockCluster::new(1).map(Self).map_err(Error::Broker)?;
        broker.create_topics().map_err(Error::Broker)?;
        Ok(broker)
    }

    pub fn address(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Keeps the broker running until the process ends. The bridge's client closes on a thread of its own, and
    /// would log that the broker is gone.
    pub fn leak(self) {
        std::mem::forget(self);
    }

    /// Asking for a topic creates it. `MockCluster::create_topic` sometimes waits a second for a thread that
    /// was not woken.
    fn create_topics(&self) -> KafkaResult<()> {
        let client: BaseProducer = ClientConfig::new().set("bootstrap.servers", self.address()).create()?;
        topics().try_for_each(|topic| client.client().fetch_metadata(Some(&topic), TIMEOUT).map(drop))
    }
}

/// Every topic that the bridge publishes to.
fn topics() -> impl Iterator<Item = String> {
    let categories = Category::ALL.into_iter().map(Category::as_str);
    categories.chain(["unknown", "quarantine"]).map(|name| format!("{PREFIX}.{name}"))
}
