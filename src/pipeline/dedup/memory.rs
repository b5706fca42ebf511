//! The acknowledged keys, in blocks that moka holds and evicts.
//!
//! An entry of moka takes about 300 bytes. So an entry is a block of keys that were acknowledged one after another, and
//! an index of 24 bytes a key holds each key's block and time. A key is remembered while moka has its block and its
//! own window has not passed. When moka evicts a block, its keys leave the index.
//!
//! Locks are taken in this order: the open block, moka's own, the keys of a block, a shard of the index.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;

use crate::metrics::DedupMetrics;
use crate::pipeline::identify::DedupKey;

/// Most keys in a block. moka's share of a key is then 2 bytes, and an eviction takes microseconds.
const BLOCK: u64 = 256;

/// A full memory has at least so many blocks, so that only a small part of it is evicted at once.
const BLOCKS: u64 = 256;

/// A block accepts keys for this part of the window, so that it expires soon after its first key has.
const SPANS: u32 = 64;

/// One map of the index grows at a time, so that growing neither doubles the memory nor takes long.
const SHARDS: usize = 64;

/// The keys of a block; none once it is evicted.
type Keys = Arc<Mutex<Option<Vec<StoredKey>>>>;

pub(super) struct Memory {
    blocks: Cache<u32, Block>,
    index: Arc<Index>,
    open: Mutex<Open>,
    /// How many keys a block accepts.
    block_size: usize,
    /// Held while moka is asked to evict.
    evicting: Mutex<()>,
    clock: Clock,
    metrics: DedupMetrics,
}

/// What moka holds.
#[derive(Clone)]
struct Block {
    keys: Keys,
    /// How many keys it counts for: while it is open, as many as it accepts.
    weight: usize,
}

/// Where the next key goes.
#[derive(Default)]
struct Open {
    block: Option<OpenBlock>,
    /// The number of the last block.
    last: u32,
}

struct OpenBlock {
    number: u32,
    keys: Keys,
    since: u32,
}

impl Memory {
    pub(super) fn new(window: Duration, capacity: u64, metrics: DedupMetrics) -> Self {
        let index = Arc::new(Index((0..SHARDS).map(|_| Mutex::default()).collect()));
        let (indexed, counts) = (Arc::clone(&index), metrics.clone());
        let blocks = Cache::builder()
            .max_capacity(capacity)
            .weigher(|_, block: &Block| block.weight.try_into().unwrap_or(u32::MAX))
            // The last key of a block may be younger than its block by a span.
            .time_to_live(window + window / SPANS)
            // The default policy refuses new entries once it is full.
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(move |number, block: Block, cause| {
                let count = match cause {
                    // The block was closed.
                    RemovalCause::Replaced => return,
                    RemovalCause::Size => &counts.capacity,
                    RemovalCause::Expired | RemovalCause::Explicit => &counts.expired,
                };
                let keys = block.keys.lock().take().unwrap_or_default();
                count.inc_by(keys.into_iter().filter(|key| indexed.remove(*key, *number)).count() as u64);
            })
            .build();
        let block_size = (capacity / BLOCKS).clamp(1, BLOCK) as usize;
        let (open, evicting, clock) = (Mutex::default(), Mutex::new(()), Clock::new(window));
        Self { blocks, index, open, block_size, evicting, clock, metrics }
    }

    /// Whether a key is remembered. If it is, its block becomes the last to be evicted.
    pub(super) fn get(&self, key: DedupKey) -> bool {
        let Some(slot) = self.index.get(key.into()) else { return false };
        self.clock.is_in_window(slot.at, self.clock.now()) && self.blocks.get(&slot.block).is_some()
    }

    /// Remembers a key, and evicts others if the memory is full.
    pub(super) fn insert(&self, key: DedupKey) {
        let mut open = self.open.lock();
        let now = self.clock.now();
        let replaced = loop {
            if let Some(block) = &open.block
                && let Some(replaced) = self.push(block, key.into(), now)
            {
                break replaced;
            }
            self.open_next(&mut open, now);
        };
        drop(open);
        if replaced {
            self.metrics.expired.inc();
        }
    }

    /// Adds a key to a block; none if the block accepts no more. Returns whether the key was remembered before.
    fn push(&self, block: &OpenBlock, key: StoredKey, now: u32) -> Option<bool> {
        let mut keys = block.keys.lock();
        let accepted = keys.as_mut().filter(|keys| keys.len() < self.block_size)?;
        if self.clock.is_over(block.since, now) {
            return None;
        }
        accepted.push(key);
        // Before the keys are unlocked, so that an eviction finds the key in the index.
        Some(self.index.insert(key, Slot { block: block.number, at: now }))
    }

