//! The Kafka adapter on a broker, with its metrics.

use std::sync::Arc;

use attio_bridge::bus::inspect::Requirements;
use attio_bridge::bus::kafka::{Kafka, Options};
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::metrics::Metrics;
use attio_bridge::pipeline::publish::{Bus, BusState, Message, PublishResult};
use attio_bridge::supervise::Supervisor;

use super::Broker;
use crate::support::bus::{self, Awaited, message};
use crate::support::wait::eventually_blocking;

/// A bus with its metrics.
pub struct Bench {
    /// The adapter.
    pub bus: Arc<Kafka>,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
}

impl Bench {
    /// Started, without waiting for a state.
    pub fn start(broker: &Broker, topics: &[&str], change: impl FnOnce(&mut Options)) -> Self {
        Self::start_in(broker, topics, ContentMode::Structured, change)
    }

    /// Started in a content mode, without waiting for a state.
    pub fn start_in(
        broker: &Broker,
        topics: &[&str],
        mode: ContentMode,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let mut options = Options::new(broker.bootstrap());
        change(&mut options);
        Self::with(options, topics, mode)
    }

    /// Started with these options.
    pub fn with(options: Options, topics: &[&str], mode: ContentMode) -> Self {
        let metrics = bus::metrics("kafka", topics);
        let requirements = Requirements {
            destinations: Vec::new(),
            addresses: topics.iter().map(|topic| Arc::from(*topic)).collect(),
            quarantine: "quarantine".into(),
            max_body_bytes: 524_288,
        };
        let bus = Kafka::start(options, &requirements, mode, metrics.bus(), &Supervisor::detached())
            .expect("the options are good");
        Self { bus, metrics }
    }

    /// Started and up.
    pub fn up(broker: &Broker, topics: &[&str]) -> Self {
        Self::start(broker, topics, |_| {}).wait_for(BusState::Up)
    }

    /// Waits for a state, and returns itself.
    pub fn wait_for(self, state: BusState) -> Self {
        self.until(state);
        self
    }

    /// Waits for a state.
    pub fn until(&self, state: BusState) {
        eventually_blocking(&format!("the bus is {state:?}"), || self.bus.state() == state);
    }

    /// Publishes a message.
    pub fn publish(&self, message: Message) -> Awaited {
        bus::publish(&*self.bus, &self.metrics, message)
    }

    /// The result of a small message.
    pub fn result(&self, topic: &str) -> PublishResult {
        self.publish(message(topic, "rec-1", "{}")).wait()
    }
}
