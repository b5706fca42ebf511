//! Stores what became of claims: one bounded queue, one task, in batches.
//!
//! What is not stored is never an event lost: an id that is not committed is published again if it is repeated at
//! another replica after its lease, and a claim that is not released ends with its lease. What belongs to another
//! generation than the present one is not stored, because no replica asks for it any more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::backend::{Backend, Settlement};
use super::breaker::Breaker;
use super::generation::Generations;
use crate::metrics::{StoreMetrics, StoreResult};
use crate::pipeline::store::Held;

/// The most settlements that wait, also while the store is away; further ones are dropped.
const QUEUE: usize = 65_536;
/// The most of one request.
const BATCH: usize = 512;
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// The time between two attempts while the store, or a part of it, is away.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// What is dropped is logged so often.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Of acknowledged ids, and of releases.
type Counts = [AtomicU64; 2];

/// The queue. Cheap to clone.
#[derive(Clone)]
pub(super) struct Settlements {
    queue: mpsc::Sender<Settlement>,
    state: Arc<State>,
    metrics: StoreMetrics,
}

#[derive(Default)]
struct State {
    pending: Counts,
    /// Since the last line about them.
    dropped: Counts,
    logged: Mutex<Option<Instant>>,
}

fn of<'a>(counts: &'a Counts, settlement: &Settlement) -> &'a AtomicU64 {
    &counts[usize::from(!settlement.acknowledged)]
}

impl Settlements {
    pub(super) fn new(metrics: StoreMetrics) -> (Self, mpsc::Receiver<Settlement>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue, state: Arc::default(), metrics }, receiver)
    }

    /// Never waits.
    pub(super) fn add(&self, held: Held, acknowledged: bool) {
        let settlement = Settlement { held, acknowledged };
        let waiting = self.pending().iter().sum::<u64>();
        of(&self.state.pending, &settlement).fetch_add(1, Ordering::Relaxed);
        if waiting >= QUEUE as u64 || self.queue.try_send(settlement).is_err() {
            self.dropped(&settlement, "they are more than can wait for the store");
        }
    }

    /// Acknowledged ids, and releases, that are not stored.
    pub(super) fn pending(&self) -> [u64; 2] {
        self.state.pending.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    fn dropped(&self, settlement: &Settlement, reason: &str) {
        let State { pending, dropped, logged } = &*self.state;
        of(pending, settlement).fetch_sub(1, Ordering::Relaxed);
        of(dropped, settlement).fetch_add(1, Ordering::Relaxed);
        self.metrics.count(StoreResult::Dropped, 1);
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

    fn stored(&self, settlement: &Settlement) {
        let result = if settlement.acknowledged { StoreResult::Committed } else { StoreResult::Released };
        self.metrics.count(result, 1);
        of(&self.state.pending, settlement).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The task that stores them.
pub(super) struct Settler {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) breaker: Arc<Breaker>,
    pub(super) generations: Arc<Generations>,
    pub(super) settlements: Settlements,
}

impl Settler {
    /// Stores settlements for ever.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<Settlement>) {
        // By the part of the store that is away.
        let mut waiting = vec![VecDeque::new(); self.backend.parts()];
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let received = queue.recv_many(&mut batch, BATCH);
            if waiting.iter().all(VecDeque::is_empty) {
                if received.await == 0 {
                    return;
                }
            } else if timeout(RETRY_INTERVAL, received).await == Ok(0) {
                return;
            }
            self.store(&mut batch, &mut waiting).await;
            for part in 0..waiting.len() {
                while !waiting[part].is_empty() && self.is_shared(part) {
                    let some = waiting[part].len().min(BATCH);
                    batch.extend(waiting[part].drain(..some));
                    self.store(&mut batch, &mut waiting).await;
                }
            }
        }
    }

    fn is_shared(&self, part: usize) -> bool {
        self.breaker.reason_of(part).is_none() && self.generations.present().is_some()
    }

    /// Stores a batch; those whose part of the store is away wait.
    async fn store(&self, batch: &mut Vec<Settlement>, waiting: &mut [VecDeque<Settlement>]) {
        let known = self.generations.present();
        let mut ready = Vec::with_capacity(batch.len());
        for settlement in batch.drain(..) {
            let part = self.backend.part_of(&settlement.held);
            match &known {
                Some(known) if !known.covers(settlement.held.generation) => {
                    let reason = "the brokers have lost their data, or are others, since they were published";
                    self.settlements.dropped(&settlement, reason);
                }
                Some(_) if self.breaker.reason_of(part).is_none() => ready.push(settlement),
                _ => waiting[part].push_back(settlement),
            }
        }
        if ready.is_empty() {
            return;
        }
        let results = self.backend.settle(&ready, Instant::now() + REQUEST_TIMEOUT).await;
        for (settlement, result) in ready.into_iter().zip(results) {
            match result {
                Ok(()) => self.settlements.stored(&settlement),
                Err(reason) => {
                    let part = self.backend.part_of(&settlement.held);
                    self.breaker.open(part, reason);
                    waiting[part].push_back(settlement);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Labels, Metrics};
    use crate::pipeline::identify::DedupKey;

    #[test]
    fn what_waits_is_bounded_and_what_is_dropped_is_counted() {
        let metrics = Metrics::new(Labels::default());
        let (settlements, _receiver) = Settlements::new(metrics.store());
        let held = Held { key: DedupKey(1), owner: 1, generation: Some(0) };
        (0..QUEUE).for_each(|at| settlements.add(held, at % 2 == 0));
        (0..3).for_each(|_| settlements.add(held, true));
        (0..4).for_each(|_| settlements.add(held, false));
        assert_eq!(settlements.pending(), [QUEUE as u64 / 2; 2]);
        let dropped = settlements.state.dropped.each_ref().map(|count| count.load(Ordering::Relaxed));
        // The first one was logged at once.
        assert_eq!(dropped, [2, 4]);
    }
}
