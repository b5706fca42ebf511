//! Generations: the number in every key. What the store remembers counts only for the brokers that acknowledged it, so
//! every set of brokers has a generation of its own, and begins another one when it has lost its data.
//!
//! One key of the store, the register, names the generation of each set of brokers. It is changed only if it is still
//! what was read. A bridge uses the generation of the brokers that it publishes to and never that of others, also where
//! two deployments share a prefix by mistake. A number is never given again, also if the register is lost; only the
//! first one of all is known beforehand.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::backend::Backend;
use crate::pipeline::publish::{BrokerIdentity, Bus, BusState};

/// The most sets of brokers that are kept; the oldest are dropped.
const KEPT: usize = 16;
/// How often the register is read again because another replica has changed it meanwhile.
const ATTEMPTS: usize = 5;
/// A new number is at most so much greater than the greatest one; two that do not know of each other hardly meet.
const STEP: u64 = 1 << 40;

/// The generation of a set of brokers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    generation: u64,
    #[serde(flatten)]
    brokers: BrokerIdentity,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Register(Vec<Entry>);

/// What this bridge knows of its generation.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) generation: u64,
    pub(super) brokers: Arc<BrokerIdentity>,
    /// The losses of the bus that it takes into account.
    losses: u64,
    /// The greatest one of the register when it was read.
    newest: u64,
    /// Nothing that was acknowledged since the start can have been lost before this generation.
    since_start: bool,
    /// Of the register: for the log.
    others: String,
}

impl Known {
    /// Whether what was published under a generation, or before one was known, may be remembered now.
    pub(super) fn covers(&self, generation: Option<u64>) -> bool {
        generation.map_or(self.since_start, |generation| generation == self.generation)
    }
}

impl Register {
    fn parse(text: Option<&[u8]>) -> Result<Self, Arc<str>> {
        // Empty after a delete in a bucket.
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(Self::default()) };
        // A number alone is that of an early build: which brokers it belongs to is not known.
        if let Ok(generation) = serde_json::from_slice(text) {
            return Ok(Self(vec![Entry { generation, brokers: BrokerIdentity::new("unknown brokers") }]));
        }
        let foreign =
            "the register of generations is unreadable: the prefix or bucket is used by another program";
        serde_json::from_slice(text).map_err(|_| foreign.into())
    }

    /// The generation of these brokers; writes it down. A bridge never goes behind one that it knows, whatever the
    /// store has forgotten and whichever brokers have come back: they may have been restored from an old copy. Where
    /// data was lost, the first bridge to notice begins the next generation, and the others find it.
    fn generation_of(&mut self, brokers: &BrokerIdentity, losses: u64, known: Option<&Known>) -> u64 {
        let newest = |(_, entry): &(usize, &Entry)| entry.generation;
        let matching = self.0.iter().enumerate().filter(|(_, entry)| entry.brokers.matches(brokers));
        let at = matching.max_by_key(newest).map(|(at, _)| at);
        let stored = at.map(|at| self.0[at].generation);
        let is_of_others = |generation| {
            self.0
                .iter()
                .enumerate()
                .any(|(other, entry)| Some(other) != at && entry.generation == generation)
        };
        let all = self.newest().into_iter().chain(known.map(|known| known.newest.max(known.generation)));
        let next = all.max().map_or(0, |last| last + 1 + fastrand::u64(..STEP));
        let is_lost = losses != known.map_or(0, |known| known.losses);
        let same = known.filter(|known| known.brokers.matches(brokers));
        let since = same.map(|known| known.generation).or(known.map(|known| known.newest));
        let generation = match (since, stored) {
            // Begun by another bridge since.
            (Some(since), Some(stored)) if stored > since => stored,
            (Some(_), _) => {
                let own = same.filter(|_| !is_lost).map(|known| known.generation);
                own.filter(|own| !is_of_others(*own)).unwrap_or(next)
            }
            (None, Some(stored)) if !is_lost => stored,
            (None, _) => next,
        };
        match at {
            Some(at) => {
                let entry = &mut self.0[at];
                entry.generation = generation;
                entry.brokers.learn(brokers);
            }
            None => {
                if self.0.len() >= KEPT
                    && let Some((oldest, _)) = self.0.iter().enumerate().min_by_key(newest)
                {
                    self.0.remove(oldest);
                }
                self.0.push(Entry { generation, brokers: brokers.clone() });
            }
        }
        generation
    }

    fn newest(&self) -> Option<u64> {
        self.0.iter().map(|entry| entry.generation).max()
    }

    /// The other brokers, with their generations.
    fn others(&self, generation: u64) -> String {
        let others = self.0.iter().filter(|entry| entry.generation != generation);
        let named =
            others.map(|entry| format!("{} (generation {})", entry.brokers.brokers, entry.generation));
        named.collect::<Vec<_>>().join(", ")
    }
}

