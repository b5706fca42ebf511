//! The reading port: reads what is stored on a bus.
//!
//! A reader joins no consumer group, commits nothing and leaves nothing durable behind.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::ReadError;
use crate::pipeline::publish::Destination;

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the oldest message.
    Beginning,
    /// At the first message stored at that time or later.
    At(OffsetDateTime),
    /// At the next message.
    Now,
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The destinations to read.
    pub destinations: Vec<Arc<Destination>>,
    /// Where to start.
    pub begin: Begin,
    /// Whether to continue with new messages once everything has been read.
    pub follow: bool,
}

/// The addresses of these destinations, sorted, each once.
pub(super) fn addresses(destinations: &[Arc<Destination>]) -> Vec<Arc<str>> {
    let mut addresses: Vec<_> = destinations.iter().map(|to| Arc::clone(&to.address)).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// A stored message.
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
    /// When the broker stored it.
    pub stored_at: Option<OffsetDateTime>,
    /// Its position.
    pub position: Position,
}

/// The position of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Position {
    /// On Kafka.
    Kafka {
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
    /// On NATS.
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

/// Messages that were read and not yet taken: few, because each may be as large as the broker accepts.
const QUEUE: usize = 8;

/// Where an adapter's reader puts what it reads.
pub(super) type Sink = mpsc::Sender<Result<Item, ReadError>>;

type Items = mpsc::Receiver<Result<Item, ReadError>>;

/// What a reading task writes to, what [`Reader`] takes from, and what stops the task.
pub(super) fn channel() -> (Sink, Items, CancellationToken) {
    let (sink, items) = mpsc::channel(QUEUE);
    (sink, items, CancellationToken::new())
}

/// A running reader. Dropped, it stops in the background.
pub struct Reader {
    items: Items,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Reader {
    pub(super) fn new(items: Items, stop: CancellationToken, task: JoinHandle<()>) -> Self {
        Self { items, stop: stop.drop_guard(), task }
    }

    /// The next message; none at the end of what was asked for. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Item, ReadError>> {
        self.items.recv().await
    }

    /// Stops reading, and waits until the reader has left nothing on the broker.
    pub async fn end(self) {
        let Self { items, stop, task } = self;
        drop((stop, items));
        // A panic was logged where it happened.
        let _ = task.await;
    }
}
