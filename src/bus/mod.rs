//! The buses: adapters behind the port of [`crate::pipeline::publish`].
//!
//! This file alone knows which adapter a configuration asks for. What the adapters share is in leaf modules that
//! import none of them: [`error`], [`mod@inspect`], [`mod@read`].

pub mod kafka;
pub mod nats;
pub mod stdout;
pub mod error;
pub mod inspect;
pub mod read;
pub mod recording;
pub mod setup;
pub mod state;
pub mod states;

use std::sync::Arc;
use std::time::Duration;

use crate::cloudevent::ContentMode;
use crate::metrics::BusMetrics;
use crate::pipeline::publish::{Bus, Message};
use crate::supervise::Supervisor;
pub use error::{ReadError, StartError};
use inspect::{Level, Report, Requirements};
use read::{EncodedMessage, Plan, Reader};

/// Which bus, and how events are encoded for it.
#[derive(Clone, Debug)]
pub struct Options {
    pub kind: Kind,
    pub content_mode: ContentMode,
}

/// A bus with its own options.
#[derive(Clone, Debug)]
pub enum Kind {
    Kafka(Box<kafka::Options>),
    Nats(Box<nats::Options>),
    /// JSON Lines on standard output.
    Stdout,
}

impl Kind {
    /// The label of its metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Nats(_) => "nats",
            Self::Stdout => "stdout",
        }
    }

    /// The longest time from enqueueing a message to its result.
    pub const fn publish_timeout(&self) -> Duration {
        match self {
            Self::Kafka(options) => options.publish_timeout,
            Self::Nats(options) => options.publish_timeout,
            Self::Stdout => Duration::from_secs(5),
        }
    }
}

/// Checks that a client can be created from the options, as [`start`] will, without contacting a broker.
pub fn check(options: &Options, requirements: &Requirements) -> Result<(), StartError> {
    match &options.kind {
        Kind::Kafka(options) => kafka::check(options, requirements),
        Kind::Nats(options) => nats::check(options),
        Kind::Stdout => Ok(()),
    }
}

/// Starts the bus of these options for what will be published to it. `supervisor` runs its tasks and threads.
pub fn start(
    options: Options,
    requirements: &Requirements,
    metrics: BusMetrics,
    supervisor: &Supervisor,
) -> Result<Arc<dyn Bus>, StartError> {
    let Options { kind, content_mode } = options;
    Ok(match kind {
        Kind::Kafka(options) => {
            kafka::Kafka::start(*options, requirements, content_mode, metrics, supervisor)?
        }
        Kind::Nats(options) => {
            let destinations = requirements.destinations.clone();
            nats::Nats::start(*options, destinations, content_mode, metrics, supervisor)?
        }
        Kind::Stdout => stdout::Stdout::start(metrics, supervisor)?,
    })
}

/// Checks that a bus meets the requirements, without publishing. Takes about ten seconds at most. Fails
/// only if no client can be made of the options.
pub async fn inspect(options: Options, requirements: Requirements) -> Result<Report, StartError> {
    match options.kind {
        Kind::Kafka(options) => kafka::inspect(*options, requirements).await,
        Kind::Nats(options) => nats::inspect(*options, requirements).await,
        Kind::Stdout => {
            let mut report = Report::new("stdout", "this process");
            report.add("reachable", Level::Ok, "one event per line, for pipes; no broker to reach");
            Ok(report)
        }
    }
}

/// Starts to read a bus: everything stored from `plan.begin` on, before or after this returns.
pub async fn read(kind: &Kind, plan: Plan) -> Result<Reader, ReadError> {
    match kind {
        Kind::Kafka(options) => {
            Reader::start(async |sink, stop| kafka::read((**options).clone(), plan, sink, stop).await).await
        }
        Kind::Nats(options) => {
            Reader::start(async |sink, stop| nats::read((**options).clone(), plan, sink, stop).await).await
        }
        Kind::Stdout => Err(ReadError::Stdout),
    }
}

/// Encodes a message as the bus would store it; the error is why the bus would not accept it.
pub fn encode(options: &Options, message: &Message) -> Result<EncodedMessage, String> {
    match &options.kind {
        Kind::Kafka(_) => Ok(kafka::encode(message, options.content_mode)),
        Kind::Nats(nats) => nats::encode(message, options.content_mode, &nats.stream.name),
        Kind::Stdout => Ok(EncodedMessage { headers: Vec::new(), payload: stdout::line(message) }),
    }
}
