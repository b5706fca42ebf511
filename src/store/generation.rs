//! Generations: the number in every key. What the store remembers counts only for the brokers that acknowledged it, so
//! every set of brokers has a generation of its own, and begins another one when it has lost its data.
//!
//! One key of the store, the register, names the generation of each set of brokers. It is changed only if it is still
//! what was read. A bridge uses the generation of the brokers that it publishes to and never that of others, also where
//! two deployments share a prefix by mistake.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::backend::Backend;
use crate::pipeline::publish::{BrokerIdentity, Bus};

/// The most sets of brokers that are kept; the oldest are dropped.
const KEPT: usize = 16;
/// How often the register is read again because another replica has changed it meanwhile.
const ATTEMPTS: usize = 5;

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
    brokers: Arc<BrokerIdentity>,
    /// The losses of the bus that it takes into account.
    losses: u64,
    /// It has been the same since the start.
    first: bool,
    /// Of the register: for the log.
    others: String,
}

impl Known {
    /// Whether what was published under a generation, or before one was known, may be remembered now.
    pub(super) fn covers(&self, generation: Option<u64>) -> bool {
        match generation {
            Some(generation) => generation == self.generation,
            // If it is the first one of all, nothing was lost and no broker was another before.
            None => self.generation == 0 && self.first,
        }
    }
}

impl Register {
    fn parse(text: Option<&[u8]>) -> Result<Self, Arc<str>> {
        let Some(text) = text else { return Ok(Self::default()) };
        let foreign =
            "the register of generations is unreadable: the prefix or bucket is used by another program";
        serde_json::from_slice(text).map_err(|_| foreign.into())
    }

