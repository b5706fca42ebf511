//! The port: all that the pipeline knows of a bus.
//!
//! A bus accepts a [`Message`] with a [`PublishHandle`] and settles the handle exactly once, on any thread.
//! Nothing that belongs to a request cancels that: the result reaches dedup even when no delivery waits for it.
//!
//! A handle holds the delivery's permit until it is settled, also after the answer was sent, so a partition
//! whose leader hangs keeps its permits until the client's timeout, and enough of them mean 503 `overloaded`
//! for every topic: that bounds the memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cloudevent::CloudEvent;
use crate::delivery::Permit;
use crate::metrics::PublishMetrics;
use crate::traces::PublishSpan;

/// Where a message is published. Built at start from the closed route table.
#[derive(Debug, PartialEq, Eq)]
pub struct Destination {
    /// `<prefix>.<category>`: the Kafka topic, or the first part of the NATS subject.
    pub address: Arc<str>,
    /// The NATS subject, `<address>.<action>`.
    pub subject: Arc<str>,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub destination: Arc<Destination>,
    /// Its content. The `partitionkey` is the message key.
    pub event: CloudEvent,
    /// 32 hex digits, the same on every retry: `Nats-Msg-Id`.
    pub dedup_key: String,
    /// True for quarantine, which is structured in every content mode.
    pub structured_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// True if the broker had stored a message with this dedup key before.
    pub duplicate: bool,
    /// Where the broker stored it; none if the bus has no positions.
    pub position: Option<Position>,
}

/// The place of a message in a topic or a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    Offset { partition: i32, offset: i64 },
    Sequence(u64),
}

/// Why a message was not acknowledged. `detail` is the error of the client or the broker, for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker is unreachable or cannot accept writes now. The message may still be stored later.
    #[error("broker unavailable: {detail}")]
    Unavailable { detail: Arc<str> },
    /// No ack in time. Unknown, never "not stored".
    #[error("no ack from the broker in time: {detail}")]
    Timeout { detail: Arc<str> },
    /// Refused because of the broker's configuration: no such topic or stream, not authorised. A retry succeeds
    /// once that is fixed; the bridge needs no restart.
    #[error("refused by the broker: {detail}")]
    Refused { detail: Arc<str> },
    /// The broker will never accept this event. It goes to quarantine.
    #[error("permanently rejected by the broker: {detail}")]
    Rejected { detail: Arc<str> },
    /// The client's queue is full. Nothing was enqueued.
    #[error("too many messages waiting for the broker: {detail}")]
    Busy { detail: Arc<str> },
    /// The store that replicas share is away, and nothing is to be published without it. Nothing was enqueued.
    #[error("the dedup store is unavailable: {detail}")]
    StoreUnavailable { detail: Arc<str> },
    /// The handle was dropped unsettled: a bug in a bus, or the process is ending.
    #[error("the publish was abandoned")]
    Abandoned,
}

impl PublishError {
    pub(super) fn answer_overdue() -> Self {
        Self::Timeout { detail: "the answer was due before the ack".into() }
    }

    /// The closed label of `publish_attempts_total`.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Timeout { .. } => "timeout",
            Self::Refused { .. } => "refused",
            Self::Rejected { .. } => "rejected",
            Self::Busy { .. } => "busy",
            Self::StoreUnavailable { .. } => "store_unavailable",
            Self::Abandoned => "abandoned",
        }
    }

    /// Every label of an attempt, and `acknowledged`. What the store refuses is never attempted.
    pub const LABELS: [&str; 7] =
        ["acknowledged", "unavailable", "timeout", "refused", "rejected", "busy", "abandoned"];
}

pub type PublishResult = Result<Ack, PublishError>;

/// Receives the result of one publish, once.
pub trait AckCallback: Send + Sync {
    /// Remembers or forgets the key, and wakes the tasks that await the ack.
    fn settle(self: Box<Self>, result: PublishResult);
}

/// The obligation to report one result. Dropping it reports [`PublishError::Abandoned`].
pub struct PublishHandle {
    callback: Option<Box<dyn AckCallback>>,
    metrics: Arc<PublishMetrics>,
    started: Instant,
    span: Option<Box<PublishSpan>>,
    /// Held until the handle is settled.
    _permit: Option<Permit>,
}

impl PublishHandle {
    /// A handle that counts as in flight until it is settled.
    pub fn new(callback: Box<dyn AckCallback>, metrics: Arc<PublishMetrics>, permit: Option<Permit>) -> Self {
        metrics.in_flight.inc();
        Self { callback: Some(callback), metrics, started: Instant::now(), span: None, _permit: permit }
    }

    /// The same with a span, which ends with the result.
    pub fn traced(mut self, span: Option<PublishSpan>) -> Self {
        self.span = span.map(Box::new);
        self
    }

