//! Collects the events of each entity, says which entities are due to be read, and which events a read has answered.
//!
//! A read answers an event if the event was taken before the read began and its answer is complete up to the event's
//! receipt. The first is no matter of clocks: where the bridge's is behind Attio's, an answer may bear a later time than
//! an event and not show what the event tells of. Events that are not answered stay.

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
const FAILED: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The same after an answer that was too old, or of which the topic has a newer one.
const TOO_OLD: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

#[derive(Default)]
pub(super) struct Settle {
    entities: HashMap<EntityRef, Entry>,
    due: BTreeSet<(Instant, EntityRef)>,
    gone: HashSet<EntityRef>,
    gone_in_order: VecDeque<EntityRef>,
}

struct Entry {
    events: Vec<Event>,
    /// When it is to be read; while it is read, when it is to be read for the events that came since.
    due: Option<Instant>,
    /// How many of the events were there when the read began that is under way.
    asked: Option<usize>,
    tries: Tries,
}

/// Reads of an entity that have led to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tries {
    failed: u32,
    too_old: u32,
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
    /// An event says that an entity has changed; it is to be read then, or before if others of the entity say so.
    pub(super) fn changed(&mut self, entity: &EntityRef, event: Event, due: Instant) -> Added {
        if self.gone.contains(entity) {
            return Added::Late;
        }
        let Some(entry) = self.entities.get_mut(entity) else {
            self.insert(entity.clone(), vec![event], due, Tries::default());
            return Added::First;
        };
        entry.events.push(event);
        let sooner = entry.due.is_none_or(|known| due < known) && entry.tries == Tries::default();
        if sooner && entry.asked.is_none() {
            self.later(entity, due);
        } else if sooner {
            entry.due = Some(due);
        }
        Added::Joined
    }

    /// The topic has a newer state than the one that these events have led to: they are answered by another read.
    pub(super) fn again(&mut self, entity: EntityRef, events: Vec<Event>, mut tries: Tries, now: Instant) {
        let due = now + pause(TOO_OLD, tries.too_old);
        tries.too_old += 1;
        self.put_back(entity, events, tries, due);
    }

    /// The broker does not take the state: the entity counts as stuck.
    pub(super) fn refused(&mut self, entity: EntityRef, events: Vec<Event>, mut tries: Tries, now: Instant) {
        tries.failed = STUCK.max(tries.failed + 1);
        self.put_back(entity, events, tries, now + pause(FAILED, tries.failed));
    }

    fn put_back(&mut self, entity: EntityRef, mut events: Vec<Event>, tries: Tries, due: Instant) {
        match self.entities.get_mut(&entity) {
            None => self.insert(entity, events, due, tries),
            // They are older than those that it has, and were taken before any read that is under way.
            Some(entry) => {
                entry.asked = entry.asked.map(|asked| asked + events.len());
                events.append(&mut entry.events);
                entry.events = events;
                entry.tries.failed = entry.tries.failed.max(tries.failed);
                entry.tries.too_old = entry.tries.too_old.max(tries.too_old);
            }
        }
    }

    fn insert(&mut self, entity: EntityRef, events: Vec<Event>, due: Instant, tries: Tries) {
        self.due.insert((due, entity.clone()));
        self.entities.insert(entity, Entry { events, due: Some(due), asked: None, tries });
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
        self.remove(entity).map_or_else(Vec::new, |entry| entry.events)
    }

    fn remove(&mut self, entity: &EntityRef) -> Option<Entry> {
        let entry = self.entities.remove(entity)?;
        if let Some(due) = entry.due {
            self.due.remove(&(due, entity.clone()));
        }
        Some(entry)
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
            let is_alone = !entity.kind.is_read_in_bulk() || entry.tries.failed >= STUCK;
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
            (entry.due, entry.asked) = (None, Some(entry.events.len()));
            self.due.remove(&(at, entity.clone()));
            taken[group].push(entity);
        }
        taken
    }

    /// An answer came that is complete up to that time. Returns the events that it answers, and what was tried before;
    /// the others, if any, lead to another read. None if the entity is gone meanwhile.
    pub(super) fn answered(
        &mut self,
        entity: &EntityRef,
        complete_to: OffsetDateTime,
        now: Instant,
    ) -> Option<(Vec<Event>, Tries)> {
        let Entry { events, due, asked, mut tries } = self.remove(entity)?;
        let asked = asked.unwrap_or_default();
        let (mut answered, mut open) = (Vec::new(), Vec::new());
        for (at, event) in events.into_iter().enumerate() {
            let is_answered = at < asked && event.1 <= complete_to;
            if is_answered { &mut answered } else { &mut open }.push(event);
        }
        if !open.is_empty() {
            if answered.is_empty() {
                tries.too_old += 1;
            } else {
                tries.too_old = 0;
            }
            let again = now + pause(TOO_OLD, tries.too_old.saturating_sub(1));
            // Of those that were asked for some may be open, whatever is due for the others.
            let due = if answered.len() == asked { due.unwrap_or(again) } else { again };
            self.insert(entity.clone(), open, due, Tries { failed: 0, ..tries });
        }
        Some((answered, tries))
    }

    /// A read failed. Returns whether the entity has just become stuck; none if it is gone meanwhile.
    pub(super) fn failed(&mut self, entity: &EntityRef, now: Instant) -> Option<bool> {
        let entry = self.entities.get_mut(entity)?;
        let due = now + pause(FAILED, entry.tries.failed);
        entry.tries.failed += 1;
        let is_stuck = entry.tries.failed == STUCK;
        self.later(entity, due);
        Some(is_stuck)
    }

    /// It cannot be read yet.
    pub(super) fn not_yet(&mut self, entity: &EntityRef, now: Instant) {
        if let Some(entry) = self.entities.get_mut(entity) {
            let due = now + pause(TOO_OLD, entry.tries.too_old);
            entry.tries.too_old += 1;
            self.later(entity, due);
        }
    }

    /// It is to be read then, whatever was before.
    fn later(&mut self, entity: &EntityRef, due: Instant) {
        if let Some(entry) = self.entities.get_mut(entity) {
            if let (Some(known), None) = (entry.due, entry.asked) {
                self.due.remove(&(known, entity.clone()));
            }
            (entry.due, entry.asked) = (Some(due), None);
            self.due.insert((due, entity.clone()));
        }
    }
}

