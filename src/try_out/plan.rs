//! The mix: every type of the catalog, and between them everything that can happen to a delivery.
//! The order is always the same; only the ids differ from run to run.

use super::compose::{Composer, Spelling};
use super::forge::Forgery;
use super::planned::{Group, Planned};
use super::world::World;
use crate::catalog::{EVENT_TYPES, EventType, Kind};

/// One delivery of the mix.
#[derive(Clone, Copy, Debug)]
enum Step {
    One(&'static EventType),
    Batch(&'static [&'static str]),
    Guide(&'static str),
    Again,
    Unusual(Spelling),
    Unreadable,
    BrokenElement,
    Forged(Forgery),
}

impl Step {
    const fn group(self) -> Group {
        match self {
            Self::One(_) => Group::One,
            Self::Batch(_) => Group::Batch,
            Self::Guide(_) => Group::Guide,
            Self::Again => Group::Repeat,
            Self::Unusual(_) => Group::Unusual,
            Self::Unreadable | Self::BrokenElement => Group::Broken,
            Self::Forged(_) => Group::Forged,
        }
    }
}

/// What stands between the types. Every form of a delivery is repeated once.
const SPECIALS: [&[Step]; 14] = [
    &[Step::Again],
    &[Step::Batch(&["record.created", "record.updated", "task.created"]), Step::Again],
    &[Step::Forged(Forgery::WrongSecret)],
    &[Step::Guide("record.updated"), Step::Again],
    &[Step::Unreadable, Step::Again],
    &[Step::Unusual(Spelling::UnknownType), Step::Forged(Forgery::NoSignature)],
    &[Step::BrokenElement, Step::Again],
    &[Step::Unusual(Spelling::Empty)],
    &[Step::Guide("list-entry.created"), Step::Forged(Forgery::StaleTimestamp)],
    &[Step::Unusual(Spelling::Bare), Step::Again],
    &[Step::Forged(Forgery::AlteredBody)],
    &[
        Step::Unusual(Spelling::UnknownAction),
        Step::Batch(&["record.merged", "note.updated", "note-content.updated"]),
    ],
    &[Step::Guide("task.updated"), Step::Forged(Forgery::Spliced)],
    &[Step::Unusual(Spelling::Odd), Step::Again],
];

/// Plans one delivery after the other, round after round.
pub struct Planner {
    composer: Composer,
    round: Vec<Step>,
    next: usize,
}

impl Planner {
    /// A planner that signs with this secret, and plans what belongs to these groups; all of them
    /// where none is named.
    pub fn new(world: World, secret: String, groups: &[Group]) -> Self {
        let mut round = round();
        round.retain(|step| groups.is_empty() || groups.contains(&step.group()));
        // What repeats needs something to repeat.
        if round.iter().all(|step| step.group() == Group::Repeat) {
            round.insert(0, Step::One(of_catalog("record.created")));
        }
        Self { composer: Composer::new(world, secret), round, next: 0 }
    }

    /// Deliveries in a round.
    pub fn round_len(&self) -> usize {
        self.round.len()
    }

    /// The next delivery, signed now.
    pub fn plan(&mut self) -> Planned {
        let step = self.round[self.next % self.round.len()];
        self.next += 1;
        let compose = &mut self.composer;
        match step {
            Step::One(entry) => compose.one(entry),
            Step::Batch(names) => compose.batch(names),
            Step::Guide(name) => compose.guide(of_catalog(name)),
            Step::Again => compose.again(),
            Step::Unusual(spelling) => compose.unusual(spelling),
            Step::Unreadable => compose.unreadable(),
            Step::BrokenElement => compose.broken_element(),
            Step::Forged(forgery) => compose.forged(forgery),
        }
    }
}

/// Every type once, entities before what happens to them, and the specials spread between them.
fn round() -> Vec<Step> {
    let mut types: Vec<&'static EventType> = EVENT_TYPES.iter().collect();
    types.sort_by_key(|entry| (age(entry.action), entry.category));
    let mut round = Vec::new();
    let mut specials = SPECIALS.into_iter();
    for (index, entry) in types.iter().enumerate() {
        round.push(Step::One(entry));
        // After each type as many specials as keep the two lists in step.
        let due = (index + 1) * SPECIALS.len() / types.len() - index * SPECIALS.len() / types.len();
        round.extend(specials.by_ref().take(due).flatten());
    }
    round
}

/// When in its life an entity meets this.
fn age(action: &str) -> u8 {
    match action {
        "created" => 0,
        "deleted" => 3,
        "merged" | "unresolved" => 2,
        _ => 1,
    }
}

/// An entry of the catalog that the mix names.
pub(super) fn of_catalog(name: &str) -> &'static EventType {
    match Kind::of(name) {
        Kind::Known(entry) => entry,
        Kind::UnknownAction(_) | Kind::Unknown => unreachable!("the mix names types of the catalog"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    fn one_round() -> Vec<Planned> {
        round_of(&[])
    }

    fn round_of(groups: &[Group]) -> Vec<Planned> {
        let mut planner = Planner::new(World::new(), "0123456789abcdef".into(), groups);
        (0..planner.round_len()).map(|_| planner.plan()).collect()
    }

    #[test]
    fn a_round_has_every_type_and_every_group() {
        let round = one_round();
        assert_eq!(round.len(), EVENT_TYPES.len() + SPECIALS.concat().len());
        let one = round.iter().filter(|planned| planned.group == Group::One);
        let types: BTreeSet<&str> = one.map(|planned| planned.label.as_str()).collect();
        assert_eq!(types.len(), EVENT_TYPES.len());
        assert!(EVENT_TYPES.iter().all(|entry| types.contains(entry.name)));
        for group in Group::ALL {
            assert!(round.iter().any(|planned| planned.group == group), "{group:?}");
        }
    }

    #[test]
    fn a_mix_has_what_was_asked_for() {
        for group in Group::ALL {
            let round = round_of(&[group]);
            let others = round.iter().filter(|planned| planned.group != group).count();
            assert_eq!(others, usize::from(group == Group::Repeat), "{group:?}");
        }
        let two = round_of(&[Group::Batch, Group::Forged]);
        assert!(two.iter().all(|planned| matches!(planned.group, Group::Batch | Group::Forged)));
    }

    #[test]
    fn the_order_is_always_the_same_and_the_ids_never() {
        let (one, other) = (one_round(), one_round());
        for (one, other) in one.iter().zip(&other) {
            assert_eq!((&one.label, &one.answer), (&other.label, &other.answer));
        }
        let ids = |round: &[Planned]| {
            let events = round.iter().flat_map(|planned| planned.events.clone());
            events.filter_map(|expected| expected.id).collect::<BTreeSet<_>>()
        };
        assert!(ids(&one).is_disjoint(&ids(&other)));
    }

    #[test]
    fn expected_events_agree_with_the_expected_counts() {
        for planned in one_round() {
            let counts = planned.answer.counts.unwrap_or_default();
            assert_eq!(
                planned.events.len() as u64,
                counts.published + counts.quarantined,
                "{}",
                planned.label
            );
        }
    }
}