/// The generation of the brokers that a bridge publishes to.
pub(super) struct Generations {
    bus: Arc<dyn Bus>,
    known: Mutex<Option<Arc<Known>>>,
    forget: Box<dyn Fn() + Send + Sync>,
}

impl Generations {
    /// `forget` is called when this bridge's own memory may hold what its brokers do not.
    pub(super) fn new(bus: Arc<dyn Bus>, forget: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { bus, known: Mutex::default(), forget }
    }

    pub(super) fn brokers_are_known(&self) -> bool {
        self.bus.identity().is_some()
    }

    /// Whether the bus waits for topics or a stream no more.
    pub(super) fn bus_has_started(&self) -> bool {
        self.bus.state() != BusState::Starting
    }

    /// None while it is not known, or not any more: then nothing that the store remembers counts.
    pub(super) fn present(&self) -> Option<Arc<Known>> {
        let known = self.known.lock().clone()?;
        let brokers = self.bus.identity()?;
        let same = Arc::ptr_eq(&known.brokers, &brokers) || known.brokers.includes(&brokers);
        (same && self.bus.data_losses() == known.losses).then_some(known)
    }

    /// What this bridge has just remembered by itself was acknowledged under this generation.
    pub(super) fn remembered(&self, generation: Option<u64>) {
        let present = self.present().map(|known| known.generation);
        if generation.is_some() && present.is_some() && generation != present {
            (self.forget)();
        }
    }

    /// Learns the generation from the store, and begins one where that is needed.
    pub(super) async fn update(&self, backend: &dyn Backend) -> Result<(), Arc<str>> {
        for _ in 0..ATTEMPTS {
            let losses = self.bus.data_losses();
            let brokers = self.bus.identity().ok_or("the brokers have not told yet which they are")?;
            let stored = backend.read_register().await?;
            let before = Register::parse(stored.as_ref().map(|stored| &*stored.value))?;
            let (mut register, known) = (before.clone(), self.known.lock().clone());
            let generation = register.generation_of(&brokers, losses, known.as_deref());
            let is_new = known.is_none_or(|known| known.generation != generation);
            if register != before || is_new && backend.reads_may_lag() {
                let text = serde_json::to_string(&register).map_err(|error| error.to_string())?;
                if !backend.write_register(text, stored).await? {
                    continue;
                }
            }
            let began = !before.0.iter().any(|entry| entry.generation == generation);
            self.learned(&register, generation, brokers, losses, began);
            return Ok(());
        }
        Err("other replicas change the register of generations again and again".into())
    }

