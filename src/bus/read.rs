//! The reading port: what lies on a bus, without leaving a trace there.
//!
//! A reader joins no consumer group, commits nothing and leaves nothing durable behind. It begins where
//! it is told to, and either ends once it has read what was there or goes on with what comes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Kind, kafka, nats};
use crate::pipeline::publish::Destination;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With the oldest message there is.
    Beginning,
    /// With the first message that the broker took at that time or later.
    At(OffsetDateTime),
    /// With the next message.
    Now,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The places to read.
    pub destinations: Vec<Arc<Destination>>,
    /// Where to begin.
    pub begin: Begin,
    /// Whether to go on with what comes, once everything has been read.
    pub follow: bool,
}

/// One message as it lies on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its topic or subject.
    pub address: String,
    /// Its key; NATS has none.
    pub key: Option<Bytes>,
    /// Its headers, in their order.
    pub headers: Vec<(String, Bytes)>,
    /// Its payload.
    pub payload: Bytes,
    /// When the broker took it.
    pub stored_at: Option<OffsetDateTime>,
    /// Where it lies.
    pub position: Position,
}

/// Where a message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Position {
    /// In a partition of its topic.
    Kafka {
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
    /// In its stream.
    Nats {
        /// The sequence.
        sequence: u64,
    },
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kafka { partition, offset } => write!(f, "partition {partition}, offset {offset}"),
            Self::Nats { sequence } => write!(f, "sequence {sequence}"),
        }
    }
}

/// Why a bus cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Nothing stays on standard output.
    #[error(
        "bus.type is \"stdout\": nothing stays there that could be read; set it to \"kafka\" or \"nats\""
    )]
    Stdout,
    /// The Kafka client cannot be made.
    #[error(transparent)]
    Kafka(#[from] kafka::StartError),
    /// The NATS client cannot be made.
    #[error(transparent)]
    Nats(#[from] nats::StartError),
    /// The broker cannot be reached, or does not let this client read.
    #[error("{bus} cannot be read: {reason}")]
    Broker {
        /// `kafka` or `nats`.
        bus: &'static str,
        /// What is wrong, and what to do about it.
        reason: String,
    },
}

/// Messages that have been read and not been looked at.
const QUEUE: usize = 1024;

/// What an adapter's reader writes to.
pub(super) type Sink = mpsc::Sender<Result<Item, ReadError>>;

/// A reader at work. Dropped, it stops by and by.
pub struct Reader {
    items: mpsc::Receiver<Result<Item, ReadError>>,
    stop: DropGuard,
    work: JoinHandle<()>,
}

impl Reader {
    /// Begins to read: what lies on the bus from `begin` on when this returns, or comes later, is read.
    pub async fn start(kind: &Kind, plan: Plan) -> Result<Self, ReadError> {
        let (sink, items) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        let work = match kind {
            Kind::Kafka(options) => kafka::read((**options).clone(), plan, sink, stop.clone()).await?,
            Kind::Nats(options) => nats::read((**options).clone(), plan, sink, stop.clone()).await?,
            Kind::Stdout => return Err(ReadError::Stdout),
        };
        Ok(Self { items, stop: stop.drop_guard(), work })
    }

    /// The next message; none once everything has been read and nothing is waited for. May be dropped
    /// before it is done without losing a message.
    pub async fn next(&mut self) -> Option<Result<Item, ReadError>> {
        self.items.recv().await
    }

    /// Stops reading, and waits until nothing of the reader is left on the broker.
    pub async fn end(self) {
        let Self { items, stop, work } = self;
        drop((stop, items));
        // One that panicked has said so.
        let _ = work.await;
    }
}
