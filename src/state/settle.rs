//! Collects the events of each entity, says which entities are due to be read, and which events a read has answered.
//!
//! A read answers an event if the event was taken before the read began and its answer is complete up to the event's
//! receipt. The first is no matter of clocks: where the bridge's is behind Attio's, an answer may bear a later time than
//! an event and not show what the event tells of. Events that are not answered stay.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::attio::entities::{EntityRef, Kind};
use crate::bus::state::Receipt;

/// An event that waits for a state.
pub(super) type Event = (Receipt, OffsetDateTime);

/// Entities that are remembered as gone, so that late events of them lead to no read.
const REMEMBERED: usize = 50_000;

/// Failures after which an entity counts as stuck.
const STUCK: u32 = 3;

/// Reads in a row that were in vain, as the answer was too old or the topic had a newer one, after which clocks are to
/// blame: more than ten seconds of them.
const LATE: u32 = 8;

/// Events that are held of an entity that is stuck. What comes then is answered with the last of them, so that one that
/// changes all the time does not use up what may be held for all.
const OF_STUCK: usize = 500;

/// How often a group is halved until each of it is alone, whatever its size is.
const ALONE: u32 = 16;

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
    /// When one of this kind and container was answered last.
    answered: HashMap<(Kind, Option<Arc<str>>), Instant>,
    /// What the times of further attempts are counted from.
    epoch: Option<Instant>,
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
    /// How often the group is halved in which it is read.
    halved: u32,
    failed_at: Option<Instant>,
}

impl Tries {
    /// Whether the entity counts as stuck.
    pub(super) fn are_many(self) -> bool {
        self.failed >= STUCK
    }

    /// Whether it counts as stuck as its answers are too old all the time.
    pub(super) fn are_late(self) -> bool {
        self.too_old >= LATE
    }

    /// Before it is read again that an answer was too old.
    fn pause(self) -> Duration {
        if self.are_late() { FAILED.1 } else { pause(TOO_OLD, self.too_old) }
    }
}