/// The pause after so many tries: twice as long each time.
fn pause((first, longest): (Duration, Duration), tries: u32) -> Duration {
    (first * 2_u32.saturating_pow(tries.min(10))).min(longest)
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

    fn answered(
        settle: &mut Settle,
        id: &str,
        complete_to: OffsetDateTime,
        now: Instant,
    ) -> Option<Vec<Event>> {
        settle.answered(&record(id), complete_to, now).map(|(events, _)| events)
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
    fn merge_does_not_wait_for_the_changes_before_it() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        settle.changed(&record("a"), (Receipt(1), at(1)), now + Duration::from_secs(5));
        settle.changed(&record("a"), (Receipt(2), at(2)), now);
        assert_eq!(settle.take_due(now, 8, 100), [vec![record("a")]]);
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
    fn answer_leaves_the_events_that_are_younger_than_it_or_came_after_it_was_asked_for() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        let later = now + Duration::from_secs(5);
        settle.changed(&record("a"), (Receipt(1), at(1)), now);
        settle.changed(&record("a"), (Receipt(2), at(3)), now);
        settle.take_due(now, 8, 100);
        settle.changed(&record("a"), (Receipt(3), at(1)), later);
        assert_eq!(answered(&mut settle, "a", at(2), now), Some(vec![(Receipt(1), at(1))]));
        settle.take_due(settle.next_due().unwrap(), 8, 100);
        settle.changed(&record("a"), (Receipt(4), at(3)), later);
        // The same millisecond is not before.
        let events = answered(&mut settle, "a", at(3), now);
        assert_eq!(events, Some(vec![(Receipt(2), at(3)), (Receipt(3), at(1))]));
        assert_eq!(settle.next_due(), Some(later), "what came meanwhile settles as usual");
        settle.take_due(later, 8, 100);
        assert_eq!(answered(&mut settle, "a", at(3), now), Some(vec![(Receipt(4), at(3))]));
        assert_eq!(settle.next_due(), None);
    }

    #[test]
    fn answers_that_are_too_old_are_asked_for_again_ever_later() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        settle.changed(&record("a"), (Receipt(1), at(9)), now);
        let (mut time, mut pauses) = (now, Vec::new());
        for _ in 0..7 {
            settle.take_due(time, 8, 100);
            assert_eq!(answered(&mut settle, "a", at(8), time), Some(vec![]));
            let due = settle.next_due().unwrap();
            pauses.push((due - time).as_millis());
            time = due;
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        settle.take_due(time, 8, 100);
        let (events, tries) = settle.answered(&record("a"), at(9), time).unwrap();
        settle.again(record("a"), events, tries, time);
        assert_eq!(settle.next_due(), Some(time + TOO_OLD.1), "the topic has a newer one");
    }

    #[test]
    fn gone_answers_everything_at_once_and_nothing_comes_after_it() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        settle.changed(&record("a"), (Receipt(1), at(1)), now);
        settle.take_due(now, 8, 100);
        settle.changed(&record("a"), (Receipt(2), at(1)), now);
        assert_eq!(settle.gone(&record("a")), [(Receipt(1), at(1)), (Receipt(2), at(1))]);
        assert_eq!(answered(&mut settle, "a", at(9), now), None);
        assert_eq!(settle.changed(&record("a"), (Receipt(3), at(3)), now), Added::Late);
        assert_eq!(settle.next_due(), None);
    }

    #[test]
    fn answer_of_a_read_that_is_no_more_leaves_nothing_due_twice() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        settle.changed(&record("a"), (Receipt(1), at(1)), now);
        settle.take_due(now, 8, 100);
        let events = settle.gone(&record("a"));
        settle.again(record("a"), events, Tries::default(), now);
        assert_eq!(
            answered(&mut settle, "a", at(9), now),
            Some(vec![]),
            "asked for before they were put back"
        );
        settle.take_due(now + TOO_OLD.1, 8, 100);
        assert_eq!((answered(&mut settle, "a", at(9), now).unwrap().len(), settle.next_due()), (1, None));
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
        assert_eq!(stuck, [false, false, true]);
        assert_eq!(time - now, Duration::from_millis(500 + 1000 + 2000));
        settle.changed(&record("b"), (Receipt(2), at(1)), time);
        assert_eq!(settle.take_due(time, 8, 100).len(), 2);
    }

    #[test]
    fn refused_state_is_tried_again_alone_and_its_events_stay_in_order() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        settle.changed(&record("a"), (Receipt(2), at(2)), now);
        settle.refused(record("a"), vec![(Receipt(1), at(1))], Tries::default(), now);
        settle.take_due(now, 8, 100);
        let (events, tries) = settle.answered(&record("a"), at(2), now).unwrap();
        assert_eq!(events, [(Receipt(1), at(1)), (Receipt(2), at(2))]);
        settle.refused(record("a"), events, tries, now);
        let due = settle.next_due().unwrap();
        assert!(due >= now + FAILED.0 * 8, "{:?}", due - now);
        settle.changed(&record("b"), (Receipt(3), at(2)), due);
        assert_eq!(settle.take_due(due, 8, 100).len(), 2);
    }
}
