//! Models of how states are written and events are done: every order of steps and crashes is tried. The rules as they
//! are built hold in all of them; each rule that is left out fails in one.

use std::collections::HashSet;
use std::hash::Hash;

use attio_bridge::bus::state::Version;

/// Tries every path from a state on; the first complaint ends it.
pub(super) fn explore<S: Clone + Eq + Hash>(
    start: S,
    steps: impl Fn(&S) -> Vec<S>,
    complaint: impl Fn(&S, bool) -> Option<String>,
) -> Result<usize, String> {
    let (mut seen, mut open) = (HashSet::from([start.clone()]), vec![start]);
    while let Some(state) = open.pop() {
        let next = steps(&state);
        if let Some(complaint) = complaint(&state, next.is_empty()) {
            return Err(complaint);
        }
        for state in next {
            if seen.insert(state.clone()) {
                open.push(state);
            }
        }
    }
    Ok(seen.len())
}

/// How a writer makes sure, on Kafka, that nothing newer stands before its record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// As it is built: after it has appended, up to its record, open transactions included.
    Behind,
    /// Before it appends.
    Before,
    /// After it has appended, but only what is committed.
    Committed,
    None,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Log {
    records: Vec<(Version, Option<bool>)>,
    writers: Vec<Writer>,
}

/// A writer and the states that it wants to write, in the order in which it has read them.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Writer {
    states: Vec<Version>,
    /// Its record whose transaction is open, and whether it has been checked.
    open: Option<(usize, bool)>,
    checked: bool,
    crashes: u8,
}

fn stands(log: &[(Version, Option<bool>)], version: Version, committed_only: bool) -> bool {
    let counts = |(_, committed): &&(Version, Option<bool>)| !committed_only || *committed == Some(true);
    log.iter().filter(counts).all(|(known, _)| known.allows(version))
}

fn log_steps(log: &Log, check: Check) -> Vec<Log> {
    let mut next = Vec::new();
    for (at, writer) in log.writers.iter().enumerate() {
        let mut step = |change: &dyn Fn(&mut Log)| {
            let mut log = log.clone();
            change(&mut log);
            next.push(log);
        };
        let finish = |log: &mut Log, place: usize, commit: bool| {
            log.records[place].1 = Some(commit);
            let writer = &mut log.writers[at];
            (writer.open, writer.checked) = (None, false);
            // What is refused is read again, or dropped: another state, which is one of the others here.
            writer.states.remove(0);
        };
        match writer.open {
            None => {
                let Some(version) = writer.states.first().copied() else { continue };
                if check == Check::Before && !writer.checked {
                    let passes = stands(&log.records, version, false);
                    step(&|log| {
                        log.writers[at].checked = passes;
                        if !passes {
                            log.writers[at].states.remove(0);
                        }
                    });
                    continue;
                }
                step(&|log| {
                    log.records.push((version, None));
                    log.writers[at].open = Some((log.records.len() - 1, false));
                });
            }
            Some((place, false)) => {
                let before = &log.records[..place];
                let passes = match check {
                    Check::Behind => stands(before, log.records[place].0, false),
                    Check::Committed => stands(before, log.records[place].0, true),
                    Check::Before | Check::None => true,
                };
                step(&|log| match passes {
                    true => log.writers[at].open = Some((place, true)),
                    false => finish(log, place, false),
                });
            }
            Some((place, true)) => step(&|log| finish(log, place, true)),
        }
        if let (Some((place, _)), true) = (writer.open, writer.crashes > 0) {
            // Its successor fences it, which aborts the transaction, and reads the same entity again.
            step(&|log| {
                log.records[place].1 = Some(false);
                let writer = &mut log.writers[at];
                (writer.open, writer.checked, writer.crashes) = (None, false, writer.crashes - 1);
            });
        }
    }
    next
}

/// Whether committed records of the key keep the rule, in the order of the log.
fn log_complaint(log: &Log) -> Option<String> {
    let committed = log.records.iter().filter(|(_, committed)| *committed == Some(true));
    let committed: Vec<Version> = committed.map(|(version, _)| *version).collect();
    committed.windows(2).find(|pair| !pair[0].allows(pair[1])).map(|pair| format!("{pair:?}"))
}

