//! Collects the events of each entity, says which entities are due to be read, and which events a read has answered.
//!
//! An answer that is accurate at a time answers the events that were received until then. Later ones stay, also those
//! that came while the read was under way.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::attio::entities::{EntityRef, Kind};
use crate::bus::state::Receipt;

/// An event that waits for a state.
pub(super) type Event = (Receipt, OffsetDateTime);

/// Entities that are remembered as gone, so that late events of them lead to no read.
const REMEMBERED: usize = 50_000;

/// Failures after which an entity counts as stuck, and is read alone: it may be what fails the others.
const STUCK: u32 = 3;

/// The pause after the first failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

#[derive(Default)]
pub(super) struct Settle {
    entities: HashMap<EntityRef, Entry>,
    due: BTreeSet<(Instant, EntityRef)>,
    gone: HashSet<EntityRef>,
    gone_in_order: VecDeque<EntityRef>,
}

struct Entry {
    events: Vec<Event>,
    /// None while it is read.
    due: Option<Instant>,
    failures: u32,
}

/// What an event adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    First,
    /// Others of the entity wait already.
    Joined,
    /// The entity is gone.
    Late,
}

/// A group of entities that are read with one request.
pub(super) type Group = Vec<EntityRef>;

impl Settle {
    /// An event says that an entity has changed; it is to be read then.
    pub(super) fn changed(&mut self, entity: &EntityRef, event: Event, due: Instant) -> Added {
        if self.gone.contains(entity) {
            return Added::Late;
        }
        if let Some(entry) = self.entities.get_mut(entity) {
            entry.events.push(event);
            return Added::Joined;
        }
        self.insert(entity.clone(), vec![event], due);
        Added::First
    }

    /// Events that are to be answered by another read.
    pub(super) fn again(&mut self, entity: EntityRef, events: Vec<Event>, due: Instant) {
        match self.entities.get_mut(&entity) {
            Some(entry) => entry.events.extend(events),
            None => self.insert(entity, events, due),
        }
    }

    fn insert(&mut self, entity: EntityRef, events: Vec<Event>, due: Instant) {
        self.due.insert((due, entity.clone()));
        self.entities.insert(entity, Entry { events, due: Some(due), failures: 0 });
    }

    /// An entity is gone, which answers all its events. A read that is under way counts no more.
    pub(super) fn gone(&mut self, entity: &EntityRef) -> Vec<Event> {
        if self.gone.insert(entity.clone()) {
            self.gone_in_order.push_back(entity.clone());
        }
        if self.gone_in_order.len() > REMEMBERED
            && let Some(oldest) = self.gone_in_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
        let Some(entry) = self.entities.remove(entity) else { return Vec::new() };
        if let Some(due) = entry.due {
            self.due.remove(&(due, entity.clone()));
        }
        entry.events
    }

    /// When the next entity is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes what is due: at most so many groups, each of one kind and container, and of so many entities at most.
    pub(super) fn take_due(&mut self, now: Instant, groups: usize, size: usize) -> Vec<Group> {
        let due = self.due.iter().take_while(|(due, _)| *due <= now).take(2 * groups * size);
        let due: Vec<_> = due.cloned().collect();
        let mut taken: Vec<Group> = Vec::new();
        let mut with_room: HashMap<(Kind, Option<String>), usize> = HashMap::new();
        for (at, entity) in due {
            let Some(entry) = self.entities.get_mut(&entity) else { continue };
            let container = (entity.kind, entity.container.clone());
            let is_alone = !entity.kind.is_read_in_bulk() || entry.failures >= STUCK;
            let group = with_room.get(&container).filter(|group| !is_alone && taken[**group].len() < size);
            let group = match group {
                Some(group) => *group,
                None if taken.len() == groups => continue,
                None => {
                    taken.push(Vec::new());
                    if !is_alone {
                        with_room.insert(container, taken.len() - 1);
                    }
                    taken.len() - 1
                }
            };
            entry.due = None;
            self.due.remove(&(at, entity.clone()));
            taken[group].push(entity);
        }
        taken
    }

    /// An answer that was accurate at that time came. Returns the events that it answers; the others, if any, lead to
    /// a read at the time given. None if the entity is gone meanwhile.
    pub(super) fn answered(
        &mut self,
        entity: &EntityRef,
        accurate_at: OffsetDateTime,
        again: Instant,
    ) -> Option<Vec<Event>> {
        let mut entry = self.entities.remove(entity)?;
        let (answered, open): (Vec<Event>, Vec<Event>) =
            entry.events.into_iter().partition(|(_, recorded_at)| *recorded_at <= accurate_at);
        if !open.is_empty() {
            self.due.insert((again, entity.clone()));
            entry = Entry { events: open, due: Some(again), failures: 0 };
            self.entities.insert(entity.clone(), entry);
        }
        Some(answered)
    }

