//! The same controls for every bus and its broker, for the contract tests of the port.

use std::sync::Arc;
use std::time::Duration;

use attio_bridge::bus::inspect::Ensure;
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::metrics::Metrics;
use attio_bridge::pipeline::publish::{Bus, BusState, Message, PublishError};

use super::bus::{self, Awaited, message};
use super::kafka::{self, Broker};
use super::memory::{Answer, Memory};
use super::nats::{self, Server};
use super::network::Controls;
use super::unique;
use super::wait::{PATIENCE, eventually_blocking};

/// A bus that is up, with one destination, and the controls of its broker.
pub trait Harness: Sized {
    /// Starts a broker of its own, and a bus with this publish timeout.
    fn new(publish_timeout: Duration) -> Self;
    /// The bus.
    fn bus(&self) -> &dyn Bus;
    /// The metrics of the bus.
    fn metrics(&self) -> &Metrics;
    /// The topic or subject that messages are published to.
    fn destination(&self) -> &str;
    /// The number of messages stored there.
    fn stored(&self) -> usize;
    /// The broker.
    fn broker(&self) -> &dyn Controls;
    /// Deletes the destination.
    fn delete_destination(&self);
    /// Creates the destination again, empty.
    fn restore_destination(&self);
    /// Whether the broker deduplicates messages.
    const DEDUPLICATES: bool;

    /// A new message.
    fn message(&self, data: &str) -> Message {
        message(self.destination(), "rec-1", data.to_owned())
    }

    /// Publishes a message.
    fn publish(&self, message: Message) -> Awaited {
        bus::publish(self.bus(), self.metrics(), message)
    }

    /// Publishes a message that is too large for the broker.
    fn publish_too_large(&self) -> Awaited {
        self.publish(self.message(&format!("\"{}\"", "x".repeat(2_000_000))))
    }
}

/// The bus in memory.
pub struct MemoryHarness {
    bus: Arc<Memory>,
    metrics: Arc<Metrics>,
    publish_timeout: Duration,
}

impl Harness for MemoryHarness {
    const DEDUPLICATES: bool = false;

    fn new(publish_timeout: Duration) -> Self {
        Self { bus: Memory::new(), metrics: bus::metrics("memory", &["memory"]), publish_timeout }
    }

    fn bus(&self) -> &dyn Bus {
        &*self.bus
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn destination(&self) -> &str {
        "memory"
    }

    fn stored(&self) -> usize {
        self.bus.stored().len()
    }

    fn broker(&self) -> &dyn Controls {
        self
    }

    fn delete_destination(&self) {
        self.bus.answer(Answer::Fail(PublishError::Refused { detail: "memory is deleted".into() }));
    }

    fn restore_destination(&self) {
        self.bus.answer(Answer::Acknowledge);
    }

    fn publish_too_large(&self) -> Awaited {
        self.bus.script([Answer::Fail(PublishError::Rejected { detail: "too large".into() })]);
        self.publish(self.message("{}"))
    }
}

impl Controls for MemoryHarness {
    fn pause(&self) {
        if self.publish_timeout == PATIENCE {
            return self.bus.answer(Answer::Late);
        }
        // The bus in memory has no publish timeout.
        self.bus.answer(Answer::Hang);
        let (bus, wait) = (Arc::clone(&self.bus), self.publish_timeout);
        std::thread::spawn(move || {
            std::thread::sleep(wait);
            bus.release();
        });
    }

    fn resume(&self) {
        self.bus.answer(Answer::Acknowledge);
        self.bus.release();
    }

    fn kill(&self) {
        self.bus.set_state(BusState::Down);
        self.bus.answer(Answer::Fail(PublishError::Unavailable { detail: "killed".into() }));
    }

    fn restart(&self) {
        self.bus.set_state(BusState::Up);
        self.bus.answer(Answer::Acknowledge);
    }
}

/// A real Kafka.
pub struct KafkaHarness {
    broker: Broker,
    bench: kafka::bench::Bench,
    topic: String,
}

impl Harness for KafkaHarness {
    const DEDUPLICATES: bool = false;

    fn new(publish_timeout: Duration) -> Self {
        let broker = Broker::start();
        let topic = broker.topic("port", 1);
        let bench = kafka::bench::Bench::start_in(&broker, &[&topic], ContentMode::Structured, |options| {
            options.publish_timeout = publish_timeout;
            options.topics.ensure = Ensure::Verify;
        });
        Self { bench: bench.wait_for(BusState::Up), broker, topic }
    }

    fn bus(&self) -> &dyn Bus {
        &*self.bench.bus
    }

    fn metrics(&self) -> &Metrics {
        &self.bench.metrics
    }

    fn destination(&self) -> &str {
        &self.topic
    }

    fn stored(&self) -> usize {
        self.broker.read_all(&self.topic).len()
    }

    fn broker(&self) -> &dyn Controls {
        &self.broker
    }

    fn delete_destination(&self) {
        self.broker.delete_topic(&self.topic);
    }

    fn restore_destination(&self) {
        self.broker.create_topic(&self.topic, 1, &[]);
    }
}

/// A real NATS.
pub struct NatsHarness {
    server: Server,
    bench: nats::bench::Bench,
}

impl Harness for NatsHarness {
    const DEDUPLICATES: bool = true;

    fn new(publish_timeout: Duration) -> Self {
        let server = Server::start();
        let bench = nats::bench::Bench::start(&server, &unique("port"), |options| {
            options.publish_timeout = publish_timeout;
            options.stream.ensure = Ensure::Create;
        });
        Self { bench: bench.wait_for(BusState::Up), server }
    }

    fn bus(&self) -> &dyn Bus {
        &*self.bench.bus
    }

    fn metrics(&self) -> &Metrics {
        &self.bench.metrics
    }

    fn destination(&self) -> &str {
        &self.bench.subject
    }

    fn stored(&self) -> usize {
        self.bench.stored(&self.server).len()
    }

    fn broker(&self) -> &dyn Controls {
        &self.server
    }

    fn delete_destination(&self) {
        self.server.delete_stream(&self.bench.stream);
    }

    fn restore_destination(&self) {
        // The bus creates it again, as at its start; creating it here too would be a race.
        eventually_blocking("the bus creates its stream again", || {
            self.server.stream(&self.bench.stream).is_some()
        });
    }
}
