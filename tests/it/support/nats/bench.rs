//! The NATS adapter on a server, with its metrics.

use std::sync::Arc;

use attio_bridge::bus::nats::Ensure;
use attio_bridge::bus::nats::{Nats, Options};
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::metrics::Metrics;
use attio_bridge::pipeline::publish::{Bus, BusState, Destination, Message, PublishResult};
use attio_bridge::supervise::Supervisor;

use super::{Server, Stored, runtime};
use crate::support::bus::{self, Awaited, message};
use crate::support::unique;
use crate::support::wait::eventually_blocking;

/// A bus with its metrics, and the one stream and subject it publishes to.
pub struct Bench {
    /// The adapter.
    pub bus: Arc<Nats>,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// The name of the stream.
    pub stream: String,
    /// The subject.
    pub subject: String,
}

/// A name for a stream that no other test has used.
pub fn stream_name(stem: &str) -> String {
    unique(stem).replace('.', "-")
}

impl Bench {
    /// Started with a new name for the stream and the subject, and not waited for.
    pub fn start(server: &Server, stem: &str, change: impl FnOnce(&mut Options)) -> Self {
        Self::start_in(server, stem, ContentMode::Structured, change)
    }

    /// Started in a content mode, and not waited for.
    pub fn start_in(
        server: &Server,
        stem: &str,
        mode: ContentMode,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let mut options = Options::new([server.url()]);
        options.stream.name = stream_name(stem);
        change(&mut options);
        Self::with(options, &unique(stem), mode)
    }

    /// Started with these options, whatever server they name.
    pub fn with(options: Options, subject: &str, mode: ContentMode) -> Self {
        let metrics = bus::metrics("nats", &[subject]);
        let stream = options.stream.name.clone();
        let to = vec![Arc::new(Destination { address: subject.into(), subject: subject.into() })];
        let _runtime = runtime().enter();
        let bus = Nats::start(options, to, mode, metrics.bus(), &Supervisor::detached())
            .expect("the options are good");
        Self { bus, metrics, stream, subject: subject.into() }
    }

    /// Started and up, on a stream that it has made.
    pub fn up(server: &Server, stem: &str) -> Self {
        Self::start(server, stem, |options| options.stream.ensure = Ensure::Create).wait_for(BusState::Up)
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

    /// A new message for its subject.
    pub fn message(&self, data: &str) -> Message {
        message(&self.subject, "rec-1", data.to_owned())
    }

    /// Publishes a message.
    pub fn publish(&self, message: Message) -> Awaited {
        bus::publish(&*self.bus, &self.metrics, message)
    }

    /// The result of a small message.
    pub fn result(&self) -> PublishResult {
        self.publish(self.message("{}")).wait()
    }

    /// Everything in its stream.
    pub fn stored(&self, server: &Server) -> Vec<Stored> {
        server.read_all(&self.stream)
    }
}
