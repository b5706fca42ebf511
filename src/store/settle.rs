//! Stores what became of claims: one bounded queue, one task, in batches.
//!
//! What is not stored is never an event lost: an id that is not committed is published again if it is repeated at
//! another replica after its lease. What belongs to another generation than the present one is not stored, because no
//! replica asks for it any more; so is what was published before the generation was known, unless it is the first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::backend::{Backend, Settlement};
use super::breaker::Breaker;
use crate::metrics::{StoreMetrics, StoreResult};
use crate::pipeline::store::Held;

/// The most settlements that wait, also while the store is away; further ones are dropped.
const QUEUE: usize = 65_536;
/// The most of one request.
const BATCH: usize = 512;
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// The time between two attempts while the store is away.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The queue. Cheap to clone.
#[derive(Clone)]
pub(super) struct Settlements {
    queue: mpsc::Sender<Settlement>,
    pending: Arc<AtomicU64>,
    metrics: StoreMetrics,
}

impl Settlements {
    pub(super) fn new(metrics: StoreMetrics) -> (Self, mpsc::Receiver<Settlement>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue, pending: Arc::default(), metrics }, receiver)
    }

    /// Never waits.
    pub(super) fn add(&self, held: Held, acknowledged: bool) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(Settlement { held, acknowledged }).is_err() {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            self.metrics.count(StoreResult::Dropped, 1);
        }
    }

    pub(super) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Drops what belongs to another generation.
    fn drop_outdated(&self, batch: &mut Vec<Settlement>, generation: u64) {
        let before = batch.len();
        batch.retain(|settlement| settlement.held.generation == generation);
        let dropped = (before - batch.len()) as u64;
        self.metrics.count(StoreResult::Dropped, dropped);
        self.pending.fetch_sub(dropped, Ordering::Relaxed);
    }

    fn stored(&self, batch: &[Settlement]) {
        let committed = batch.iter().filter(|settlement| settlement.acknowledged).count() as u64;
        self.metrics.count(StoreResult::Committed, committed);
        self.metrics.count(StoreResult::Released, batch.len() as u64 - committed);
        self.pending.fetch_sub(batch.len() as u64, Ordering::Relaxed);
    }
}

/// Stores settlements for ever.
pub(super) async fn run(
    mut queue: mpsc::Receiver<Settlement>,
    backend: Arc<dyn Backend>,
    breaker: Arc<Breaker>,
    settlements: Settlements,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        settlements.drop_outdated(&mut batch, breaker.generation());
        while !batch.is_empty()
            && let Err(reason) = attempt(&*backend, &batch).await
        {
            breaker.open(reason);
            while breaker.reason().is_some() {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            settlements.drop_outdated(&mut batch, breaker.generation());
        }
        settlements.stored(&batch);
        batch.clear();
    }
}

async fn attempt(backend: &dyn Backend, batch: &[Settlement]) -> Result<(), Arc<str>> {
    match timeout(REQUEST_TIMEOUT, backend.settle(batch)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {REQUEST_TIMEOUT:?}").into()),
    }
}
