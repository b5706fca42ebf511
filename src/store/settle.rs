//! Stores what became of claims: for each part of the store a bounded queue and a task, in batches.
//!
//! What is not stored is never an event lost: an id that is not committed is published again if it is repeated at
//! another replica after its lease, and a claim that is not released ends with its lease. What belongs to another
//! generation than the present one is not stored, because no replica asks for it any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::backend::{Backend, Settled, Settlement};
use super::breaker::Breaker;
use super::generation::Generations;
use crate::metrics::{StoreMetrics, StoreResult};

/// The most settlements that wait for a store, also while it is away; further ones are dropped.
const QUEUE: usize = 65_536;
/// The same for one of several parts.
const QUEUE_OF_PART: usize = 16_384;
/// The most of one request.
pub(super) const BATCH: usize = 512;
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// The time between two attempts while the store is away.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// What is dropped is logged so often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Of acknowledged ids, and of releases.
type Counts = [AtomicU64; 2];

fn of<'a>(counts: &'a Counts, settlement: &Settlement) -> &'a AtomicU64 {
    &counts[usize::from(!settlement.acknowledged)]
}

/// The queues. Cheap to clone.
#[derive(Clone)]
pub(super) struct Settlements(Arc<Shared>);

struct Shared {
    queues: Vec<mpsc::Sender<Settlement>>,
    /// By the part.
    pending: Vec<Counts>,
    /// Since the last line about them.
    dropped: Counts,
    logged: Mutex<Option<Instant>>,
    metrics: StoreMetrics,
}

impl Settlements {
    /// The queues of so many parts, and their ends.
    pub(super) fn new(parts: usize, metrics: StoreMetrics) -> (Self, Vec<mpsc::Receiver<Settlement>>) {
        let length = if parts == 1 { QUEUE } else { QUEUE_OF_PART };
        let (queues, receivers) = (0..parts).map(|_| mpsc::channel(length)).unzip();
        let pending = (0..parts).map(|_| Counts::default()).collect();
        let shared =
            Shared { queues, pending, dropped: Counts::default(), logged: Mutex::default(), metrics };
        (Self(Arc::new(shared)), receivers)
    }

    /// Never waits.
    pub(super) fn add(&self, part: usize, settlement: Settlement) {
        of(&self.0.pending[part], &settlement).fetch_add(1, Ordering::Relaxed);
        if self.0.queues[part].try_send(settlement).is_err() {
            self.dropped(part, &settlement, "they are more than can wait for the store");
        }
    }

    /// Acknowledged ids, and releases, that are not stored.
    pub(super) fn pending(&self) -> [u64; 2] {
        let sum = |at: usize| self.0.pending.iter().map(|counts| counts[at].load(Ordering::Relaxed)).sum();
        [sum(0), sum(1)]
    }

    /// Whether anything waits for a part of which this holds.
    pub(super) fn waits_for(&self, holds: impl Fn(usize) -> bool) -> bool {
        let waits = |counts: &Counts| counts.iter().any(|count| count.load(Ordering::Relaxed) > 0);
        self.0.pending.iter().enumerate().any(|(part, counts)| waits(counts) && holds(part))
    }

    fn dropped(&self, part: usize, settlement: &Settlement, reason: &str) {
        let Shared { pending, dropped, logged, metrics, .. } = &*self.0;
        of(&pending[part], settlement).fetch_sub(1, Ordering::Relaxed);
        of(dropped, settlement).fetch_add(1, Ordering::Relaxed);
        metrics.count(StoreResult::Dropped, 1);
        let mut logged = logged.lock();
        if logged.is_none_or(|at| at.elapsed() > LOG_INTERVAL) {
            *logged = Some(Instant::now());
            let [acknowledged, releases] = dropped.each_ref().map(|count| count.swap(0, Ordering::Relaxed));
            tracing::warn!(
                acknowledged,
                releases,
                reason,
                "dedup store: not stored; repeats of what was acknowledged are published again at other replicas, and \
                 claims that are not released end with their lease"
            );
        }
    }

