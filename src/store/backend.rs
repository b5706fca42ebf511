//! What a server of the store does for [`super::Shared`].

use std::sync::Arc;

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
}

impl Reply {
    pub(super) fn result(&self) -> StoreResult {
        match self {
            Self::Claimed => StoreResult::Claimed,
            Self::Acknowledged => StoreResult::Hit,
            Self::InFlight => StoreResult::InFlight,
            Self::Failed(_) => StoreResult::Failed,
        }
    }

    pub(super) fn error(&self) -> Option<Arc<str>> {
        if let Self::Failed(reason) = self { Some(Arc::clone(reason)) } else { None }
    }
}

/// A claim that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settlement {
    pub(super) held: Held,
    /// Whether the broker has acknowledged the event; else the claim is released.
    pub(super) acknowledged: bool,
}

pub(super) trait Backend: Send + Sync {
    /// One reply for each claim, in their order; an error where the whole request failed.
    fn claim<'a>(&'a self, claims: &'a [Held]) -> BoxFuture<'a, Result<Vec<Reply>, Arc<str>>>;

    /// Remembers the acknowledged ids whoever holds their claim, and releases the other claims if they are still
    /// their owner's. May be repeated. An error is worth another try.
    fn settle<'a>(&'a self, settlements: &'a [Settlement]) -> BoxFuture<'a, Result<(), Arc<str>>>;

    /// Connects, unless it is connected.
    fn connect(&self) -> BoxFuture<'_, Result<(), Arc<str>>>;

    /// What `check --connect` reports of a server that is connected.
    fn inspect(&self) -> BoxFuture<'_, Result<Vec<Row>, Arc<str>>>;

    /// Drops a connection that has failed.
    fn disconnect(&self);

    /// Proves that a claim can be written. Raises the stored generation to `generation` if it is lower, and returns it.
    fn probe(&self, generation: u64) -> BoxFuture<'_, Result<u64, Arc<str>>>;
}
