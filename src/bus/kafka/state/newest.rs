//! What a state topic holds, as far as it is needed: the version of the keys that were written last.
//!
//! A state is written only within [`AGE`] of the time at which it was true, and otherwise read again. What bounds the
//! memory is this:
//!
//! * Whatever a key was given before the [`WINDOW`] that is read at the start was true before anything that may be
//!   written, and a tombstone from then is older than any answer in which its entity still exists.
//! * A tombstone that compaction has removed unseen, which takes `delete.retention.ms`, is as old: it has to be longer.
//! * A key that had to be forgotten was last written before all that are remembered: its state was true before
//!   [`Newest::floor`], as was the state of an entity that a forgotten tombstone has ended.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::bus::state::{Outcome, Version, milliseconds};

/// How much of a topic is read at the start, by the stamps of its records.
pub(super) const WINDOW: Duration = Duration::from_secs(15 * 60);

/// How old a state may be that is written. The window is longer by how much the clocks of Attio and of those who write
/// may differ.
pub(super) const AGE: Duration = Duration::from_secs(10 * 60);

/// Keys that are remembered, at about 130 bytes each: what a backfill writes in several seconds.
const CAPACITY: usize = 150_000;

/// 128 bits of a hash, whatever the length of the key is.
type Digest128 = [u8; 16];

pub(super) struct Newest {
    known: HashMap<Digest128, Known>,
    /// The keys by the order in which they were written.
    order: BTreeMap<u64, Digest128>,
    written: u64,
    /// The states of all other keys were true before.
    floor: i64,
    /// The latest time at which a state was true so far, or a record was written.
    latest: i64,
    capacity: usize,
}

struct Known {
    written: u64,
    version: Version,
    /// [`Newest::latest`] when it was written.
    latest: i64,
}

impl Newest {
    pub(super) fn new() -> Self {
        Self::with(CAPACITY)
    }

    fn with(capacity: usize) -> Self {
        let (known, order) = (HashMap::new(), BTreeMap::new());
        Self { known, order, written: 0, floor: i64::MIN, latest: i64::MIN, capacity }
    }

    /// What becomes of a state of that version if it is written now; none if it may be.
    pub(super) fn refuses(&self, key: &str, next: Version, now: OffsetDateTime) -> Option<Outcome> {
        let Version::At(at) = next else { return None };
        let known = self.known.get(&digest(key)).map(|known| known.version);
        let is_newer = match known {
            Some(Version::Gone) => return Some(Outcome::Gone),
            Some(known) => known.allows(next),
            None => at > self.floor,
        };
        let is_young = at > milliseconds(now - AGE);
        match (is_newer, is_young) {
            (true, true) => None,
            (true, false) => Some(Outcome::TooOld),
            (false, _) => Some(Outcome::Newer),
        }
    }

    /// Remembers what was written, in milliseconds by the stamp of the record.
    pub(super) fn add(&mut self, key: &str, version: Version, stamp: i64) {
        let key = digest(key);
        self.written += 1;
        self.latest = self.latest.max(stamp);
        if let Version::At(at) = version {
            self.latest = self.latest.max(at);
        }
        let former = self.known.remove(&key);
        if let Some(former) = &former {
            self.order.remove(&former.written);
        }
        let version = former.map_or(version, |former| former.version.max(version));
        self.known.insert(key, Known { written: self.written, version, latest: self.latest });
        self.order.insert(self.written, key);
        while self.known.len() > self.capacity
            && let Some((_, key)) = self.order.pop_first()
        {
            let forgotten = self.known.remove(&key).map(|known| match known.version {
                Version::At(at) => at,
                Version::Gone => known.latest,
            });
            self.floor = self.floor.max(forgotten.unwrap_or(i64::MIN));
        }
    }
}

fn digest(key: &str) -> Digest128 {
    let mut digest = Digest128::default();
    let hash = Sha256::digest(key);
    digest.copy_from_slice(&hash[..16]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(at: i64) -> Version {
        Version::At(at)
    }

    /// What becomes of a state, asked in the year 1970.
    fn refuses(newest: &Newest, key: &str, next: Version) -> Option<Outcome> {
        newest.refuses(key, next, OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn older_states_and_whatever_follows_a_tombstone_are_refused() {
        let mut newest = Newest::with(10);
        newest.add("a", at(5), 0);
        newest.add("a", at(3), 0);
        assert_eq!(refuses(&newest, "a", at(4)), Some(Outcome::Newer));
        assert_eq!(refuses(&newest, "a", at(5)), None);
        newest.add("a", Version::Gone, 0);
        assert_eq!(refuses(&newest, "a", at(9)), Some(Outcome::Gone));
        assert_eq!(refuses(&newest, "a", Version::Gone), None);
        newest.add("a", at(9), 0);
        assert_eq!(refuses(&newest, "a", at(10)), Some(Outcome::Gone));
    }

    #[test]
    fn of_a_forgotten_key_only_what_is_newer_than_all_forgotten_is_known_to_be_newer() {
        let mut newest = Newest::with(2);
        for (key, time) in [("a", 5), ("b", 4), ("a", 6), ("c", 7)] {
            newest.add(key, at(time), 0);
        }
        assert_eq!(refuses(&newest, "b", at(4)), Some(Outcome::Newer));
        assert_eq!(refuses(&newest, "b", at(5)), None);
        assert_eq!(refuses(&newest, "a", at(5)), Some(Outcome::Newer));
    }

    #[test]
    fn nothing_that_was_read_before_a_forgotten_tombstone_follows_it() {
        let mut newest = Newest::with(2);
        newest.add("a", at(5), 0);
        newest.add("gone", Version::Gone, 8);
        for key in ["b", "c"] {
            newest.add(key, at(9), 9);
        }
        assert_eq!(refuses(&newest, "gone", at(8)), Some(Outcome::Newer));
        assert_eq!(refuses(&newest, "d", at(9)), None);
        let mut newest = Newest::with(1);
        newest.add("a", at(7), 0);
        newest.add("gone", Version::Gone, 2);
        newest.add("b", at(9), 0);
        assert_eq!(refuses(&newest, "gone", at(7)), Some(Outcome::Newer), "the writer's clock was behind");
    }

    #[test]
    fn state_that_was_read_long_ago_is_refused_whatever_is_known_of_its_key() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(3600);
        let mut newest = Newest::with(10);
        newest.add("known", at(0), 0);
        for key in ["known", "unknown"] {
            assert_eq!(newest.refuses(key, at(milliseconds(now)), now), None);
            assert_eq!(newest.refuses(key, at(milliseconds(now - AGE)), now), Some(Outcome::TooOld));
        }
        assert!(AGE < WINDOW, "and what is remembered goes back further, by more than clocks differ");
    }
}