    /// Reports the result.
    pub fn settle(mut self, result: PublishResult) {
        self.report(result);
    }

    fn report(&mut self, result: PublishResult) {
        let Some(callback) = self.callback.take() else { return };
        self.metrics.in_flight.dec();
        self.metrics.duration.observe(self.started.elapsed().as_secs_f64());
        self.metrics.attempt(result.as_ref().map_or_else(PublishError::label, |_| "acknowledged"));
        if let Some(span) = self.span.take() {
            end(*span, &result);
        }
        callback.settle(result);
    }
}

impl Drop for PublishHandle {
    fn drop(&mut self) {
        self.report(Err(PublishError::Abandoned));
    }
}

fn end(span: PublishSpan, result: &PublishResult) {
    match result {
        Ok(ack) => {
            let position = match ack.position {
                Some(Position::Offset { partition, offset }) => vec![
                    ("messaging.destination.partition.id", partition.to_string().as_str().into()),
                    ("messaging.kafka.offset", offset.into()),
                ],
                Some(Position::Sequence(sequence)) => {
                    vec![("attio_bridge.sequence", i64::try_from(sequence).unwrap_or(i64::MAX).into())]
                }
                None => Vec::new(),
            };
            span.end(position, None);
        }
        Err(error) => span.end(vec![("error.type", error.label().into())], Some(error.to_string())),
    }
}

/// The state of the broker, as far as the client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusState {
    /// Not reached since the start, or not ready to publish (topics are missing, the client is not warm).
    Starting,
    Up,
    /// Known to be unreachable.
    Down,
}

/// Which brokers acknowledge. What other brokers have acknowledged is not stored in these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerIdentity {
    /// `kafka <cluster id>`, `nats <stream>, created <time>`; for a bus without brokers its name.
    pub brokers: String,
    /// The addresses that are known, each with the id of its topic, or nothing where there are no such ids. None for a
    /// bus without brokers.
    pub addresses: Option<BTreeMap<String, String>>,
}

impl BrokerIdentity {
    pub fn new(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), addresses: None }
    }

    /// Whether both are the same: an address that both know has one id, and there is such an address.
    pub fn matches(&self, other: &Self) -> bool {
        let same = match (&self.addresses, &other.addresses) {
            (Some(ours), Some(theirs)) if !ours.is_empty() && !theirs.is_empty() => {
                let mut common =
                    ours.iter().filter_map(|(name, id)| Some((id, theirs.get(name)?))).peekable();
                common.peek().is_some() && common.all(|(ours, theirs)| ours == theirs)
            }
            _ => true,
        };
        self.brokers == other.brokers && same
    }

    /// Whether it knows what the other one knows.
    pub fn includes(&self, other: &Self) -> bool {
        let knows = |(name, id): (&String, &String)| {
            self.addresses.as_ref().is_some_and(|ours| ours.get(name) == Some(id))
        };
        self.brokers == other.brokers && other.addresses.iter().flatten().all(knows)
    }

    /// Whether it is known what this address is now.
    pub fn knows(&self, address: &str) -> bool {
        self.addresses.as_ref().is_none_or(|addresses| addresses.contains_key(address))
    }

    /// Adds what the other one knows.
    pub fn learn(&mut self, other: &Self) {
        let known = other.addresses.clone().unwrap_or_default();
        if let Some(ours) = &mut self.addresses {
            ours.extend(known);
        }
    }
}

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub trait Bus: Send + Sync + 'static {
    /// `kafka`, `nats`, `stdout` or `memory`: the label of its metrics.
    fn name(&self) -> &'static str;

    /// Enqueues a message with the client; never waits for the broker. Messages of one partition key are stored
    /// in the order of the calls. The handle is settled exactly once.
    fn publish(&self, message: Message, handle: PublishHandle);

    fn state(&self) -> BusState;

    /// Why it is still [`BusState::Starting`], for the operator.
    fn not_ready_reason(&self) -> Option<Arc<str>> {
        None
    }

    /// What may lose events that the broker has acknowledged, for the operator.
    fn warning(&self) -> Option<Arc<str>> {
        None
    }

    /// Which brokers these are: none until they have told. It stays what it was while they are away.
    fn identity(&self) -> Option<Arc<BrokerIdentity>> {
        Some(Arc::new(BrokerIdentity::new(self.name())))
    }

    /// How often the broker was found without what it had acknowledged: its data was replaced. Dedup forgets its
    /// ids when this changes.
    fn data_losses(&self) -> u64 {
        0
    }

    /// Waits at most `within` until every enqueued message has a result; returns the number without one.
    fn flush(&self, within: Duration) -> BoxFuture<'_, u64>;
}