    fn stored(&self, part: usize, settlement: &Settlement) {
        let result = if settlement.acknowledged { StoreResult::Committed } else { StoreResult::Released };
        self.0.metrics.count(result, 1);
        of(&self.0.pending[part], settlement).fetch_sub(1, Ordering::Relaxed);
    }
}

/// What decides about the settlements of one part, and counts them.
pub(super) struct Ledger {
    pub(super) part: usize,
    pub(super) breaker: Arc<Breaker>,
    pub(super) generations: Arc<Generations>,
    pub(super) settlements: Settlements,
}

impl Ledger {
    /// Fills a batch without waiting. Returns whether it can be stored now.
    pub(super) fn fill(&self, batch: &mut Vec<Settlement>, queue: &mut mpsc::Receiver<Settlement>) -> bool {
        while batch.len() < BATCH
            && let Ok(settlement) = queue.try_recv()
        {
            batch.push(settlement);
        }
        batch.is_empty() || self.keep_present(batch)
    }

    /// Drops what belongs to another generation than the present one. Returns false while that is not known, or the
    /// part is away.
    fn keep_present(&self, batch: &mut Vec<Settlement>) -> bool {
        let Self { part, breaker, generations, settlements } = self;
        let known = generations.present().filter(|_| breaker.reason_of(*part).is_none());
        let Some(known) = known else { return false };
        batch.retain_mut(|settlement| {
            let counts = known.covers(settlement.held.generation);
            if !counts {
                let reason = "the brokers have lost their data, or are others, since they were published";
                settlements.dropped(*part, settlement, reason);
            }
            // What was published before it was known belongs to it.
            settlement.held.generation = Some(known.generation);
            counts
        });
        true
    }

    /// What became of a batch. What is left is to be tried again.
    pub(super) fn settled(&self, batch: &mut Vec<Settlement>, results: Vec<Settled>) {
        let mut results = results.into_iter();
        batch.retain(|settlement| match results.next() {
            Some(Ok(())) => {
                self.settlements.stored(self.part, settlement);
                false
            }
            Some(Err(reason)) => {
                self.breaker.open(self.part, reason);
                true
            }
            None => true,
        });
    }
}

/// The task that stores those of one part.
pub(super) struct Settler {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) ledger: Ledger,
}

impl Settler {
    /// Stores settlements for ever.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Settlement>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            while !batch.is_empty() {
                self.store(&mut batch).await;
            }
        }
    }

    /// Stores a batch, or waits while that cannot be. What is left is to be tried again.
    async fn store(&self, batch: &mut Vec<Settlement>) {
        if !self.ledger.keep_present(batch) {
            return sleep(RETRY_INTERVAL).await;
        }
        if !batch.is_empty() {
            let results = self.backend.settle(batch, Instant::now() + REQUEST_TIMEOUT).await;
            self.ledger.settled(batch, results);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Labels, Metrics};
    use crate::pipeline::identify::DedupKey;
    use crate::pipeline::store::Held;

    #[test]
    fn what_waits_is_bounded_and_what_is_dropped_is_counted() {
        let metrics = Metrics::new(Labels::default());
        let (settlements, _receivers) = Settlements::new(2, metrics.store());
        let held = Held { key: DedupKey(1), owner: 1, generation: Some(0) };
        let add = |part, acknowledged| settlements.add(part, Settlement { held, acknowledged });
        (0..QUEUE_OF_PART).for_each(|at| add(0, at % 2 == 0));
        (0..3).for_each(|_| add(0, true));
        (0..4).for_each(|_| add(0, false));
        assert_eq!(settlements.pending(), [QUEUE_OF_PART as u64 / 2; 2]);
        add(1, true);
        assert_eq!(settlements.pending(), [QUEUE_OF_PART as u64 / 2 + 1, QUEUE_OF_PART as u64 / 2]);
        assert!(settlements.waits_for(|part| part == 1));
        let dropped = settlements.0.dropped.each_ref().map(|count| count.load(Ordering::Relaxed));
        // The first one was logged at once.
        assert_eq!(dropped, [2, 4]);
    }
}