    fn open_next(&self, open: &mut Open, now: u32) {
        if let Some(full) = open.block.take() {
            self.close(full);
        }
        open.last = open.last.wrapping_add(1);
        let (number, keys) = (open.last, Keys::new(Mutex::new(Some(Vec::new()))));
        self.blocks.insert(number, Block { keys: Arc::clone(&keys), weight: self.block_size });
        open.block = Some(OpenBlock { number, keys, since: now });
        // An ack does not wait for a scrape: what one evicts is evicted then.
        if let Some(_evicting) = self.evicting.try_lock() {
            self.blocks.run_pending_tasks();
        }
    }

    /// Lets a block count for the keys that it has, and as used when it got the last of them.
    fn close(&self, block: OpenBlock) {
        let OpenBlock { number, keys, .. } = block;
        let weight = keys.lock().as_mut().map_or(0, |keys| {
            keys.shrink_to_fit();
            keys.len()
        });
        // An evicted block has no keys, and a block of one key is as it was.
        if weight > 0 && self.block_size > 1 {
            self.blocks.insert(number, Block { keys, weight });
        }
    }

    /// Forgets every key.
    pub(super) fn clear(&self) {
        let mut open = self.open.lock();
        open.block = None;
        self.blocks.invalidate_all();
    }

    /// Evicts what has expired and updates `dedup_entries`.
    pub(super) fn measure(&self) {
        let _evicting = self.evicting.lock();
        self.blocks.run_pending_tasks();
        self.metrics.entries.set(self.index.len() as i64);
    }
}

/// The block and the time of each key.
struct Index(Vec<Mutex<HashMap<StoredKey, Slot, PassThrough>>>);

#[derive(Clone, Copy)]
struct Slot {
    block: u32,
    at: u32,
}

impl Index {
    fn shard(&self, key: StoredKey) -> &Mutex<HashMap<StoredKey, Slot, PassThrough>> {
        // The map inside a shard uses the other half.
        &self.0[key.0[0] as usize % SHARDS]
    }

    fn get(&self, key: StoredKey) -> Option<Slot> {
        self.shard(key).lock().get(&key).copied()
    }

    /// Returns whether the key had another slot.
    fn insert(&self, key: StoredKey, slot: Slot) -> bool {
        self.shard(key).lock().insert(key, slot).is_some()
    }

    /// Removes a key unless it has moved to another block, and returns whether it did.
    fn remove(&self, key: StoredKey, block: u32) -> bool {
        let mut shard = self.shard(key).lock();
        let is_here = shard.get(&key).is_some_and(|slot| slot.block == block);
        if is_here {
            shard.remove(&key);
        }
        is_here
    }

    fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.lock().len()).sum()
    }
}

/// A key in two halves, so that it takes 24 bytes with its slot. As 128 bits it would take 32.
#[derive(Clone, Copy, PartialEq, Eq)]
struct StoredKey([u64; 2]);

impl From<DedupKey> for StoredKey {
    fn from(DedupKey(key): DedupKey) -> Self {
        Self([(key >> 64) as u64, key as u64])
    }
}

impl Hash for StoredKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[1]);
    }
}

/// Passes keys through: they are hashes already.
#[derive(Default)]
pub(super) struct KeyHasher(u64);

pub(super) type PassThrough = BuildHasherDefault<KeyHasher>;

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Reached only if `DedupKey` hashes itself in another way.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }
}

/// Time in ticks, a millionth of the window: 32 bits are then enough. They wrap after thousands of windows, when moka
/// has long evicted the block.
struct Clock {
    start: Instant,
    tick_ns: u64,
    window: u32,
}

impl Clock {
    fn new(window: Duration) -> Self {
        const TICKS: u64 = 1 << 20;
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        let tick_ns = (window / TICKS).max(1);
        // At most 2 * TICKS.
        Self { start: Instant::now(), tick_ns, window: window.div_ceil(tick_ns) as u32 }
    }

    fn now(&self) -> u32 {
        let since_start = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        (since_start / self.tick_ns) as u32
    }

    fn is_in_window(&self, at: u32, now: u32) -> bool {
        now.wrapping_sub(at) < self.window
    }

    /// Whether a block that was opened then accepts no more keys.
    fn is_over(&self, since: u32, now: u32) -> bool {
        now.wrapping_sub(since) >= (self.window / SPANS).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Labels, Metrics};

    fn memory(window: Duration, capacity: u64) -> Memory {
        Memory::new(window, capacity, Metrics::new(Labels::default()).dedup())
    }