/// `state run`, a backfill beside it, and a third writer, with what each of them has read of one entity.
fn logs() -> Vec<Log> {
    let at = Version::At;
    let reads = [
        [vec![at(2), at(4)], vec![at(3)], vec![at(1)]],
        [vec![at(1), Version::Gone], vec![at(2)], vec![at(3)]],
        [vec![at(3)], vec![at(1), at(2)], vec![Version::Gone]],
    ];
    let writer = |states: Vec<Version>| Writer { states, open: None, checked: false, crashes: 1 };
    reads
        .into_iter()
        .map(|reads| Log { records: vec![], writers: reads.into_iter().map(writer).collect() })
        .collect()
}

fn log_holds(check: Check) -> Result<usize, String> {
    let explored =
        logs().into_iter().map(|log| explore(log, |log| log_steps(log, check), |log, _| log_complaint(log)));
    explored.sum()
}

#[test]
fn log_keeps_the_rule_however_writers_interleave() {
    assert!(log_holds(Check::Behind).unwrap() > 1000);
}

#[test]
fn log_breaks_it_with_any_weaker_check() {
    for check in [Check::Before, Check::Committed, Check::None] {
        log_holds(check).unwrap_err();
    }
}

/// What a writer leaves out on NATS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    /// As it is built.
    Compared,
    /// It does not tell the server the sequence of what it has compared itself with.
    Unconditional,
    /// It does not compare.
    Blind,
    /// A refusal counts as another's newer state, without a look at what is there.
    Hasty,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Subject {
    /// What was stored, in order; the last one is there. The second part is the writer.
    stored: Vec<(Version, usize)>,
    writers: Vec<(Version, Phase)>,
    /// Acks that may still be lost.
    losses: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Start,
    /// It has seen that many.
    Seen(usize),
    Stored,
    Older,
}

fn subject_steps(subject: &Subject, store: Store) -> Vec<Subject> {
    let mut next = Vec::new();
    for (at, (version, phase)) in subject.writers.iter().copied().enumerate() {
        let mut to = |phase: Phase, stored: bool, lost: bool| {
            let mut subject = subject.clone();
            subject.writers[at].1 = phase;
            subject.losses -= u8::from(lost);
            if stored {
                subject.stored.push((version, at));
            }
            next.push(subject);
        };
        match phase {
            Phase::Start => match subject.stored.last() {
                Some((_, writer)) if *writer == at && store != Store::Hasty => {
                    to(Phase::Stored, false, false)
                }
                Some((known, _)) if store != Store::Blind && !known.allows(version) => {
                    to(Phase::Older, false, false)
                }
                _ => to(Phase::Seen(subject.stored.len()), false, false),
            },
            Phase::Seen(count) => {
                let is_taken = store == Store::Unconditional || subject.stored.len() == count;
                match (is_taken, store) {
                    (false, Store::Hasty) => to(Phase::Older, false, false),
                    (false, _) => to(Phase::Start, false, false),
                    (true, _) => {
                        to(Phase::Stored, true, false);
                        if subject.losses > 0 {
                            // The client tries the same again, or looks first.
                            to(
                                if store == Store::Hasty { Phase::Seen(count) } else { Phase::Start },
                                true,
                                true,
                            );
                        }
                    }
                }
            }
            Phase::Stored | Phase::Older => {}
        }
    }
    next
}

fn subject_complaint(subject: &Subject, ended: bool) -> Option<String> {
    let versions: Vec<Version> = subject.stored.iter().map(|(version, _)| *version).collect();
    if let Some(pair) = versions.windows(2).find(|pair| !pair[0].allows(pair[1])) {
        return Some(format!("{pair:?}"));
    }
    let refused = |(at, (_, phase)): (usize, &(Version, Phase))| {
        // It is read again for nothing.
        *phase == Phase::Older && subject.stored.last().is_some_and(|(_, writer)| *writer == at)
    };
    let refused_own = ended && subject.writers.iter().enumerate().any(refused);
    refused_own.then(|| "the own message counts as another's".to_owned())
}