/// What an event adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    First,
    /// Others of the entity wait already.
    Joined,
    /// The same, and the last of them waits for this one too, which is done with. It is taken again before this one.
    Absorbed,
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
        let is_stuck = entry.tries.are_many() || entry.tries.are_late();
        if is_stuck
            && entry.events.len() >= OF_STUCK
            && let Some(last) = entry.events.last_mut()
        {
            last.1 = last.1.max(event.1);
            // A read that is under way began before.
            entry.asked = entry.asked.map(|asked| asked.min(entry.events.len() - 1));
            return Added::Absorbed;
        }
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
        let due = now + tries.pause();
        tries.too_old += 1;
        self.put_back(entity, events, tries, due);
    }

    /// No event that was taken before an answer was asked for was received later than this. Lowers the receipt of those
    /// that say so; by how much at most.
    pub(super) fn bound(&mut self, entity: &EntityRef, latest: OffsetDateTime) -> Option<time::Duration> {
        let entry = self.entities.get_mut(entity)?;
        let asked = entry.asked.unwrap_or_default();
        let late = entry.events.iter_mut().take(asked).filter(|event| event.1 > latest);
        late.map(|event| std::mem::replace(&mut event.1, latest) - latest).max()
    }

    /// The broker does not take the state: the entity counts as stuck.
    pub(super) fn refused(&mut self, entity: EntityRef, events: Vec<Event>, mut tries: Tries, now: Instant) {
        tries.failed = STUCK.max(tries.failed + 1);
        tries.halved = ALONE;
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
                entry.tries.halved = entry.tries.halved.max(tries.halved);
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

    /// Takes what is due: at most so many groups, each of one kind and container, and of so many entities at most; fewer
    /// where they may be what fails their groups.
    pub(super) fn take_due(&mut self, now: Instant, groups: usize, size: usize) -> Vec<Group> {
        let due = self.due.iter().take_while(|(due, _)| *due <= now).take(2 * groups * size);
        let due: Vec<_> = due.cloned().collect();
        let mut taken: Vec<Group> = Vec::new();
        let mut with_room: HashMap<(Kind, Option<Arc<str>>, u32), usize> = HashMap::new();
        for (at, entity) in due {
            let Some(entry) = self.entities.get_mut(&entity) else { continue };
            let halved = if entity.kind.is_read_in_bulk() { entry.tries.halved } else { ALONE };
            let container = (entity.kind, entity.container.clone(), halved);
            let size = size.checked_shr(halved).unwrap_or_default().max(1);
            let group = with_room.get(&container).filter(|group| taken[**group].len() < size);
            let group = match group {
                Some(group) => *group,
                None if taken.len() == groups => continue,
                None => {
                    taken.push(Vec::new());
                    with_room.insert(container, taken.len() - 1);
                    taken.len() - 1
                }
            };
            (entry.due, entry.asked) = (None, Some(entry.events.len()));
            self.due.remove(&(at, entity.clone()));
            taken[group].push(entity);
        }
        self.probe(&mut taken, groups);
        taken
    }

    /// Takes one out of each group that has failed often, to be read alone: if it is answered, another of the group is to
    /// blame, and if not, all are.
    fn probe(&self, taken: &mut Vec<Group>, groups: usize) {
        for at in 0..taken.len() {
            let group = &taken[at];
            let have_failed = group.iter().all(|entity| self.is_stuck(entity));
            if group.len() > 1 && have_failed && taken.len() < groups {
                let which = fastrand::usize(..group.len());
                let probe = taken[at].swap_remove(which);
                taken.push(vec![probe]);
            }
        }
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
            let before = Tries { too_old: tries.too_old.saturating_sub(1), ..tries };
            let again = now + before.pause();
            // Of those that were asked for some may be open, whatever is due for the others.
            let due = if answered.len() == asked { due.unwrap_or(again) } else { again };
            self.insert(entity.clone(), open, due, Tries { too_old: tries.too_old, ..Tries::default() });
        }
        Some((answered, tries))
    }

    /// A read failed. Returns whether the entity counts as stuck.
    ///
    /// Whom only this one is to blame for is read alone from then on. Any other failure says nothing about the group: it
    /// is read again as a whole. Only if others of its container were answered meanwhile it may be one of the group that
    /// fails them all, and the group is halved.
    pub(super) fn failed(&mut self, entity: &EntityRef, is_of_one: bool, now: Instant) -> bool {
        let Some(entry) = self.entities.get_mut(entity) else { return false };
        let (pause, tries) = (pause(FAILED, entry.tries.failed), &mut entry.tries);
        let due = if is_of_one { now + pause } else { together(*self.epoch.get_or_insert(now), now, pause) };
        let answered = self.answered.get(&(entity.kind, entity.container.clone()));
        let others_are_answered = answered.zip(tries.failed_at).is_some_and(|(at, failed)| *at > failed);
        tries.failed += 1;
        tries.failed_at = Some(now);
        if is_of_one {
            tries.halved = ALONE;
        } else if tries.are_many() && others_are_answered {
            tries.halved = ALONE.min(tries.halved + 1);
        }
        self.later(entity, due);
        self.is_stuck(entity)
    }

    /// One of this entity's kind and container was answered.
    pub(super) fn is_answered(&mut self, one: &EntityRef, now: Instant) {
        self.answered.insert((one.kind, one.container.clone()), now);
    }

    /// Whether it was tried several times in vain, and waits for another try.
    pub(super) fn is_stuck(&self, entity: &EntityRef) -> bool {
        self.entities.get(entity).is_some_and(|entry| entry.tries.are_many())
    }

    /// It cannot be read yet. Returns what was tried.
    pub(super) fn not_yet(&mut self, entity: &EntityRef, now: Instant) -> Tries {
        let Some(entry) = self.entities.get_mut(entity) else { return Tries::default() };
        let due = now + entry.tries.pause();
        entry.tries.too_old += 1;
        let tries = entry.tries;
        self.later(entity, due);
        tries
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

/// When to try again what has failed for no reason of its own: after a pause, or up to a quarter of it later, together with
/// what has failed a little earlier. Each alone would be a request for each.
fn together(epoch: Instant, now: Instant, pause: Duration) -> Instant {
    let (grid, since) = (pause.as_micros() / 4, (now + pause).duration_since(epoch).as_micros());
    let at = since.div_ceil(grid.max(1)) * grid.max(1);
    epoch + Duration::from_micros(at.try_into().unwrap_or(u64::MAX))
}

/// The pause after so many tries: twice as long each time.
fn pause((first, longest): (Duration, Duration), tries: u32) -> Duration {
    (first * 2_u32.saturating_pow(tries.min(10))).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> EntityRef {
        EntityRef { kind: Kind::Record, container: Some("o".into()), object: None, id: id.into() }
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
        let note = EntityRef { kind: Kind::Note, container: None, object: None, id: "n".into() };
        settle.changed(&note, (Receipt(4), at(3)), now);
        assert_eq!(settle.take_due(now, 8, 100), [vec![record("b")], vec![note]]);
        settle.changed(&record("c"), (Receipt(5), at(3)), later);
        assert_eq!(settle.next_due(), Some(later));
        assert_eq!(settle.take_due(later, 8, 100), [vec![record("a"), record("c")]]);
        assert_eq!(settle.next_due(), None);
    }

    #[test]
    fn stuck_entity_holds_some_events_and_the_last_one_waits_for_all() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        settle.refused(record("a"), vec![(Receipt(0), at(0))], Tries::default(), now);
        let many = OF_STUCK as u64;
        for event in 1..many {
            assert_eq!(settle.changed(&record("a"), (Receipt(event), at(1)), now), Added::Joined);
        }
        assert_eq!(settle.changed(&record("a"), (Receipt(many), at(2)), now), Added::Absorbed);
        settle.take_due(settle.next_due().unwrap(), 8, 100);
        assert_eq!(settle.changed(&record("a"), (Receipt(many + 1), at(1)), now), Added::Absorbed);
        let open = |settle: &mut Settle, complete_to| {
            let events = answered(settle, "a", at(complete_to), now).unwrap();
            OF_STUCK - events.len()
        };
        assert_eq!(open(&mut settle, 9), 1, "the last one has come after the read began");
        settle.take_due(settle.next_due().unwrap(), 8, 100);
        assert_eq!(answered(&mut settle, "a", at(1), now), Some(vec![]), "it waits for the one at 2");
        settle.take_due(settle.next_due().unwrap(), 8, 100);
        assert_eq!(answered(&mut settle, "a", at(2), now).unwrap().len(), 1);
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
        for _ in 0..10 {
            settle.take_due(time, 8, 100);
            assert_eq!(answered(&mut settle, "a", at(8), time), Some(vec![]));
            let due = settle.next_due().unwrap();
            pauses.push((due - time).as_millis());
            time = due;
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 5000, 5000, 5000, 30_000, 30_000]);
        settle.take_due(time, 8, 100);
        let (events, tries) = settle.answered(&record("a"), at(9), time).unwrap();
        assert!(tries.are_late());
        settle.again(record("a"), events, tries, time);
        assert_eq!(settle.next_due(), Some(time + FAILED.1), "the topic has a newer one");
    }

    #[test]
    fn event_that_says_it_was_received_after_it_was_taken_is_answered_all_the_same() {
        let (mut settle, now) = (Settle::default(), Instant::now());
        settle.changed(&record("a"), (Receipt(1), at(2)), now);
        settle.changed(&record("a"), (Receipt(2), at(5000)), now);
        settle.take_due(now, 8, 100);
        settle.changed(&record("a"), (Receipt(3), at(5000)), now);
        assert_eq!(settle.bound(&record("a"), at(20)), Some(time::Duration::seconds(4980)));
        assert_eq!(settle.bound(&record("a"), at(20)), None);
        assert_eq!(
            answered(&mut settle, "a", at(20), now),
            Some(vec![(Receipt(1), at(2)), (Receipt(2), at(20))])
        );
        settle.take_due(now, 8, 100);
        assert_eq!(
            answered(&mut settle, "a", at(21), now),
            Some(vec![]),
            "it came after that answer was asked for"
        );
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
    fn failed_read_is_repeated_later_each_time_and_alone_if_it_is_to_blame() {
        for is_of_one in [false, true] {
            let (mut settle, now) = (Settle::default(), Instant::now());
            let (mut time, mut stuck) = (now, Vec::new());
            settle.changed(&record("a"), (Receipt(1), at(1)), now);
            for _ in 0..3 {
                settle.take_due(time, 8, 100);
                stuck.push(settle.failed(&record("a"), is_of_one, time));
                time = settle.next_due().unwrap();
            }
            assert_eq!(stuck, [false, false, true]);
            assert_eq!(time - now, Duration::from_millis(500 + 1000 + 2000));
            settle.changed(&record("b"), (Receipt(2), at(1)), time);
            assert_eq!(settle.take_due(time, 8, 100).len(), if is_of_one { 2 } else { 1 });
        }
    }

    /// The sizes of the groups in which 100 entities are read that always fail.
    fn sizes(others_are_answered: bool) -> Vec<usize> {
        let (mut settle, mut time) = (Settle::default(), Instant::now());
        for id in 0..100 {
            settle.changed(&record(&id.to_string()), (Receipt(id), at(1)), time);
        }
        let mut sizes = Vec::new();
        for _ in 0..12 {
            let groups = settle.take_due(time, 100, 100);
            sizes.push(groups.iter().map(Vec::len).max().unwrap());
            assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 100);
            for entity in groups.iter().flatten() {
                settle.failed(entity, false, time);
            }
            if others_are_answered {
                settle.is_answered(&record("other"), time + Duration::from_millis(1));
            }
            time = settle.next_due().unwrap();
        }
        sizes
    }

    #[test]
    fn what_fails_one_after_the_other_is_soon_read_together() {
        const COUNT: u64 = 50;
        let (mut settle, mut now) = (Settle::default(), Instant::now());
        for id in 0..COUNT {
            settle.changed(
                &record(&id.to_string()),
                (Receipt(id), at(1)),
                now + Duration::from_millis(40 * id),
            );
        }
        let end = now + Duration::from_secs(100);
        let mut late = 0;
        while let Some(due) = settle.next_due().filter(|due| *due < end) {
            now = due;
            for group in settle.take_due(now, 8, 100) {
                late += usize::from(now > end - Duration::from_secs(40));
                for entity in group {
                    settle.failed(&entity, false, now);
                }
            }
        }
        assert!((1..=12).contains(&late), "{late} requests in 40 s, half of them probes");
    }

    #[test]
    fn group_that_fails_stays_whole_but_for_a_probe_and_is_halved_only_if_others_are_answered() {
        let all = sizes(false);
        assert!(all[..3] == [100; 3] && all[3..].iter().all(|size| *size >= 99), "{all:?}");
        let halved = sizes(true);
        assert!(halved[..3] == [100; 3] && halved[3] <= 50 && halved.ends_with(&[1, 1]), "{halved:?}");
    }

    #[test]
    fn one_that_fails_its_whole_group_is_told_apart_by_reads_of_single_ones() {
        let (mut settle, mut time) = (Settle::default(), Instant::now());
        for id in ["good", "poison"] {
            settle.changed(&record(id), (Receipt(1), at(1)), time);
        }
        let mut is_done = false;
        for _ in 0..60 {
            for group in settle.take_due(time, 8, 100) {
                if group == [record("good")] {
                    is_done = answered(&mut settle, "good", at(9), time).is_some();
                    settle.is_answered(&record("good"), time);
                } else {
                    group.iter().for_each(|entity| {
                        settle.failed(entity, false, time);
                    });
                }
            }
            time = settle.next_due().unwrap();
        }
        assert!(is_done);
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