    fn learned(
        &self,
        register: &Register,
        generation: u64,
        brokers: Arc<BrokerIdentity>,
        losses: u64,
        began: bool,
    ) {
        let (newest, others) = (register.newest().unwrap_or(generation), register.others(generation));
        let mut known = self.known.lock();
        let before = known.take();
        let is_new = before.as_ref().is_none_or(|before| before.generation != generation);
        let since_start = match &before {
            Some(before) => before.since_start && !is_new && before.losses == losses,
            None => losses == 0 && (began || generation == 0),
        };
        let met = before.as_ref().map_or(began, |before| before.others != others) && !others.is_empty();
        let name = brokers.brokers.clone();
        let others_seen = others.clone();
        *known =
            Some(Arc::new(Known { generation, brokers, losses, newest, since_start, others: others_seen }));
        drop(known);
        if is_new && !(before.is_none() && since_start) {
            (self.forget)();
        }
        if met {
            tracing::warn!(
                generation,
                brokers = name,
                others,
                "dedup store: it also holds what other brokers have acknowledged, which does not count for these; if \
                 those are still in use, give each deployment a prefix or bucket of its own"
            );
        } else if is_new {
            tracing::info!(
                generation,
                brokers = name,
                others,
                "dedup store: shared by the replicas of these brokers"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Generations {
        /// That of this bus is the first one.
        pub(in super::super) fn first_of(bus: Arc<dyn Bus>) -> Self {
            let generations = Self::new(bus, Box::new(|| {}));
            let brokers = generations.bus.identity().unwrap();
            generations.learned(&Register::default(), 0, brokers, 0, true);
            generations
        }
    }

    fn brokers(name: &str, topics: &[(&str, &str)]) -> BrokerIdentity {
        let own = |(name, id): &(&str, &str)| ((*name).to_owned(), (*id).to_owned());
        BrokerIdentity { brokers: name.into(), addresses: Some(topics.iter().map(own).collect()) }
    }

    fn known(generation: u64, of: &BrokerIdentity) -> Known {
        let (brokers, others) = (Arc::new(of.clone()), String::new());
        Known { generation, brokers, losses: 0, newest: generation, since_start: true, others }
    }

    #[test]
    fn every_set_of_brokers_has_a_generation_of_its_own_and_finds_it_again() {
        let [a, b, c] = ["kafka a", "kafka b", "nats a"].map(|name| brokers(name, &[]));
        let mut register = Register::default();
        let [first, second, third] = [&a, &b, &c].map(|of| register.generation_of(of, 0, None));
        assert!(first == 0 && second > 0 && third > second);
        assert_eq!([&a, &b, &c].map(|of| register.generation_of(of, 0, None)), [first, second, third]);
        let text = serde_json::to_vec(&register).unwrap();
        assert_eq!(Register::parse(Some(&text)), Ok(register));
        assert_eq!(Register::parse(Some(b"")), Ok(Register::default()));
        assert!(Register::parse(Some(b"L:7")).is_err());
        let mut early = Register::parse(Some(b"7")).unwrap();
        assert!(early.generation_of(&a, 0, None) > 7);
    }

    #[test]
    fn what_was_created_anew_is_another_and_what_is_new_is_learned() {
        let mut register = Register::default();
        let mut of = |topics: &[(&str, &str)]| register.generation_of(&brokers("kafka a", topics), 0, None);
        assert_eq!(of(&[("one", "x")]), 0);
        assert_eq!(of(&[("one", "x"), ("two", "y")]), 0, "a new topic");
        let next = of(&[("one", "x"), ("two", "z")]);
        assert!(next > 0, "a topic that was created anew");
        assert_eq!(of(&[("two", "z")]), next);
        assert!(of(&[("three", "x")]) > next, "another prefix on the same cluster");
    }

    #[test]
    fn the_first_to_notice_a_loss_begins_the_next_generation_and_the_others_find_it() {
        let a = brokers("kafka a", &[]);
        let mut register = Register::default();
        register.generation_of(&a, 0, None);
        register.generation_of(&brokers("kafka b", &[]), 0, None);
        let next = register.generation_of(&a, 1, Some(&known(0, &a)));
        assert!(next > 0);
        assert_eq!(register.generation_of(&a, 1, Some(&known(0, &a))), next, "another replica");
        assert_eq!(register.generation_of(&a, 0, Some(&known(0, &a))), next, "one that has not noticed yet");
        assert!(register.generation_of(&a, 1, None) > next, "a loss before anything was learned");
    }

    #[test]
    fn a_bridge_that_runs_goes_behind_no_generation_when_former_brokers_come_back() {
        let [first, second] = ["nats s, created 1", "nats s, created 2"].map(|name| brokers(name, &[]));
        let mut register = Register::default();
        register.generation_of(&first, 0, None);
        let of_second = register.generation_of(&second, 1, Some(&known(0, &first)));
        let restored =
            register.generation_of(&first, 2, Some(&Known { losses: 1, ..known(of_second, &second) }));
        assert!(restored > of_second);
        assert_eq!(register.generation_of(&first, 1, Some(&known(of_second, &second))), restored);
    }

    #[test]
    fn a_store_that_has_forgotten_is_told_and_no_number_is_given_twice() {
        let (a, b) = (brokers("kafka a", &[]), brokers("kafka b", &[]));
        assert_eq!(Register::default().generation_of(&a, 0, Some(&known(3, &a))), 3);
        let mut register = Register(vec![Entry { generation: 1, brokers: a.clone() }]);
        assert_eq!(register.generation_of(&a, 0, Some(&known(3, &a))), 3, "it lost the last change");
        let mut register = Register(vec![Entry { generation: 3, brokers: b }]);
        assert!(register.generation_of(&a, 0, Some(&known(3, &a))) > 3, "others have it");
        let begun = |_| Register::default().generation_of(&a, 1, Some(&known(0, &a)));
        let [one, another] = [0, 1].map(begun);
        assert_ne!(one, another, "by two that do not know of each other");
        let mut register = Register::default();
        for at in 0..3 * KEPT {
            register.generation_of(&brokers(&format!("kafka {at}"), &[]), 0, None);
        }
        assert_eq!(register.0.len(), KEPT);
    }

    #[test]
    fn what_was_published_before_the_generation_was_known_counts_if_nothing_can_have_been_lost() {
        let known = known(2, &brokers("kafka a", &[]));
        assert!(known.covers(Some(2)) && known.covers(None));
        assert!(!known.covers(Some(1)) && !Known { since_start: false, ..known }.covers(None));
    }
}
