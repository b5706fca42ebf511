//! The stream as it should be, and what is wrong with the one that is there.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use humantime::format_duration;

use super::options::Stream;
use crate::pipeline::publish::Destination;

/// What a look at the stream has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// True where there is no stream of that name.
    pub missing: bool,
    /// The stream that is there.
    pub there: Option<Config>,
    /// Why events cannot be stored, each with what to do.
    pub unfit: Vec<String>,
    /// What differs from the configuration and keeps nothing from being stored.
    pub different: Vec<String>,
    /// Subjects that the stream does not take.
    pub uncovered: Vec<Arc<str>>,
}

impl Found {
    pub(super) fn unfit(reason: String) -> Self {
        Self { unfit: vec![reason], ..Self::default() }
    }
}

/// The subjects of a stream that is made: `<address>.>`, and the address itself where events go there.
pub(super) fn subjects(destinations: &[Arc<Destination>]) -> Vec<String> {
    let wanted = |to: &Arc<Destination>| match to.subject == to.address {
        true => to.subject.to_string(),
        false => format!("{}.>", to.address),
    };
    let mut all: Vec<String> = destinations.iter().map(wanted).collect();
    all.sort();
    all.dedup();
    // A server takes no stream whose subjects overlap.
    let within_another = |one: &String| all.iter().any(|other| other != one && covers(other, one));
    all.iter().filter(|subject| !within_another(subject)).cloned().collect()
}

/// The stream as it is made.
pub(in crate::bus) fn wanted(options: &Stream, destinations: &[Arc<Destination>]) -> Config {
    Config {
        name: options.name.clone(),
        description: Some("Attio's events, published by attio-bridge".into()),
        subjects: subjects(destinations),
        storage: StorageType::File,
        num_replicas: options.replicas.unwrap_or(1),
        duplicate_window: options.duplicate_window,
        max_age: options.max_age,
        allow_direct: true,
        ..Config::default()
    }
}

/// Compares the stream that is there with the one that is wanted.
pub(super) fn compare(there: &Config, options: &Stream, destinations: &[Arc<Destination>]) -> Found {
    let mut found = Found { uncovered: uncovered(&there.subjects, destinations), ..Found::default() };
    if there.mirror.is_some() || there.sealed {
        found.unfit.push("it is a mirror or sealed and takes no messages: name another stream".into());
    }
    if there.no_ack {
        found.unfit.push("its acks are turned off (no_ack): turn them on".into());
    }
    differences(there, options, &mut found.different);
    found
}

fn uncovered(subjects: &[String], destinations: &[Arc<Destination>]) -> Vec<Arc<str>> {
    let taken = |to: &Arc<Destination>| subjects.iter().any(|pattern| covers(pattern, &to.subject));
    let mut missing: Vec<_> =
        destinations.iter().filter(|to| !taken(to)).map(|to| Arc::clone(&to.subject)).collect();
    missing.sort();
    missing.dedup();
    missing
}

fn differences(there: &Config, options: &Stream, out: &mut Vec<String>) {
    if there.storage != StorageType::File {
        out.push("storage is memory, not file: a restart of the server loses what it holds".into());
    }
    if there.retention != RetentionPolicy::Limits {
        out.push(format!(
            "retention is {:?}, not limits: the server drops events that its rules call done",
            there.retention
        ));
    }
    if let Some(replicas) = options.replicas
        && there.num_replicas != replicas
    {
        out.push(format!("replicas are {}, nats.stream.replicas is {replicas}", there.num_replicas));
    }
    if there.duplicate_window != options.duplicate_window {
        out.push(format!(
            "duplicate_window is {}, nats.stream.duplicate_window is {}",
            format_duration(there.duplicate_window),
            format_duration(options.duplicate_window)
        ));
    }
    if there.max_age != options.max_age {
        let age = |age: Duration| match age.is_zero() {
            true => "for ever".to_owned(),
            false => format_duration(age).to_string(),
        };
        out.push(format!(
            "max_age is {}, nats.stream.max_age is {}",
            age(there.max_age),
            age(options.max_age)
        ));
    }
}

