//! The stream: what it should be, and whether it is.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType,
};
use humantime::format_duration;

use super::options::Stream;
use crate::pipeline::publish::Destination;

/// How long the sender retries a delivery.
const RETRIES: Duration = Duration::from_secs(3 * 24 * 3600);

/// What a probe found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// No stream of that name exists.
    pub missing: bool,
    /// Another stream accepts the subjects, so that none can be created.
    pub taken: bool,
    /// The stream, if it can be read.
    pub info: Option<Box<Info>>,
    /// Why events cannot be stored, each with what to do.
    pub invalid: Vec<String>,
    /// Whether nothing may be published, because an ack would be worth nothing.
    pub refuse: bool,
    /// What may lose events that the stream has acknowledged, each with what to set.
    pub warnings: Vec<String>,
    /// What differs from the configuration but does not keep events from being stored.
    pub differences: Vec<String>,
}

impl Findings {
    pub(super) fn invalid(reason: String) -> Self {
        Self { invalid: vec![reason], ..Self::default() }
    }
}

/// Every subject of these destinations, once.
pub(super) fn every_subject(destinations: &[Arc<Destination>]) -> Vec<Arc<str>> {
    let mut subjects: Vec<_> = destinations.iter().map(|to| Arc::clone(&to.subject)).collect();
    subjects.sort();
    subjects.dedup();
    subjects
}

/// The subjects of a stream that is created: `<address>.>`, and the address itself where events go there.
pub(super) fn subjects(destinations: &[Arc<Destination>]) -> Vec<String> {
    let pattern = |to: &Arc<Destination>| match to.subject == to.address {
        true => to.subject.to_string(),
        false => format!("{}.>", to.address),
    };
    let mut all: Vec<String> = destinations.iter().map(pattern).collect();
    all.sort();
    all.dedup();
    // The server refuses a stream whose subjects overlap.
    let within_another = |one: &String| all.iter().any(|other| other != one && covers(other, one));
    all.iter().filter(|subject| !within_another(subject)).cloned().collect()
}