fn subject_holds(store: Store) -> Result<usize, String> {
    let sets =
        [[Version::At(1), Version::At(2), Version::At(3)], [Version::At(2), Version::Gone, Version::At(1)]];
    let explored = sets.into_iter().map(|versions| {
        let writers = versions.into_iter().map(|version| (version, Phase::Start)).collect();
        let start = Subject { stored: Vec::new(), writers, losses: 2 };
        explore(start, |subject| subject_steps(subject, store), subject_complaint)
    });
    explored.sum()
}

#[test]
fn subject_keeps_the_rule_however_writers_interleave() {
    assert!(subject_holds(Store::Compared).unwrap() > 100);
}

#[test]
fn subject_breaks_it_without_comparison_condition_or_second_look() {
    for store in [Store::Unconditional, Store::Blind, Store::Hasty] {
        subject_holds(store).unwrap_err();
    }
}

/// What the follower leaves out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    /// As it is built.
    Whole,
    /// Positions are stored before the states.
    EarlyPosition,
    /// An answer counts for every event of the entity, however old it is.
    AnyAnswer,
    /// An event that comes while a read is under way counts as answered by it.
    DroppedLast,
}

/// One entity that changes a few times; an event follows each change at once.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Followed {
    /// Changes so far; event number n tells of change n.
    changes: u8,
    position: u8,
    /// Events taken by this process that no state answers, and the answer that is under way.
    taken: u8,
    answered: u8,
    reading: Option<(u8, u8)>,
    ready: Option<(u8, u8)>,
    state: u8,
    crashes: u8,
}

const CHANGES: u8 = 3;

fn follow_steps(one: &Followed, follow: Follow) -> Vec<Followed> {
    let mut next = Vec::new();
    let mut step = |is_possible: bool, change: &dyn Fn(&mut Followed)| {
        if is_possible {
            let mut one = one.clone();
            change(&mut one);
            next.push(one);
        }
    };
    step(one.changes < CHANGES, &|one| one.changes += 1);
    step(one.taken < one.changes, &|one| {
        one.taken += 1;
        if follow == Follow::DroppedLast && one.reading.is_some() {
            one.answered = one.answered.max(one.taken);
        }
        if follow == Follow::EarlyPosition {
            one.position = one.taken;
        }
    });
    let idle = one.reading.is_none() && one.ready.is_none();
    // The answer may be as old as one change.
    for lag in 0..=1 {
        step(idle && one.answered < one.taken && one.changes >= lag, &|one| {
            one.reading = Some((one.changes - lag, one.taken));
        });
    }
    if let Some((seen, asked)) = one.reading {
        step(true, &|one| {
            one.reading = None;
            let events = if follow == Follow::AnyAnswer { asked } else { seen.min(one.taken) };
            if events > one.answered || follow == Follow::DroppedLast {
                one.ready = Some((seen, events.max(one.answered)));
            }
        });
    }
    if let Some((seen, events)) = one.ready {
        step(true, &|one| {
            one.ready = None;
            one.state = one.state.max(seen);
            one.answered = one.answered.max(events);
            // With the state, in one transaction; or after its ack.
            one.position = one.position.max(one.answered);
        });
    }
    step(one.crashes > 0, &|one| {
        (one.taken, one.answered, one.reading, one.ready) = (one.position, one.position, None, None);
        one.crashes -= 1;
    });
    next
}

fn follow_holds(follow: Follow) -> Result<usize, String> {
    let start = Followed {
        changes: 0,
        position: 0,
        taken: 0,
        answered: 0,
        reading: None,
        ready: None,
        state: 0,
        crashes: 2,
    };
    explore(
        start,
        |one| follow_steps(one, follow),
        |one, _| {
            let lost = one.state < one.answered && one.ready.is_none() && one.reading.is_none();
            lost.then(|| format!("change {} counts as answered, the state is of {}", one.answered, one.state))
        },
    )
}

#[test]
fn done_event_is_in_the_state_whatever_crashes() {
    assert!(follow_holds(Follow::Whole).unwrap() > 100);
}

#[test]
fn change_is_lost_by_early_positions_old_answers_and_dropped_events() {
    for follow in [Follow::EarlyPosition, Follow::AnyAnswer, Follow::DroppedLast] {
        follow_holds(follow).unwrap_err();
    }
}
