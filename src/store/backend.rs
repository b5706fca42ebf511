//! What a server of the store does for [`super::Shared`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::bus::inspect::Row;
use crate::metrics::StoreResult;
use crate::pipeline::publish::BoxFuture;
use crate::pipeline::store::Held;

/// What a server replied for one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Claimed,
    Acknowledged,
    InFlight,
    /// Unknown: the claim may have been stored.
    Failed(Arc<str>),
    /// It was not asked for.
    Skipped(Arc<str>),
}

impl Reply {
    pub(super) fn result(&self) -> StoreResult {
        match self {
            Self::Claimed => StoreResult::Claimed,
            Self::Acknowledged => StoreResult::Hit,
            Self::InFlight => StoreResult::InFlight,
            Self::Failed(_) => StoreResult::Failed,
            Self::Skipped(_) => StoreResult::Skipped,
        }
    }
}

/// A claim that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settlement {
    pub(super) held: Held,
    /// Whether the broker has acknowledged the event; else the claim is released.
    pub(super) acknowledged: bool,
}

/// What became of a settlement; an error is worth another try.
pub(super) type Settled = Result<(), Arc<str>>;

/// A value, and which of the values of its key it is, if the server tells.
pub(super) struct Stored {
    pub(super) value: Vec<u8>,
    pub(super) sequence: u64,
}

/// Awaits a reply until the deadline.
pub(super) async fn by<T>(
    deadline: Instant,
    reply: impl Future<Output = Result<T, Arc<str>>>,
) -> Result<T, Arc<str>> {
    let limit = deadline.saturating_duration_since(Instant::now());
    timeout_at(deadline, reply).await.unwrap_or_else(|_| Err(no_answer_within(limit)))
}

/// The reason of a failure, in whole milliseconds.
pub(super) fn no_answer_within(limit: Duration) -> Arc<str> {
    let limit = Duration::from_millis(limit.as_micros().div_ceil(1000).try_into().unwrap_or(u64::MAX));
    format!("no answer within {limit:?}").into()
}

/// The replies of one request: to settlements, and to claims, in their order.
pub(super) struct Replies {
    pub(super) settled: Vec<Settled>,
    pub(super) claimed: Vec<Reply>,
}

/// One connection to a server, over which many claims and settlements are best sent in one request.
pub(super) trait Connection: Send + Sync {
    /// Settles, then claims. Without a deadline.
    fn exchange(&self, settlements: Vec<Settlement>, claims: Vec<Held>) -> BoxFuture<'_, Replies>;
}

/// A store consists of parts that can fail by themselves: the slots of a cluster. Others have one.
pub(super) trait Backend: Send + Sync {
    fn parts(&self) -> usize {
        1
    }

    /// From 0.
    fn part_of(&self, _: &Held) -> usize {
        0
    }

    /// One reply for each claim, in their order, by the deadline.
    fn claim<'a>(&'a self, claims: &'a [Held], deadline: Instant) -> BoxFuture<'a, Vec<Reply>>;

    /// Remembers the acknowledged ids whoever holds their claim, and releases the other claims if they are still
    /// their owner's. May be repeated. One result for each, in their order.
    fn settle<'a>(&'a self, settlements: &'a [Settlement], deadline: Instant) -> BoxFuture<'a, Vec<Settled>>;

    /// The connection, if all requests go over one: then claims and settlements are sent together.
    fn connection(self: Arc<Self>) -> Option<Arc<dyn Connection>> {
        None
    }

    /// Connects, unless it is connected.
    fn connect(&self) -> BoxFuture<'_, Result<(), Arc<str>>>;

    /// Drops a connection that has failed.
    fn disconnect(&self);

    /// Replaces a connection of which a part has failed, once the new one is there.
    fn reconnect(&self) -> BoxFuture<'_, Result<(), Arc<str>>>;

    /// What `check --connect` reports. Creates nothing.
    fn inspect(&self) -> BoxFuture<'_, Result<Vec<Row>, Arc<str>>>;

    /// Proves that claims can be written: one result for each part.
    fn probe(&self, deadline: Instant) -> BoxFuture<'_, Vec<Result<(), Arc<str>>>>;

    fn read_register(&self) -> BoxFuture<'_, Result<Option<Stored>, Arc<str>>>;

    /// Whether a value that was read may be older than the last one that was written.
    fn reads_may_lag(&self) -> bool;

    /// Writes the register if it is still what was read; returns whether it was.
    fn write_register(&self, value: String, read: Option<Stored>) -> BoxFuture<'_, Result<bool, Arc<str>>>;
}