/// The stream that is created.
pub(in crate::bus) fn stream_config(options: &Stream, destinations: &[Arc<Destination>]) -> Config {
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

/// Compares a stream with the configuration.
pub(super) fn compare(info: Info, clustered: bool, options: &Stream) -> Findings {
    let config = &info.config;
    let unusable = [
        (config.mirror.is_some(), "it is a mirror and accepts no messages: name another stream"),
        (config.sealed, "it is sealed and accepts no messages: name another stream"),
        (config.no_ack, "its acks are turned off (no_ack): turn them on"),
        (
            config.persist_mode == Some(PersistenceMode::Async),
            "its persist_mode is async: events are acknowledged before they are stored, and are lost when the server \
             is killed: create it anew with persist_mode default",
        ),
        (
            config.allow_message_counter,
            "it is a counter (allow_msg_counter) and accepts no events: name another stream",
        ),
    ];
    let unusable = unusable.into_iter().filter(|(found, _)| *found);
    let mut invalid: Vec<String> = unusable.map(|(_, reason)| reason.to_owned()).collect();
    let refuse = !invalid.is_empty();
    if info.cluster.as_ref().is_some_and(|cluster| cluster.leader.is_none()) {
        invalid.push("it has no leader: bring back the servers that hold its replicas".into());
    }
    let limits = [
        ("max_msgs", config.max_messages, info.state.messages),
        ("max_bytes", config.max_bytes, info.state.bytes),
    ];
    let is_full = |limit: i64, held: u64| u64::try_from(limit).is_ok_and(|limit| limit > 0 && held >= limit);
    for (name, limit, held) in limits {
        if config.discard == DiscardPolicy::New && is_full(limit, held) {
            invalid.push(format!(
                "it is full, and refuses new messages: raise its {name} of {limit}, or delete messages"
            ));
        }
    }
    Findings {
        warnings: warnings(config, clustered),
        differences: differences(config, options),
        invalid,
        refuse,
        info: Some(Box::new(info)),
        ..Findings::default()
    }
}

/// What may lose events that the stream has acknowledged, each with what to set.
fn warnings(config: &Config, clustered: bool) -> Vec<String> {
    let mut found = Vec::new();
    if config.storage != StorageType::File {
        found.push(
            "storage is memory: a restart of the server loses its events: create the stream anew with storage file"
                .to_owned(),
        );
    }
    if config.retention != RetentionPolicy::Limits {
        let retention = config.retention;
        found.push(format!(
            "retention is {retention:?}: the server deletes events that are consumed, or that no consumer waits for: \
             set retention to limits"
        ));
    }
    if clustered && config.num_replicas < 2 {
        found.push(
            "it has one replica in a cluster: the loss of one server loses its events: set num_replicas to 3"
                .into(),
        );
    }
    let new_per_subject = config.discard == DiscardPolicy::New && config.discard_new_per_subject;
    for (name, limit, keeps) in [
        ("max_msgs", config.max_messages, config.discard == DiscardPolicy::New),
        ("max_bytes", config.max_bytes, config.discard == DiscardPolicy::New),
        ("max_msgs_per_subject", config.max_messages_per_subject, new_per_subject),
    ] {
        if limit > 0 && !keeps {
            found.push(format!(
                "{name} is {limit}: the server deletes the oldest events beyond it, read or not: set {name} to -1"
            ));
        }
    }
    if !config.max_age.is_zero() && config.max_age < RETRIES {
        found.push(format!(
            "max_age is {}: events that no consumer reads within it are lost: set max_age to 72h, the time for which the \
             sender retries, or more",
            format_duration(config.max_age)
        ));
    }
    if config.subject_transform.is_some() {
        found.push(
            "subject_transform stores events under other subjects: consumers of theirs miss them: remove it"
                .into(),
        );
    }
    found
}

fn differences(actual: &Config, options: &Stream) -> Vec<String> {
    let age = |age: Duration| match age.is_zero() {
        true => "unlimited".to_owned(),
        false => format_duration(age).to_string(),
    };
    let mut found = Vec::new();
    if let Some(replicas) = options.replicas.filter(|replicas| *replicas != actual.num_replicas) {
        found.push(format!("replicas are {}, nats.stream.replicas is {replicas}", actual.num_replicas));
    }
    for (name, actual, wanted) in [
        ("duplicate_window", actual.duplicate_window, options.duplicate_window),
        ("max_age", actual.max_age, options.max_age),
    ] {
        if actual != wanted {
            found.push(format!("{name} is {}, nats.stream.{name} is {}", age(actual), age(wanted)));
        }
    }
    found
}

/// Whether a subject pattern accepts all that another accepts.
pub(super) fn covers(pattern: &str, other: &str) -> bool {
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

/// A list of subjects, shortened for a log line.
pub(super) fn some_of(subjects: &[Arc<str>]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<&str> = subjects.iter().take(SHOWN).map(|subject| &**subject).collect();
    let more = subjects.len().saturating_sub(SHOWN);
    let shown = shown.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
    fn subject_patterns_cover_as_on_the_server() {
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
    fn created_stream_has_subjects_without_overlap() {
        let expected = ["attio.quarantine", "attio.record.>", "attio.unknown", "crm.notes.>"];
        assert_eq!(subjects(&usual()), expected);
        let nested =
            destinations(&[("a", "a.created"), ("a.b", "a.b.created"), ("a.quarantine", "a.quarantine")]);
        assert_eq!(subjects(&nested), ["a.>"]);
    }

    fn info(config: Config) -> Info {
        let info = json!({
            "config": config, "created": "2026-01-02T03:04:05Z",
            "state": {
                "messages": 10, "bytes": 100, "first_seq": 1, "first_ts": "2026-01-02T03:04:05Z", "last_seq": 10,
                "last_ts": "2026-01-02T03:04:05Z", "consumer_count": 0,
            },
        });
        serde_json::from_value(info).unwrap()
    }

    #[test]
    fn created_stream_has_no_findings() {
        let options = Options::new(["x"]).stream;
        let found = compare(info(stream_config(&options, &usual())), false, &options);
        assert_eq!([found.invalid, found.warnings, found.differences].concat(), Vec::<String>::new());
    }

    #[test]
    fn every_setting_that_loses_acknowledged_events_is_a_warning() {
        type Change = fn(&mut Config);
        let table: [(&str, Change); 7] = [
            ("storage is memory", |config| config.storage = StorageType::Memory),
            ("retention is WorkQueue", |config| config.retention = RetentionPolicy::WorkQueue),
            ("max_msgs is 9", |config| config.max_messages = 9),
            ("max_bytes is 9", |config| config.max_bytes = 9),
            ("max_msgs_per_subject is 1", |config| config.max_messages_per_subject = 1),
            ("max_age is 1h", |config| config.max_age = Duration::from_secs(3600)),
            ("subject_transform", |config| {
                config.subject_transform = serde_json::from_str(r#"{"src":"a","dest":"b"}"#).unwrap();
            }),
        ];
        let options = Options::new(["x"]).stream;
        for (words, change) in table {
            let mut config = stream_config(&options, &usual());
            change(&mut config);
            let found = compare(info(config), false, &options);
            assert!(found.invalid.is_empty() && found.warnings.len() == 1, "{words}: {found:?}");
            assert!(found.warnings[0].contains(words), "{:?}", found.warnings);
        }
        let one_replica = compare(info(stream_config(&options, &usual())), true, &options);
        assert!(one_replica.warnings[0].contains("num_replicas"), "{one_replica:?}");
    }

    #[test]
    fn every_setting_that_keeps_events_out_is_an_error() {
        type Change = fn(&mut Config);
        let table: [(&str, bool, Change); 5] = [
            ("persist_mode is async", true, |config| config.persist_mode = Some(PersistenceMode::Async)),
            ("no_ack", true, |config| config.no_ack = true),
            ("sealed", true, |config| config.sealed = true),
            ("counter", true, |config| config.allow_message_counter = true),
            ("raise its max_msgs of 10", false, |config| {
                (config.max_messages, config.discard) = (10, DiscardPolicy::New);
            }),
        ];
        let options = Options::new(["x"]).stream;
        for (words, refuse, change) in table {
            let mut config = stream_config(&options, &usual());
            change(&mut config);
            let found = compare(info(config), false, &options);
            assert!(found.invalid.len() == 1 && found.invalid[0].contains(words), "{words}: {found:?}");
            assert_eq!((found.refuse, found.warnings), (refuse, vec![]), "{words}");
        }
    }

    #[test]
    fn every_difference_from_the_configuration_is_found() {
        let mut options = Options::new(["x"]).stream;
        let mut actual = stream_config(&options, &usual());
        options.replicas = Some(3);
        actual.duplicate_window = Duration::from_secs(120);
        actual.max_age = Duration::ZERO;
        assert_eq!(
            compare(info(actual), false, &options).differences,
            [
                "replicas are 1, nats.stream.replicas is 3",
                "duplicate_window is 2m, nats.stream.duplicate_window is 2h",
                "max_age is unlimited, nats.stream.max_age is 7days",
            ]
        );
    }

    #[test]
    fn long_list_of_subjects_is_shortened() {
        let subjects: Vec<Arc<str>> = (0..6).map(|n| n.to_string().into()).collect();
        assert_eq!(some_of(&subjects), "0, 1, 2, 3 and 2 more");
        assert_eq!(some_of(&subjects[..2]), "0, 1");
    }
}
