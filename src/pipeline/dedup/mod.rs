//! Deduplication: one publish per event inside a window; only what the broker acknowledged is remembered.
//!
//! Two parts. *In-flight entries* (single flight): keys whose publish is in flight, each with the deliveries
//! that await its ack. *Memory*: acknowledged keys, in blocks that moka holds. Only the bus client's result ends an entry, however late; nothing that belongs
//! to a request does. So a client that disconnects leaves nothing behind, a late ack is still remembered, and
//! a failure is forgotten.
//!
//! moka's own single flight is not used: it costs more (measured), and its waiters panic after enough leaders
//! were aborted.

mod memory;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::identify::DedupKey;
use super::publish::{AckCallback, PublishResult};
use crate::metrics::DedupMetrics;
use memory::{Memory, PassThrough};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long an acknowledged id is remembered.
    pub window: Duration,
    /// The most ids that are remembered.
    pub capacity: u64,
}

/// Resident memory of one remembered id in bytes, a little more than was measured.
pub const BYTES_PER_ID: u64 = 100;

/// Enough that two deliveries seldom contend for one lock.
const SHARDS: usize = 64;

/// The deliveries that await the ack of one publish: the one that enqueued it, and those that joined.
struct Waiters {
    first: oneshot::Sender<PublishResult>,
    joined: Vec<oneshot::Sender<PublishResult>>,
}

impl Waiters {
    /// Adds a delivery. Those that stopped waiting are removed before the list grows, so that repeats of a
    /// delivery whose publish hangs do not fill the memory.
    fn join(&mut self) -> AckReceiver {
        if self.joined.len() == self.joined.capacity() {
            self.joined.retain(|waiter| !waiter.is_closed());
            // At least half of it is free then, so that this costs little for each that joins.
            self.joined.reserve(self.joined.len().max(4));
        }
        let (sender, receiver) = oneshot::channel();
        self.joined.push(sender);
        receiver
    }

    fn is_awaited(&self) -> bool {
        !self.first.is_closed() || self.joined.iter().any(|waiter| !waiter.is_closed())
    }
}

type Shard = Mutex<HashMap<DedupKey, Waiters, PassThrough>>;

#[derive(Clone)]
pub struct Dedup {
    shared: Arc<Shared>,
}

struct Shared {
    in_flight: Vec<Shard>,
    memory: Memory,
    /// [`Dedup::forget_on_data_loss`].
    data_losses: AtomicU64,
    metrics: DedupMetrics,
}

/// Receives the result of a publish. An error means that the entry was dropped without one.
pub type AckReceiver = oneshot::Receiver<PublishResult>;

/// What dedup knows of a key.
pub enum Lookup {
    /// Acknowledged inside the window.
    Hit,
    /// Its publish is in flight.
    Joined(AckReceiver),
    /// Unknown: the caller must publish, and the bus must settle the entry.
    Miss(InFlight, AckReceiver),
}

impl Lookup {
    /// The label of `dedup_lookups_total`.
    pub const fn result(&self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Joined(_) => "joined",
            Self::Miss(..) => "miss",
        }
    }
}

impl Dedup {
    pub fn new(options: Options, metrics: DedupMetrics) -> Self {
        let memory = Memory::new(options.window, options.capacity, metrics.clone());
        let in_flight = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { shared: Arc::new(Shared { in_flight, memory, data_losses: AtomicU64::new(0), metrics }) }
    }

    /// Looks up a key; an unknown one becomes in flight. With `remember` false its ack is not remembered, because
    /// the key is random.
    pub fn begin(&self, key: DedupKey, remember: bool) -> Lookup {
        let shared = &self.shared;
        let mut in_flight = shared.shard(key).lock();
        let lookup = match in_flight.entry(key) {
            Entry::Occupied(entry) => {
                shared.metrics.joined.inc();
                Lookup::Joined(entry.into_mut().join())
            }
            // Looked up under the shard's lock: an ack is remembered before its entry is removed under the same
            // lock, so no key is ever in neither.
            Entry::Vacant(_) if shared.memory.get(key) => {
                shared.metrics.hit.inc();
                Lookup::Hit
            }
            Entry::Vacant(entry) => {
                let (first, receiver) = oneshot::channel();
                entry.insert(Waiters { first, joined: Vec::new() });
                shared.metrics.miss.inc();
                Lookup::Miss(InFlight { shared: Some(Arc::clone(shared)), key, remember }, receiver)
            }
        };
        drop(in_flight);
        lookup
    }

