//! The port: what the pipeline asks of a bus, and the only thing it knows of one.
//!
//! A bus takes a [`Message`] together with a [`PublishHandle`] and settles the handle exactly once, from
//! whatever thread hears of the broker's word. Nothing that belongs to a request can cancel that:
//! the verdict reaches the dedup memory even when everybody has stopped waiting.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cloudevent::CloudEvent;
use crate::delivery::Permit;
use crate::metrics::PublishMetrics;

/// Where a message goes. Built once at start from the closed route table.
#[derive(Debug, PartialEq, Eq)]
pub struct Destination {
    /// The topic, `<prefix>.<category>`; on NATS the subject's stem.
    pub address: Arc<str>,
    /// The NATS subject, `<address>.<action>`.
    pub subject: Arc<str>,
}

/// One event on its way to the broker.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where it goes.
    pub destination: Arc<Destination>,
    /// What goes there. Its `partitionkey` is the key of the message.
    pub event: CloudEvent,
    /// The bus-wide identity of the message: 32 hex digits, the same on every retry.
    pub dedup_key: String,
    /// True for quarantine, which is always structured whatever the content mode.
    pub structured_only: bool,
}

/// The broker's ack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// True when the broker already had the message under this id.
    pub duplicate: bool,
}

/// Why a message was not acknowledged. `detail` is for the log: what the client or broker said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker cannot be reached, or cannot take writes now. The message may still arrive later.
    #[error("broker unavailable: {detail}")]
    Unavailable {
        /// What the client or the broker said.
        detail: Arc<str>,
    },
    /// No verdict in time. Unknown, never "not stored".
    #[error("no ack from the broker in time: {detail}")]
    Timeout {
        /// What the client or the broker said.
        detail: Arc<str>,
    },
    /// The operator's fault: no such topic or stream, not authorised. Heals without a restart.
    #[error("refused by the broker: {detail}")]
    Refused {
        /// What the client or the broker said.
        detail: Arc<str>,
    },
    /// The event's own fault: the broker will never take it. It goes to quarantine.
    #[error("never to be taken by the broker: {detail}")]
    Rejected {
        /// What the client or the broker said.
        detail: Arc<str>,
    },
    /// The client's queue is full. Nothing was enqueued.
    #[error("too many messages waiting for the broker: {detail}")]
    Busy {
        /// What the client or the broker said.
        detail: Arc<str>,
    },
    /// The handle was dropped without a verdict: a bug in a bus, or the process is going down.
    #[error("the publish was abandoned")]
    Abandoned,
}

impl PublishError {
    /// The closed label of `publish_attempts_total`.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Timeout { .. } => "timeout",
            Self::Refused { .. } => "refused",
            Self::Rejected { .. } => "rejected",
            Self::Busy { .. } => "busy",
            Self::Abandoned => "abandoned",
        }
    }

    /// Every label, and `acknowledged`.
    pub const LABELS: [&str; 7] =
        ["acknowledged", "unavailable", "timeout", "refused", "rejected", "busy", "abandoned"];
}

/// What became of a publish.
pub type PublishResult = Result<Ack, PublishError>;

/// Told the verdict of one publish, once.
pub trait AckCallback: Send + Sync {
    /// Remembers or forgets, and wakes whoever waits.
    fn settle(self: Box<Self>, verdict: PublishResult);
}

/// The obligation to report one verdict. Dropping it reports [`PublishError::Abandoned`].
pub struct PublishHandle {
    settle: Option<Box<dyn AckCallback>>,
    metrics: Arc<PublishMetrics>,
    started: Instant,
    /// Keeps the delivery's place in the in-flight budget until the verdict is in.
    _permit: Option<Permit>,
}

impl PublishHandle {
    /// A handle that counts itself as in flight until it is settled.
    pub fn new(settle: Box<dyn AckCallback>, metrics: Arc<PublishMetrics>, permit: Option<Permit>) -> Self {
        metrics.in_flight.inc();
        Self { settle: Some(settle), metrics, started: Instant::now(), _permit: permit }
    }

    /// Reports the verdict.
    pub fn settle(mut self, verdict: PublishResult) {
        self.report(verdict);
    }

    fn report(&mut self, verdict: PublishResult) {
        let Some(settle) = self.settle.take() else { return };
        self.metrics.in_flight.dec();
        self.metrics.duration.observe(self.started.elapsed().as_secs_f64());
        self.metrics.attempt(verdict.as_ref().map_or_else(PublishError::label, |_| "acknowledged"));
        settle.settle(verdict);
    }
}

impl Drop for PublishHandle {
    fn drop(&mut self) {
        self.report(Err(PublishError::Abandoned));
    }
}

/// What the client knows of its broker, without asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusState {
    /// Not reached since the start, or not yet fit to publish (topics missing, client not warm).
    Starting,
    /// Reached.
    Up,
    /// Known to be unreachable.
    Down,
}

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A bus the pipeline publishes to.
pub trait Bus: Send + Sync + 'static {
    /// `kafka`, `nats`, `stdout` or `memory`: the label of its metrics.
    fn name(&self) -> &'static str;

    /// Hands a message to the client. Never waits for the broker; messages handed over one after
    /// the other for one partition key are stored in that order. The handle is settled exactly once.
    fn publish(&self, message: Message, handle: PublishHandle);

    /// What the client knows of its broker now.
    fn state(&self) -> BusState;

    /// What it waits for while it is [`BusState::Starting`], in words for the operator, where it knows.
    fn not_ready_reason(&self) -> Option<Arc<str>> {
        None
    }

    /// Waits until everything handed over has its verdict, at most `within`; then the number of
    /// messages still without one.
    fn flush(&self, within: Duration) -> BoxFuture<'_, u64>;
}
