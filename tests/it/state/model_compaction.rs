//! A model of what a writer on Kafka remembers, while tombstones are removed from the log: it reads an entity, may be
//! held up for any time, may be started again, and reads the log only when it appends. Every order is tried.

use attio_bridge::bus::state::Version;

use super::model::explore;

/// The entity exists before.
const GONE: i64 = 2;
const END: i64 = 9;
/// How old an answer may be.
const LAG: i64 = 2;

/// In the same units: what is the age of a state at most, how much of the log is read at a start, and how long a
/// tombstone stays.
#[derive(Clone, Copy)]
struct Limits {
    age: i64,
    window: i64,
    retention: i64,
}

/// As it is built: ten minutes, fifteen, and `delete.retention.ms` of a day.
const BUILT: Limits = Limits { age: 3, window: 4, retention: 5 };

#[derive(Clone, PartialEq, Eq, Hash)]
struct Log {
    now: i64,
    /// In order, each with its stamp, and whether it is still there.
    records: Vec<(Version, i64, bool)>,
    /// What the writer has read of the entity.
    read: Option<Version>,
    /// What it remembers, and the next record that it reads.
    known: Option<Version>,
    next: usize,
    starts: u8,
}

fn steps(log: &Log, limits: Limits) -> Vec<Log> {
    let mut next = Vec::new();
    let mut step = |is_possible: bool, change: &dyn Fn(&mut Log)| {
        if is_possible {
            let mut log = log.clone();
            change(&mut log);
            next.push(log);
        }
    };
    step(log.now < END, &|log| log.now += 1);
    step(log.starts > 0, &|log| {
        let is_read = |record: &(Version, i64, bool)| record.1 >= log.now - limits.window;
        log.next = log.records.iter().position(is_read).unwrap_or(log.records.len());
        (log.read, log.known, log.starts) = (None, None, log.starts - 1);
    });
    for lag in 0..=LAG {
        step(log.read.is_none(), &|log| {
            let at = log.now - lag;
            log.read = Some(if at < GONE { Version::At(at) } else { Version::Gone });
        });
    }
    step(log.read.is_some() && log.records.len() < 4, &|log| {
        let unread = log.records[log.next..].iter().filter(|record| record.2).map(|record| record.0);
        log.known = unread.chain(log.known).max();
        log.next = log.records.len();
        let Some(version) = log.read.take() else { return };
        let is_young = !matches!(version, Version::At(at) if at <= log.now - limits.age);
        if is_young && log.known.is_none_or(|known| known.allows(version)) {
            log.records.push((version, log.now, true));
        }
    });
    let has_tombstone = log.records.iter().any(|record| record.0 == Version::Gone);
    step(log.now >= GONE && !has_tombstone, &|log| log.records.push((Version::Gone, log.now, true)));
    let is_old = |record: &&mut (Version, i64, bool)| record.1 <= log.now - limits.retention;
    step(has_tombstone, &|log| log.records.iter_mut().filter(is_old).for_each(|record| record.2 = false));
    next
}

fn holds(limits: Limits) -> Result<usize, String> {
    let start = Log { now: 0, records: Vec::new(), read: None, known: None, next: 0, starts: 2 };
    explore(
        start,
        |log| steps(log, limits),
        |log, _| {
            let versions: Vec<Version> = log.records.iter().map(|record| record.0).collect();
            let broken = versions.windows(2).find(|pair| !pair[0].allows(pair[1]));
            broken.map(|pair| format!("{pair:?}"))
        },
    )
}

#[test]
fn nothing_follows_a_tombstone_that_compaction_has_removed() {
    assert!(holds(BUILT).unwrap() > 1000);
}

#[test]
fn it_does_if_old_states_are_written_or_tombstones_stay_for_less_than_that() {
    holds(Limits { age: END, ..BUILT }).unwrap_err();
    holds(Limits { retention: 1, ..BUILT }).unwrap_err();
    holds(Limits { window: 0, ..BUILT }).unwrap_err();
}
