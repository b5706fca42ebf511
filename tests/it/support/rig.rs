//! One set of controls for every bus: what a test of the port does to a broker.

use std::sync::Arc;
use std::time::Duration;

use attio_bridge::bus::kafka::options::Ensure as Topics;
use attio_bridge::bus::nats::options::Ensure as Stream;
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::metrics::Metrics;
use attio_bridge::pipeline::publish::{Bus, BusState, Message, PublishError};

use super::bus::{self, Awaited, message};
use super::kafka::{self, Broker};
use super::memory::{Answer, Memory};
use super::nats::{self, Server};
use super::unique;
use super::wait::{PATIENCE, eventually_blocking};

/// A bus, ready, with one destination, and the controls of its broker.
pub trait Rig: Sized {
    /// On a broker that nobody else uses. Acks are waited for so long.
    fn new(publish_timeout: Duration) -> Self;
    /// The bus.
    fn bus(&self) -> &dyn Bus;
    /// What it counts.
    fn metrics(&self) -> &Metrics;
    /// Where messages go.
    fn destination(&self) -> &str;
    /// Messages stored there.
    fn stored(&self) -> usize;
    /// From now on the broker is there and says nothing.
    fn stall(&self);
    /// It goes on.
    fn go_on(&self);
    /// The broker ends at once.
    fn kill(&self);
    /// It is there again, with all its data.
    fn restart(&self);
    /// The destination is taken away.
    fn spoil(&self);
    /// It is there again, empty.
    fn mend(&self);
    /// Whether the broker itself stores a message only once.
    const KNOWS_DUPLICATES: bool;

    /// A new message.
    fn message(&self, data: &str) -> Message {
        message(self.destination(), "rec-1", data.to_owned())
    }

    /// Hands a message over.
    fn publish(&self, message: Message) -> Awaited {
        bus::publish(self.bus(), self.metrics(), message)
    }

    /// Hands a message over that the broker does not take.
    fn publish_too_large(&self) -> Awaited {
        self.publish(self.message(&format!("\"{}\"", "x".repeat(2_000_000))))
    }
}

/// The bus in memory.
pub struct InMemory {
    bus: Arc<Memory>,
    metrics: Arc<Metrics>,
    publish_timeout: Duration,
}

impl Rig for InMemory {
    const KNOWS_DUPLICATES: bool = false;

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

    fn stall(&self) {
        if self.publish_timeout == PATIENCE {
            return self.bus.answer(Answer::Late);
        }
        // It has no clock of its own.
        self.bus.answer(Answer::Hang);
        let (bus, wait) = (Arc::clone(&self.bus), self.publish_timeout);
        std::thread::spawn(move || {
            std::thread::sleep(wait);
            bus.release();
        });
    }

    fn go_on(&self) {
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

    fn spoil(&self) {
        self.bus.answer(Answer::Fail(PublishError::Refused { detail: "memory is taken away".into() }));
    }

    fn mend(&self) {
        self.bus.answer(Answer::Acknowledge);
    }

    fn publish_too_large(&self) -> Awaited {
        self.bus.script([Answer::Fail(PublishError::Rejected { detail: "too large".into() })]);
        self.publish(self.message("{}"))
    }
}

/// A real Kafka.
pub struct OnKafka {
    broker: Broker,
    bench: kafka::bench::Bench,
    topic: String,
}

impl Rig for OnKafka {
    const KNOWS_DUPLICATES: bool = false;

    fn new(publish_timeout: Duration) -> Self {
        let broker = Broker::start();
        let topic = broker.topic("port", 1);
        let bench = kafka::bench::Bench::start_in(&broker, &[&topic], ContentMode::Structured, |options| {
            options.publish_timeout = publish_timeout;
            options.topics.ensure = Topics::Verify;
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

    fn stall(&self) {
        self.broker.pause();
    }

    fn go_on(&self) {
        self.broker.resume();
    }

    fn kill(&self) {
        self.broker.kill();
    }

    fn restart(&self) {
        self.broker.restart();
    }

    fn spoil(&self) {
        self.broker.delete_topic(&self.topic);
    }

    fn mend(&self) {
        self.broker.create_topic(&self.topic, 1, &[]);
    }
}

/// A real NATS.
pub struct OnNats {
    server: Server,
    bench: nats::bench::Bench,
}

impl Rig for OnNats {
    const KNOWS_DUPLICATES: bool = true;

    fn new(publish_timeout: Duration) -> Self {
        let server = Server::start();
        let bench = nats::bench::Bench::start(&server, &unique("port"), |options| {
            options.publish_timeout = publish_timeout;
            options.stream.ensure = Stream::Create;
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

    fn stall(&self) {
        self.server.pause();
    }

    fn go_on(&self) {
        self.server.resume();
    }

    fn kill(&self) {
        self.server.kill();
    }

    fn restart(&self) {
        self.server.restart();
    }

    fn spoil(&self) {
        self.server.delete_stream(&self.bench.stream);
    }

    fn mend(&self) {
        // The bus makes it itself, as it did at its start; to make it here too would be a race.
        eventually_blocking("the bus makes its stream again", || {
            self.server.stream(&self.bench.stream).is_some()
        });
    }
}