/// Whether a pattern takes all that another takes.
fn covers(pattern: &str, other: &str) -> bool {
    let mut tokens = other.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(token)) if token != ">" => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// A list that a log line can hold.
pub(super) fn some_of(subjects: &[Arc<str>]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<&str> = subjects.iter().take(SHOWN).map(|subject| &**subject).collect();
    let more = subjects.len().saturating_sub(SHOWN);
    let shown = shown.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::nats::Options;

    fn destinations(pairs: &[(&str, &str)]) -> Vec<Arc<Destination>> {
        let one = |(address, subject): &(&str, &str)| {
            Arc::new(Destination { address: (*address).into(), subject: (*subject).into() })
        };
        pairs.iter().map(one).collect()
    }

    fn usual() -> Vec<Arc<Destination>> {
        destinations(&[
            ("attio.record", "attio.record.created"),
            ("attio.record", "attio.record.unknown"),
            ("crm.notes", "crm.notes.created"),
            ("attio.unknown", "attio.unknown"),
            ("attio.quarantine", "attio.quarantine"),
        ])
    }

    #[test]
    fn patterns_cover_as_the_server_has_it() {
        let yes =
            [("a.b", "a.b"), ("a.*", "a.b"), ("a.>", "a.b.c"), (">", "a"), ("a.>", "a.>"), ("*.b", "a.b")];
        let no =
            [("a.b", "a.c"), ("a.*", "a.b.c"), ("a.>", "a"), ("a.b.c", "a.b"), ("a.*", "a.>"), ("a", "a.b")];
        for (pattern, other) in yes {
            assert!(covers(pattern, other), "{pattern} {other}");
        }
        for (pattern, other) in no {
            assert!(!covers(pattern, other), "{pattern} {other}");
        }
    }

    #[test]
    fn a_stream_is_made_with_subjects_that_do_not_overlap() {
        let expected = ["attio.quarantine", "attio.record.>", "attio.unknown", "crm.notes.>"];
        assert_eq!(subjects(&usual()), expected);
        let nested =
            destinations(&[("a", "a.created"), ("a.b", "a.b.created"), ("a.quarantine", "a.quarantine")]);
        assert_eq!(subjects(&nested), ["a.>"]);
    }

    #[test]
    fn what_is_made_is_what_is_wanted() {
        let options = Options::new(["x"]).stream;
        let made = wanted(&options, &usual());
        assert_eq!(compare(&made, &options, &usual()), Found::default());
    }

    #[test]
    fn every_difference_is_told() {
        let mut options = Options::new(["x"]).stream;
        let mut there = wanted(&options, &usual());
        options.replicas = Some(3);
        there.storage = StorageType::Memory;
        there.retention = RetentionPolicy::WorkQueue;
        there.duplicate_window = Duration::from_secs(120);
        there.max_age = Duration::ZERO;
        there.subjects = vec!["attio.record.*".into()];
        let found = compare(&there, &options, &usual());
        assert_eq!(
            found.uncovered,
            ["attio.quarantine", "attio.unknown", "crm.notes.created"].map(Arc::from)
        );
        assert_eq!(found.unfit, Vec::<String>::new());
        assert_eq!(found.different.len(), 5, "{:?}", found.different);
        assert_eq!(found.different[3], "duplicate_window is 2m, nats.stream.duplicate_window is 2h");
        assert_eq!(found.different[4], "max_age is for ever, nats.stream.max_age is 7days");
        there.no_ack = true;
        there.sealed = true;
        assert_eq!(compare(&there, &options, &usual()).unfit.len(), 2);
    }

    #[test]
    fn a_long_list_is_cut() {
        let subjects: Vec<Arc<str>> = (0..6).map(|n| n.to_string().into()).collect();
        assert_eq!(some_of(&subjects), "0, 1, 2, 3 and 2 more");
        assert_eq!(some_of(&subjects[..2]), "0, 1");
    }
}