    /// A read failed. Returns after how long it is repeated, and whether the entity has just become stuck.
    pub(super) fn failed(&mut self, entity: &EntityRef, now: Instant) -> Option<bool> {
        let entry = self.entities.get_mut(entity)?;
        let (first, longest) = PAUSES;
        let due = now + (first * 2_u32.saturating_pow(entry.failures.min(10))).min(longest);
        entry.failures += 1;
        entry.due = Some(due);
        self.due.insert((due, entity.clone()));
        Some(entry.failures == STUCK)
    }

    /// A read is to be repeated then, without a failure.
    pub(super) fn later(&mut self, entity: &EntityRef, due: Instant) {
        if let Some(entry) = self.entities.get_mut(entity) {
            entry.due = Some(due);
            self.due.insert((due, entity.clone()));
        }
    }

    /// Entities that were tried several times in vain.
    pub(super) fn stuck(&self) -> usize {
        self.entities.values().filter(|entry| entry.failures >= STUCK).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> EntityRef {
        EntityRef { kind: Kind::Record, container: Some("o".into()), id: id.into() }
    }

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds)
    }

    #[test]
    fn events_of_an_entity_lead_to_one_read_and_other_entities_join_it() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        let later = now + Duration::from_secs(5);
        assert_eq!(settle.changed(&record("a"), (Receipt(1), at(1)), later), Added::First);
        assert_eq!(settle.changed(&record("a"), (Receipt(2), at(2)), later), Added::Joined);
        settle.changed(&record("b"), (Receipt(3), at(3)), now);
        let note = EntityRef { kind: Kind::Note, container: None, id: "n".into() };
        settle.changed(&note, (Receipt(4), at(3)), now);
        assert_eq!(settle.take_due(now, 8, 100), [vec![record("b")], vec![note]]);
        settle.changed(&record("c"), (Receipt(5), at(3)), later);
        assert_eq!(settle.next_due(), Some(later));
        assert_eq!(settle.take_due(later, 8, 100), [vec![record("a"), record("c")]]);
        assert_eq!(settle.next_due(), None);
    }

    #[test]
    fn groups_have_a_size_and_the_rest_stays_due() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        for id in ["a", "b", "c", "d", "e"] {
            settle.changed(&record(id), (Receipt(1), at(1)), now);
        }
        let ids = |groups: Vec<Group>| groups.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(ids(settle.take_due(now, 2, 2)), [2, 2]);
        assert_eq!(ids(settle.take_due(now, 2, 2)), [1]);
    }

    #[test]
    fn answer_leaves_the_events_that_are_younger_than_it() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        settle.changed(&record("a"), (Receipt(1), at(1)), now);
        settle.take_due(now, 8, 100);
        settle.changed(&record("a"), (Receipt(2), at(3)), now);
        let answered = settle.answered(&record("a"), at(2), now);
        assert_eq!(answered, Some(vec![(Receipt(1), at(1))]));
        assert_eq!(settle.take_due(now, 8, 100), [vec![record("a")]]);
        assert_eq!(settle.answered(&record("a"), at(3), now), Some(vec![(Receipt(2), at(3))]));
        assert_eq!(settle.next_due(), None);
    }

    #[test]
    fn gone_answers_everything_at_once_and_nothing_comes_after_it() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        settle.changed(&record("a"), (Receipt(1), at(1)), now);
        settle.take_due(now, 8, 100);
        assert_eq!(settle.gone(&record("a")), [(Receipt(1), at(1))]);
        assert_eq!(settle.answered(&record("a"), at(9), now), None);
        assert_eq!(settle.changed(&record("a"), (Receipt(2), at(3)), now), Added::Late);
    }

    #[test]
    fn failed_read_is_repeated_later_each_time_and_then_alone() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        let (mut time, mut stuck) = (now, Vec::new());
        settle.changed(&record("a"), (Receipt(1), at(1)), now);
        for _ in 0..3 {
            settle.take_due(time, 8, 100);
            stuck.push(settle.failed(&record("a"), time).unwrap());
            time = settle.next_due().unwrap();
        }
        assert_eq!((stuck, settle.stuck()), (vec![false, false, true], 1));
        assert_eq!(time - now, Duration::from_millis(500 + 1000 + 2000));
        settle.changed(&record("b"), (Receipt(2), at(1)), time);
        assert_eq!(settle.take_due(time, 8, 100).len(), 2);
    }
}