    /// Keys that are spread like hashes.
    fn key(at: u64) -> DedupKey {
        DedupKey(u128::from(at).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_full_memory_holds_the_newest_keys_and_no_other() {
        for capacity in [1, 2, 10, 255, 600, 5_000, 20_000] {
            let memory = memory(HOUR, capacity);
            let count = 3 * capacity + 7;
            (0..count).for_each(|at| memory.insert(key(at)));
            memory.measure();
            let held: Vec<u64> = (0..count).filter(|at| memory.get(key(*at))).collect();
            let first = *held.first().expect("the newest is held");
            assert_eq!(held, (first..count).collect::<Vec<_>>(), "capacity {capacity}");
            let most = capacity as usize;
            assert!(
                held.len() <= most && held.len() + 2 * memory.block_size > most,
                "{} of {capacity}",
                held.len()
            );
            let counted = (memory.metrics.entries.get(), memory.metrics.capacity.get());
            assert_eq!(counted, (held.len() as i64, count - held.len() as u64));
            assert_eq!(memory.metrics.expired.get(), 0);
        }
    }

    #[test]
    fn a_closed_block_counts_for_the_keys_that_it_has() {
        let mut memory = memory(HOUR, 25_600);
        // Every key opens a block.
        (memory.clock.window, memory.clock.tick_ns) = (SPANS, 1);
        for at in 0..20_000 {
            memory.insert(key(at));
        }
        memory.measure();
        assert_eq!(memory.metrics.entries.get(), 20_000, "as many as fit, although no block is full");
    }

    #[test]
    fn keys_that_are_used_stay_although_others_come() {
        let memory = memory(HOUR, 5_000);
        (0..10).for_each(|at| memory.insert(key(at)));
        for at in 10..30_000 {
            memory.insert(key(at));
            if at % 500 == 0 {
                assert!(memory.get(key(0)), "after {at} others");
            }
        }
        assert!(memory.get(key(29_999)));
    }

    #[test]
    fn a_key_is_forgotten_when_its_own_window_has_passed_and_counted_once() {
        let memory = memory(Duration::from_millis(30), 100_000);
        (0..1_000).for_each(|at| memory.insert(key(at)));
        std::thread::sleep(Duration::from_millis(30));
        assert!((0..1_000).all(|at| !memory.get(key(at))));
        // Remembered anew before moka has evicted anything.
        (0..500).for_each(|at| memory.insert(key(at)));
        std::thread::sleep(Duration::from_millis(40));
        memory.measure();
        assert_eq!((memory.metrics.entries.get(), memory.metrics.expired.get()), (0, 1_500));
    }

    #[test]
    fn what_is_remembered_after_a_clear_stays() {
        let memory = memory(HOUR, 100_000);
        (0..1_000).for_each(|at| memory.insert(key(at)));
        memory.clear();
        memory.insert(key(1));
        let held: Vec<u64> = (0..1_000).filter(|at| memory.get(key(*at))).collect();
        assert_eq!(held, [1]);
        memory.measure();
        assert!(memory.get(key(1)), "although the block in which it was before is evicted");
        assert_eq!((memory.metrics.entries.get(), memory.metrics.expired.get()), (1, 1_000));
    }

    #[test]
    fn ticks_wrap() {
        let clock = Clock::new(HOUR);
        let early = u32::MAX - 5;
        assert!(clock.is_in_window(early, early.wrapping_add(clock.window - 1)));
        assert!(!clock.is_in_window(early, early.wrapping_add(clock.window)));
        let century = Clock::new(HOUR * 24 * 36_525);
        assert!(century.window >= 1 << 20 && century.window <= 1 << 21);
    }

    #[test]
    fn an_ack_does_not_wait_for_a_scrape() {
        let memory = memory(HOUR, 1_000);
        memory.insert(DedupKey(0));
        memory.clear();
        std::thread::scope(|scope| {
            // What the scrape evicts is in this shard.
            let shard = memory.index.shard(DedupKey(0).into()).lock();
            let scrape = scope.spawn(|| memory.measure());
            while !memory.evicting.is_locked() {
                std::thread::yield_now();
            }
            let (done, remembered) = std::sync::mpsc::sync_channel(1);
            let acks = &memory;
            scope.spawn(move || {
                (1..50).for_each(|at| acks.insert(DedupKey(1 << 64 | at)));
                done.send(()).expect("the test listens");
            });
            remembered.recv_timeout(Duration::from_secs(60)).expect("they are remembered during the scrape");
            drop(shard);
            scrape.join().expect("it ends");
        });
        memory.measure();
        let metrics = &memory.metrics;
        assert_eq!((metrics.capacity.get(), metrics.expired.get(), metrics.entries.get()), (0, 1, 49));
    }
}