    /// Forgets every acknowledged key if the broker has lost its data since the last call.
    pub fn forget_on_data_loss(&self, losses: u64) {
        let known = &self.shared.data_losses;
        if known.load(Ordering::Relaxed) != losses && known.swap(losses, Ordering::AcqRel) != losses {
            self.forget();
        }
    }

    /// Forgets every acknowledged key: a repeat is published again.
    pub fn forget(&self) {
        self.shared.memory.clear();
    }

    /// The number of in-flight entries.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Updates `dedup_entries` and the count of expired keys; called before a scrape.
    pub fn measure(&self) {
        self.shared.memory.measure();
    }
}

impl Shared {
    fn shard(&self, key: DedupKey) -> &Shard {
        // The high half: the map inside a shard uses the low bits.
        &self.in_flight[(key.0 >> 64) as usize % SHARDS]
    }

    fn settle(&self, key: DedupKey, remember: bool, result: &PublishResult) {
        if result.is_ok() && remember {
            self.memory.insert(key);
        }
        let waiters = self.shard(key).lock().remove(&key);
        let waiters = waiters.map(|Waiters { first, joined }| std::iter::once(first).chain(joined));
        for waiter in waiters.into_iter().flatten() {
            // A delivery that stopped waiting is not sent anything.
            let _ = waiter.send(result.clone());
        }
    }
}

/// The entry of a publish in flight. The bus settles it once; dropped unsettled, it is forgotten and the
/// receivers report an error.
pub struct InFlight {
    shared: Option<Arc<Shared>>,
    key: DedupKey,
    remember: bool,
}

impl InFlight {
    /// Ends the entry if no delivery awaits it, and returns whether it did.
    pub(super) fn end_unless_awaited(&mut self) -> bool {
        if let Some(shared) = &self.shared {
            let mut shard = shared.shard(self.key).lock();
            if shard.get(&self.key).is_some_and(Waiters::is_awaited) {
                return false;
            }
            shard.remove(&self.key);
        }
        self.shared = None;
        true
    }
}

impl AckCallback for InFlight {
    fn settle(mut self: Box<Self>, result: PublishResult) {
        if let Some(shared) = self.shared.take() {
            shared.settle(self.key, self.remember, &result);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.shard(self.key).lock().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Labels, Metrics};

    #[test]
    fn acknowledged_ids_are_forgotten_when_the_broker_has_lost_its_data() {
        let options = Options { window: Duration::from_secs(60), capacity: 10 };
        let dedup = Dedup::new(options, Metrics::new(Labels::default()).dedup());
        dedup.shared.memory.insert(DedupKey(1));
        dedup.forget_on_data_loss(0);
        assert!(matches!(dedup.begin(DedupKey(1), true), Lookup::Hit));
        dedup.forget_on_data_loss(1);
        assert!(matches!(dedup.begin(DedupKey(1), true), Lookup::Miss(..)));
        dedup.shared.memory.insert(DedupKey(2));
        dedup.forget_on_data_loss(1);
        assert!(matches!(dedup.begin(DedupKey(2), true), Lookup::Hit), "once for each loss");
    }

    #[test]
    fn waiters_that_gave_up_are_removed_while_the_publish_hangs() {
        let options = Options { window: Duration::from_secs(60), capacity: 10 };
        let dedup = Dedup::new(options, Metrics::new(Labels::default()).dedup());
        let key = DedupKey(1);
        let Lookup::Miss(_in_flight, _first) = dedup.begin(key, true) else { panic!("the key is new") };
        let mut waiting = Vec::new();
        for repeat in 0..10_000 {
            let Lookup::Joined(ack) = dedup.begin(key, true) else { panic!("the key is in flight") };
            if repeat % 1000 == 0 {
                waiting.push(ack);
            }
        }
        let mut shard = dedup.shared.shard(key).lock();
        let joined = &mut shard.get_mut(&key).expect("the key is in flight").joined;
        assert!(
            joined.capacity() <= 4 * waiting.len(),
            "{} senders for {}",
            joined.capacity(),
            waiting.len()
        );
        joined.retain(|waiter| !waiter.is_closed());
        assert_eq!(joined.len(), waiting.len(), "no waiter is lost");
    }
}
