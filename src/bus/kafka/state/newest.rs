//! What a state topic holds, as far as it is needed: the version of the keys that were written last.
//!
//! The memory is bounded. A key that is not in it was last written before all that are, so its state was true before
//! [`Newest::floor`]: a read that is newer than that is newer than the key's state, and of any other read it is not
//! known. A state is read a moment before it is written, seconds before at most, while this remembers the last minutes.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::bus::state::{Outcome, Version, milliseconds};

/// How much of a topic is read at the start, by the stamps of its records.
pub(super) const WINDOW: Duration = Duration::from_secs(15 * 60);

/// How much the clocks of Attio and of those who write may differ.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// Keys that are remembered, at about 130 bytes each: what a backfill writes in several seconds.
const CAPACITY: usize = 150_000;

/// 128 bits of a hash, whatever the length of the key is.
type Digest128 = [u8; 16];

pub(super) struct Newest {
    versions: HashMap<Digest128, (u64, Version)>,
    /// The keys by the order in which they were written.
    order: BTreeMap<u64, Digest128>,
    written: u64,
    /// The states of all other keys were true before.
    floor: i64,
    capacity: usize,
}

impl Newest {
    /// Empty, at a start at this time: everything older than the window was true before it, whatever the clocks say.
    pub(super) fn new(now: OffsetDateTime) -> Self {
        Self::with(milliseconds(now - (WINDOW - SKEW)), CAPACITY)
    }

    fn with(floor: i64, capacity: usize) -> Self {
        Self { versions: HashMap::new(), order: BTreeMap::new(), written: 0, floor, capacity }
    }

    /// What becomes of a state of that version if it is written now; none if it may be.
    pub(super) fn refuses(&self, key: &str, next: Version) -> Option<Outcome> {
        match (self.versions.get(&digest(key)), next) {
            (_, Version::Gone) => None,
            (Some((_, Version::Gone)), _) => Some(Outcome::Gone),
            (Some((_, known)), next) => (!known.allows(next)).then_some(Outcome::Newer),
            (None, Version::At(at)) => (at <= self.floor).then_some(Outcome::Newer),
        }
    }

    /// Remembers what was written.
    pub(super) fn add(&mut self, key: &str, version: Version) {
        let key = digest(key);
        self.written += 1;
        let known = self.versions.remove(&key);
        if let Some((written, _)) = known {
            self.order.remove(&written);
        }
        let version = known.map_or(version, |(_, known)| known.max(version));
        self.versions.insert(key, (self.written, version));
        self.order.insert(self.written, key);
        while self.versions.len() > self.capacity
            && let Some((_, key)) = self.order.pop_first()
        {
            if let Some((_, Version::At(at))) = self.versions.remove(&key) {
                self.floor = self.floor.max(at);
            }
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

    #[test]
    fn older_states_and_whatever_follows_a_tombstone_are_refused() {
        let mut newest = Newest::with(0, 10);
        newest.add("a", at(5));
        newest.add("a", at(3));
        assert_eq!(newest.refuses("a", at(4)), Some(Outcome::Newer));
        assert_eq!(newest.refuses("a", at(5)), None);
        newest.add("a", Version::Gone);
        assert_eq!(newest.refuses("a", at(9)), Some(Outcome::Gone));
        assert_eq!(newest.refuses("a", Version::Gone), None);
        newest.add("a", at(9));
        assert_eq!(newest.refuses("a", at(10)), Some(Outcome::Gone));
    }

    #[test]
    fn of_a_forgotten_key_only_what_is_newer_than_all_forgotten_is_known_to_be_newer() {
        let mut newest = Newest::with(0, 2);
        for (key, time) in [("a", 5), ("b", 4), ("a", 6), ("c", 7)] {
            newest.add(key, at(time));
        }
        assert_eq!(newest.refuses("b", at(4)), Some(Outcome::Newer));
        assert_eq!(newest.refuses("b", at(5)), None);
        assert_eq!(newest.refuses("a", at(5)), Some(Outcome::Newer));
    }

    #[test]
    fn what_was_written_before_the_window_is_older_than_the_floor() {
        let start = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(3600);
        let newest = Newest::new(start);
        assert_eq!(newest.refuses("a", at(milliseconds(start))), None);
        assert_eq!(newest.refuses("a", at(milliseconds(start - WINDOW + SKEW))), Some(Outcome::Newer));
    }
}
