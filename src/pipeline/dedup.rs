//! One publish per event inside a window, and nothing remembered that the broker has not acknowledged.
//!
//! Two parts. *Flights*: keys whose publish is on its way, each with those who wait for its verdict.
//! *Memory*: keys that the broker acknowledged, in moka with its LRU policy (the default policy
//! refuses new keys once it is full). A flight is settled by the bus client's own verdict, however
//! late, and by nothing that belongs to a request: so a client that leaves orphans nothing, a late
//! ack is still remembered, and a failure is forgotten.
//!
//! moka's own single flight is not used: it is dearer, and its waiters panic after enough leaders
//! have been aborted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::identify::DedupKey;
use super::publish::{AckCallback, PublishResult};
use crate::metrics::DedupMetrics;

/// How much is remembered, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long an acknowledged id is remembered.
    pub window: Duration,
    /// How many ids are remembered at most.
    pub capacity: u64,
}

/// Bytes of resident memory that one remembered id takes, as measured with 250,000 of them.
pub const BYTES_PER_ID: u64 = 368;

/// moka counts what was inserted later; never so many are uncounted (its log has room for 384).
const BEHIND: u64 = 1024;

/// A power of two; enough that two deliveries seldom meet at one lock.
const SHARDS: usize = 64;

/// Who waits for one flight: whoever began it, and those that joined.
type Waiters = (oneshot::Sender<PublishResult>, Vec<oneshot::Sender<PublishResult>>);
type Shard = Mutex<HashMap<DedupKey, Waiters, PassThrough>>;

/// The dedup of one bridge. Cheap to clone.
#[derive(Clone)]
pub struct Dedup {
    shared: Arc<Shared>,
}

struct Shared {
    flights: Vec<Shard>,
    memory: Cache<DedupKey, (), PassThrough>,
    capacity: u64,
    /// What the memory holds, less what has expired since [`Dedup::measure`].
    remembered: AtomicU64,
    /// Held while measuring: two at once would count the same expired twice.
    measuring: Mutex<()>,
    metrics: DedupMetrics,
}

/// Waits for the verdict of a flight. An error means that the flight was lost without a verdict.
pub type Waiter = oneshot::Receiver<PublishResult>;

/// What is known of a key.
pub enum Lookup {
    /// Acknowledged inside the window.
    Hit,
    /// Its publish is on its way; the waiter hears the verdict.
    Joined(Waiter),
    /// Nobody knows it: the caller must publish and see that the flight is settled.
    Miss(InFlight, Waiter),
}

impl Dedup {
    /// An empty memory.
    pub fn new(options: Options, metrics: DedupMetrics) -> Self {
        let memory = Cache::builder()
            .max_capacity(options.capacity)
            .time_to_live(options.window)
            .eviction_policy(EvictionPolicy::lru())
            .build_with_hasher(PassThrough::default());
        let flights = (0..SHARDS).map(|_| Shard::default()).collect();
        let (capacity, remembered, measuring) = (options.capacity, AtomicU64::new(0), Mutex::new(()));
        Self { shared: Arc::new(Shared { flights, memory, capacity, remembered, measuring, metrics }) }
    }

    /// Finds out about a key and, where it is new, opens its flight. With `remember` false the key
    /// is random and its ack is not worth a place in memory.
    pub fn begin(&self, key: DedupKey, remember: bool) -> Lookup {
        let shared = &self.shared;
        let mut flights = shared.shard(key).lock();
        let lookup = match flights.entry(key) {
            Entry::Occupied(flight) => {
                let (tell, waiter) = oneshot::channel();
                flight.into_mut().1.push(tell);
                shared.metrics.joined.inc();
                Lookup::Joined(waiter)
            }
            // Looked up under the lock of the flight: a flight that lands remembers its key before
            // it lets go of this lock, so a key is never between the two.
            Entry::Vacant(_) if shared.memory.contains_key(&key) => {
                // To be looked for is not to be used; only this keeps it from being the next to go.
                shared.memory.get(&key);
                shared.metrics.hit.inc();
                Lookup::Hit
            }
            Entry::Vacant(vacant) => {
                let (tell, waiter) = oneshot::channel();
                vacant.insert((tell, Vec::new()));
                shared.metrics.miss.inc();
                Lookup::Miss(InFlight { shared: Some(Arc::clone(shared)), key, remember }, waiter)
            }
        };
        drop(flights);
        lookup
    }

    /// Keys whose publish is on its way.
    pub fn flights(&self) -> usize {
        self.shared.flights.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Brings `dedup_entries` and the expired up to date; called before a scrape.
    pub fn measure(&self) {
        self.shared.measure();
    }
}

impl Shared {
    fn shard(&self, key: DedupKey) -> &Shard {
        // Of the hash's other half: the map inside a shard uses the low bits itself.
        &self.flights[(key.0 >> 64) as usize % SHARDS]
    }

    fn land(&self, key: DedupKey, remember: bool, verdict: &PublishResult) {
        if verdict.is_ok() && remember {
            self.remember(key);
        }
        let waiters = self.shard(key).lock().remove(&key);
        let waiters = waiters.map(|(first, joined)| std::iter::once(first).chain(joined));
        for waiter in waiters.into_iter().flatten() {
            // A waiter that has given up has nothing to be told.
            let _ = waiter.send(verdict.clone());
        }
    }

    /// Counts what goes to make room. moka would tell, but only through a listener for which it locks
    /// every key: a third of what dedup costs.
    fn remember(&self, key: DedupKey) {
        self.memory.insert(key, ());
        if self.has_counted_one() {
            return;
        }
        if self.memory.entry_count() + BEHIND < self.capacity {
            // There is room: many have expired since anybody looked.
            self.measure();
            if self.has_counted_one() {
                return;
            }
        }
        self.metrics.capacity.inc();
    }

    /// Counts one more, unless as many are counted as the memory may hold.
    fn has_counted_one(&self) -> bool {
        let with_one_more = |held| (held < self.capacity).then(|| held + 1);
        self.remembered.fetch_update(Ordering::SeqCst, Ordering::SeqCst, with_one_more).is_ok()
    }

    fn measure(&self) {
        let _alone = self.measuring.lock();
        // In this order: what is remembered meanwhile can only make the expired fewer, until the next time.
        let before = self.remembered.load(Ordering::SeqCst);
        self.memory.run_pending_tasks();
        let entries = self.memory.entry_count();
        let expired = before.saturating_sub(entries);
        self.remembered.fetch_sub(expired, Ordering::SeqCst);
        self.metrics.expired.inc_by(expired);
        self.metrics.entries.set(entries.cast_signed());
    }
}

/// A publish on its way. Settled once, by the bus; dropped unsettled, it is forgotten and its
/// waiters hear that their channel closed.
pub struct InFlight {
    shared: Option<Arc<Shared>>,
    key: DedupKey,
    remember: bool,
}

impl AckCallback for InFlight {
    fn settle(mut self: Box<Self>, verdict: PublishResult) {
        if let Some(shared) = self.shared.take() {
            shared.land(self.key, self.remember, &verdict);
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

/// Keys are hashes already.
#[derive(Default)]
struct KeyHasher(u64);

type PassThrough = BuildHasherDefault<KeyHasher>;

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only reached if `DedupKey` ever hashes itself in another way; still a hash, just a slow one.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }
}
