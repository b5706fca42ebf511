//! Messages as a bus stores them, and the reading port: a reader joins no consumer group, commits nothing and leaves
//! nothing durable behind.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::ReadError;
use crate::pipeline::publish::Destination;

/// A message as a bus would store it, for `explain`; topic or subject, and the key, are those of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedMessage {
    pub headers: Vec<(String, String)>,
    pub payload: Vec<u8>,
}

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
    pub destinations: Vec<Arc<Destination>>,
    pub begin: Begin,
    /// Whether to continue with new messages once everything has been read.
    pub follow: bool,
}

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its topic or subject.
    pub address: String,
    /// NATS has none.
    pub key: Option<Bytes>,
    pub headers: Vec<(String, Bytes)>,
    pub payload: Bytes,
    /// By the broker's clock.
    pub stored_at: Option<OffsetDateTime>,
    pub position: Position,
}

/// The position of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Position {
    Kafka { partition: i32, offset: i64 },
    Nats { sequence: u64 },
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kafka { partition, offset } => write!(f, "partition {partition}, offset {offset}"),
            Self::Nats { sequence } => write!(f, "sequence {sequence}"),
        }
    }
}

/// Messages that wait to be taken, and those that were taken at once: few, because each may be as large as the broker
/// accepts.
const QUEUE: usize = 8;

/// Where an adapter's reader puts what it reads.
pub(super) type Sink = mpsc::Sender<Result<Item, ReadError>>;

/// A running reader. Dropped, it stops in the background.
pub struct Reader {
    items: mpsc::Receiver<Result<Item, ReadError>>,
    /// What was taken of them at once, the next one last: whoever reads is woken once for all of it.
    taken: Vec<Result<Item, ReadError>>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Reader {
    /// Starts a task that reads into the sink until the token is cancelled.
    pub(super) async fn start(
        begin: impl AsyncFnOnce(Sink, CancellationToken) -> Result<JoinHandle<()>, ReadError>,
    ) -> Result<Self, ReadError> {
        let ((sink, items), stop) = (mpsc::channel(QUEUE), CancellationToken::new());
        let task = begin(sink, stop.clone()).await?;
        Ok(Self { items, taken: Vec::with_capacity(QUEUE), stop: stop.drop_guard(), task })
    }

    /// The next message; none at the end of what was asked for. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Item, ReadError>> {
        if self.taken.is_empty() {
            self.items.recv_many(&mut self.taken, QUEUE).await;
            self.taken.reverse();
        }
        self.taken.pop()
    }

    /// Stops reading, and waits until the reader has left nothing on the broker.
    pub async fn end(self) {
        let Self { items, stop, task, .. } = self;
        drop((stop, items));
        // A panic was logged where it happened.
        let _ = task.await;
    }
}
