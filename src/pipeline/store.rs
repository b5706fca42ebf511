//! The port: the memory of acknowledged ids that replicas share.
//!
//! An id is claimed before its event is published; the claim carries its owner. The broker's ack makes it
//! acknowledged, a failure releases it, and the claim of a replica that dies ends by itself. Local memory and local
//! in-flight entries come first: a store is asked only for ids that this replica does not know.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::identify::DedupKey;
use super::publish::BoxFuture;

/// An id to be claimed, and where its event goes.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub key: DedupKey,
    pub address: Arc<str>,
}

/// What the store says of one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The caller must publish, and settle the claim. Also where the store did not answer: then the claim may or may
    /// not exist, and nothing depends on it.
    Publish(Held),
    /// Acknowledged inside the window; to be reported by [`Store::remembered`].
    Acknowledged(Held),
    /// Another replica is publishing it, or died while it was.
    InFlight,
    /// The store did not answer, and nothing is to be published without it.
    Refused(Arc<str>),
    /// The store did not answer before the delivery's answer was due.
    Overdue,
}

/// A claim, possibly one that the store never received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub key: DedupKey,
    /// Different for every request.
    pub owner: u128,
    /// The generation of the store's memory; none if it was not known.
    pub generation: Option<u64>,
}

pub trait Store: Send + Sync + 'static {
    /// Claims ids: one answer for each, in their order. Takes at most the store's deadline in all, and ends when the
    /// answer is due, if one is.
    fn claim(&self, wanted: Vec<Wanted>, answer_by: Option<Instant>) -> BoxFuture<'_, Vec<Claim>>;

    /// Reports what became of a publish: acknowledged ids are remembered, claims of others released. Never waits.
    fn settle(&self, held: Held, acknowledged: bool);

    /// This replica now remembers an id by itself because the store did: it forgets it if that does not count any more.
    fn remembered(&self, held: Held);

    /// Whether it is not known yet if the store answers.
    fn is_starting(&self) -> bool;

    /// Why it is not shared now, for the operator.
    fn warning(&self) -> Option<Arc<str>>;

    /// Waits at most `within` until everything settled is stored; returns how many acknowledged ids and how many
    /// releases are not.
    fn flush(&self, within: Duration) -> BoxFuture<'_, [u64; 2]>;
}