    /// The generation of these brokers; writes it down. A bridge that knows one does not go back behind it, whatever
    /// the store has forgotten. If its brokers have lost data since, the first bridge to notice begins the next one,
    /// and the others find it.
    fn generation_of(&mut self, brokers: &BrokerIdentity, losses: u64, known: Option<&Known>) -> u64 {
        let known = known.filter(|known| known.brokers.matches(brokers));
        let newest = |(_, entry): &(usize, &Entry)| entry.generation;
        let matching = self.0.iter().enumerate().filter(|(_, entry)| entry.brokers.matches(brokers));
        let at = matching.max_by_key(newest).map(|(at, _)| at);
        let stored = at.map(|at| self.0[at].generation);
        let of_others = |generation| {
            self.0
                .iter()
                .enumerate()
                .any(|(other, entry)| Some(other) != at && entry.generation == generation)
        };
        let all = self.0.iter().map(|entry| entry.generation).chain(known.map(|known| known.generation));
        let next = all.max().map_or(0, |last| last + 1);
        let generation = match (known, stored) {
            (Some(known), stored) if stored.is_none_or(|stored| stored <= known.generation) => {
                let is_over = known.losses != losses || of_others(known.generation);
                if is_over { next } else { known.generation }
            }
            (_, Some(stored)) => stored,
            (_, None) => next,
        };
        match at {
            Some(at) => {
                let entry = &mut self.0[at];
                entry.generation = generation;
                entry.brokers.parts.extend(brokers.parts.clone());
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
    known: Mutex<Option<Known>>,
    on_change: Box<dyn Fn() + Send + Sync>,
}

impl Generations {
    /// `on_change` is called when this bridge's own memory may hold what its brokers do not.
    pub(super) fn new(bus: Arc<dyn Bus>, on_change: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { bus, known: Mutex::default(), on_change }
    }

    pub(super) fn brokers_are_known(&self) -> bool {
        self.bus.identity().is_some()
    }

    /// None while it is not known, or not any more: then nothing that the store remembers counts.
    pub(super) fn present(&self) -> Option<Known> {
        let known = self.known.lock().clone()?;
        let same = self.bus.data_losses() == known.losses
            && self.bus.identity().is_some_and(|brokers| known.brokers.matches(&brokers));
        same.then_some(known)
    }

    /// Learns the generation from the store, and begins one where that is needed.
    pub(super) async fn update(&self, backend: &dyn Backend) -> Result<(), Arc<str>> {
        for _ in 0..ATTEMPTS {
            let losses = self.bus.data_losses();
            let brokers = self.bus.identity().ok_or("the brokers have not told yet which they are")?;
            let stored = backend.read_register().await?;
            let before = Register::parse(stored.as_ref().map(|stored| &*stored.value))?;
            let (mut register, known) = (before.clone(), self.known.lock().clone());
            let generation = register.generation_of(&brokers, losses, known.as_ref());
            let confirms = known.is_none() && backend.reads_may_lag();
            if register != before || confirms {
                let text = serde_json::to_string(&register).map_err(|error| error.to_string())?;
                if !backend.write_register(text, stored).await? {
                    continue;
                }
            }
            let began = !before.0.iter().any(|entry| entry.generation == generation);
            self.learned(generation, brokers, losses, register.others(generation), began);
            return Ok(());
        }
        Err("other replicas change the register of generations again and again".into())
    }

    fn learned(
        &self,
        generation: u64,
        brokers: Arc<BrokerIdentity>,
        losses: u64,
        others: String,
        began: bool,
    ) {
        let mut known = self.known.lock();
        let before = known.as_ref().map(|known| (known.generation, known.losses, known.first));
        let first = before.is_none_or(|(of, at, first)| first && (of, at) == (generation, losses))
            && (before.is_some() || losses == 0);
        let is_new = before.is_none_or(|(of, ..)| of != generation);
        let met = known.as_ref().map_or(began, |known| known.others != others) && !others.is_empty();
        *known =
            Some(Known { generation, brokers: Arc::clone(&brokers), losses, first, others: others.clone() });
        drop(known);
        // What was acknowledged here before the generation was known counts in the first one alone.
        if is_new && (before.is_some() || generation > 0) {
            (self.on_change)();
        }
        let brokers = &*brokers.brokers;
        if met {
            tracing::warn!(
                generation,
                brokers,
                others,
                "dedup store: it also holds what other brokers have acknowledged, which does not count for these; if \
                 those are still in use, give each deployment a prefix or bucket of its own"
            );
        } else if is_new {
            tracing::info!(
                generation,
                brokers,
                others,
                "dedup store: shared by the replicas of these brokers"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brokers(name: &str, parts: &[(&str, &str)]) -> BrokerIdentity {
        let own = |(name, id): &(&str, &str)| ((*name).to_owned(), (*id).to_owned());
        BrokerIdentity { brokers: name.into(), parts: parts.iter().map(own).collect() }
    }

    fn known(generation: u64, of: &BrokerIdentity) -> Known {
        Known { generation, brokers: Arc::new(of.clone()), losses: 0, first: true, others: String::new() }
    }

    #[test]
    fn every_set_of_brokers_has_a_generation_of_its_own_and_finds_it_again() {
        let (a, b) = (brokers("kafka a", &[]), brokers("kafka b", &[]));
        let mut register = Register::default();
        for (of, expected) in [(&a, 0), (&b, 1), (&a, 0), (&b, 1), (&brokers("nats a", &[]), 2)] {
            assert_eq!(register.generation_of(of, 0, None), expected, "{of:?}");
        }
        let text = serde_json::to_vec(&register).unwrap();
        assert_eq!(Register::parse(Some(&text)), Ok(register));
        assert!(Register::parse(Some(b"7")).is_err());
    }

    #[test]
    fn what_was_created_anew_is_another_and_what_is_new_is_learned() {
        let mut register = Register::default();
        assert_eq!(register.generation_of(&brokers("kafka a", &[("one", "x")]), 0, None), 0);
        assert_eq!(register.generation_of(&brokers("kafka a", &[("two", "y")]), 0, None), 0, "a new topic");
        assert_eq!(register.generation_of(&brokers("kafka a", &[("one", "x"), ("two", "z")]), 0, None), 1);
        assert_eq!(register.generation_of(&brokers("kafka a", &[]), 0, None), 1, "the newest that fits");
    }

    #[test]
    fn the_first_to_notice_a_loss_begins_the_next_generation_and_the_others_find_it() {
        let a = brokers("kafka a", &[]);
        let mut register = Register::default();
        register.generation_of(&a, 0, None);
        register.generation_of(&brokers("kafka b", &[]), 0, None);
        assert_eq!(register.generation_of(&a, 1, Some(&known(0, &a))), 2);
        assert_eq!(register.generation_of(&a, 1, Some(&known(0, &a))), 2, "another replica");
        assert_eq!(register.generation_of(&a, 0, Some(&known(0, &a))), 2, "one that has not noticed yet");
    }

    #[test]
    fn a_store_that_has_forgotten_is_told_and_no_number_is_taken_twice() {
        let (a, b) = (brokers("kafka a", &[]), brokers("kafka b", &[]));
        let mut register = Register::default();
        assert_eq!(register.generation_of(&a, 0, Some(&known(3, &a))), 3);
        let mut register = Register(vec![Entry { generation: 1, brokers: a.clone() }]);
        assert_eq!(register.generation_of(&a, 0, Some(&known(3, &a))), 3, "it lost the last change");
        let mut register = Register(vec![Entry { generation: 3, brokers: b }]);
        assert_eq!(register.generation_of(&a, 0, Some(&known(3, &a))), 4, "others have it");
        let mut register = Register::default();
        for at in 0..3 * KEPT as u64 {
            assert_eq!(register.generation_of(&brokers(&format!("kafka {at}"), &[]), 0, None), at);
        }
        assert_eq!(register.0.len(), KEPT);
    }

    #[test]
    fn what_was_published_before_the_generation_was_known_counts_in_the_first_alone() {
        let a = brokers("kafka a", &[]);
        assert!(known(0, &a).covers(None) && known(2, &a).covers(Some(2)));
        assert!(!known(1, &a).covers(None) && !known(2, &a).covers(Some(1)));
        assert!(!Known { first: false, ..known(0, &a) }.covers(None));
    }
}
