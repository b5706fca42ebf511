//! The buses: adapters behind the port of [`crate::pipeline::publish`].

pub mod kafka;
pub mod nats;
pub mod stdout;
pub mod memory;
pub mod inspect;
pub mod encoded;
pub mod read;
pub mod setup;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use crate::cloudevent::ContentMode;
use crate::metrics::BusMetrics;
use crate::pipeline::publish::{Bus, Destination};
use crate::supervise::Supervisor;

/// Which bus, and how events are laid out on it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which one, and how to reach it.
    pub kind: Kind,
    /// Whether an event is one JSON document, or its data with its attributes as headers.
    pub content_mode: ContentMode,
}

/// The bus, with its own options.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Apache Kafka or anything that speaks its protocol.
    Kafka(Box<kafka::Options>),
    /// NATS JetStream.
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
}

/// Why a bus cannot be made from its options. A broker that cannot be reached is no reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The thread that writes cannot be started.
    #[error("cannot start the writer of standard output: {0}")]
    Stdout(#[source] io::Error),
    /// The Kafka client cannot be made.
    #[error(transparent)]
    Kafka(#[from] kafka::StartError),
    /// The NATS client cannot be made.
    #[error(transparent)]
    Nats(#[from] nats::StartError),
}

impl StartError {
    /// The configuration key at fault and what is wrong with it; none where no setting is at fault.
    pub fn setting(&self) -> Option<(Cow<'_, str>, String)> {
        match self {
            Self::Kafka(error) => error.setting(),
            Self::Nats(error) => error.setting(),
            Self::Stdout(_) => None,
        }
    }
}

/// Checks that a client can be created from the options, as [`start`] will, without contacting a broker.
pub fn check(options: &Options) -> Result<(), StartError> {
    match &options.kind {
        Kind::Kafka(options) => Ok(kafka::check(options)?),
        Kind::Nats(options) => Ok(nats::check(options)?),
        Kind::Stdout => Ok(()),
    }
}

/// Makes the bus that the options ask for; `destinations` are all it will be asked to publish to.
/// Its tasks and threads are started by `supervisor`.
pub fn start(
    options: Options,
    destinations: Vec<Arc<Destination>>,
    metrics: BusMetrics,
    supervisor: &Supervisor,
) -> Result<Arc<dyn Bus>, StartError> {
    let Options { kind, content_mode } = options;
    match kind {
        Kind::Kafka(options) => {
            Ok(kafka::Kafka::start(*options, addresses(&destinations), content_mode, metrics, supervisor)?)
        }
        Kind::Nats(options) => {
            Ok(nats::Nats::start(*options, destinations, content_mode, metrics, supervisor)?)
        }
        Kind::Stdout => Ok(stdout::Stdout::start(metrics, supervisor).map_err(StartError::Stdout)?),
    }
}

/// Every address, each once.
fn addresses(destinations: &[Arc<Destination>]) -> Vec<Arc<str>> {
    let mut addresses: Vec<_> = destinations.iter().map(|to| Arc::clone(&to.address)).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}
