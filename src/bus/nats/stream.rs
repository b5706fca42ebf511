//! The stream: what it should be, and asking JetStream whether it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{
    ContextBuilder, GetStreamByNameErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType,
};
use humantime::format_duration;
use serde_json::json;

use super::connect::connect_once;
use super::permissions::{Violation, Violations};
use super::{Options, Stream};
use crate::bus::error::StartError;
use crate::bus::inspect::RETRIES;
use crate::pipeline::publish::Destination;

/// One request to JetStream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// JetStream's error code for a stream that does not exist.
const STREAM_NOT_FOUND: u64 = 10059;

#[derive(Debug, Default)]
pub(super) struct Findings {
    pub missing: bool,
    /// Another stream accepts the subjects, so that none can be created.
    pub taken: bool,
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
    fn invalid(reason: String) -> Self {
        Self { invalid: vec![reason], ..Self::default() }
    }
}

pub(super) fn every_subject(destinations: &[Arc<Destination>]) -> Vec<Arc<str>> {
    let subjects: BTreeSet<_> = destinations.iter().map(|to| Arc::clone(&to.subject)).collect();
    subjects.into_iter().collect()
}

/// The subjects of a stream that is created: `<address>.>`, and the address itself where events go there.
fn subjects(destinations: &[Arc<Destination>]) -> Vec<String> {
    let pattern = |to: &Arc<Destination>| match to.subject == to.address {
        true => to.subject.to_string(),
        false => format!("{}.>", to.address),
    };
    let all: BTreeSet<String> = destinations.iter().map(pattern).collect();
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

fn compare(info: Info, clustered: bool, options: &Stream) -> Findings {
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
        (config.allow_message_counter, "it is a counter (allow_msg_counter): name another stream"),
    ];
    let unusable = unusable.into_iter().filter(|(found, _)| *found);
    let mut invalid: Vec<String> = unusable.map(|(_, reason)| reason.to_owned()).collect();
    let refuse = !invalid.is_empty();
    if info.cluster.as_ref().is_some_and(|cluster| cluster.leader.is_none()) {
        invalid.push("it has no leader: bring back the servers that hold its replicas".into());
    }
    let is_full = |limit: i64, held: u64| u64::try_from(limit).is_ok_and(|limit| limit > 0 && held >= limit);
    for (name, limit, held) in [
        ("max_msgs", config.max_messages, info.state.messages),
        ("max_bytes", config.max_bytes, info.state.bytes),
    ] {
        if config.discard == DiscardPolicy::New && is_full(limit, held) {
            invalid.push(format!(
                "it is full, and refuses new messages: raise its {name} of {limit}, or delete messages"
            ));
        }
    }
    let (warnings, differences) = (warnings(config, clustered), differences(config, options));
    Findings { warnings, differences, invalid, refuse, info: Some(Box::new(info)), ..Findings::default() }
}

/// What may lose events that the stream has acknowledged, each with what to set.
fn warnings(config: &Config, clustered: bool) -> Vec<String> {
    let Config { retention, max_age, .. } = config;
    let keeps = config.discard == DiscardPolicy::New;
    let limit = |name: &str, limit: i64, keeps: bool| {
        let text = format!(
            "{name} is {limit}: the server deletes the oldest events beyond it, read or not: set {name} to -1"
        );
        (limit > 0 && !keeps, text)
    };
    let found = [
        (
            config.storage != StorageType::File,
            "storage is memory: a restart of the server loses its events: create the stream anew with storage file"
                .to_owned(),
        ),
        (
            *retention != RetentionPolicy::Limits,
            format!(
                "retention is {retention:?}: the server deletes events that are consumed, or that no consumer waits \
                 for: set retention to limits"
            ),
        ),
        (
            clustered && config.num_replicas < 2,
            "it has one replica in a cluster: the loss of one server loses its events: set num_replicas to 3"
                .to_owned(),
        ),
        limit("max_msgs", config.max_messages, keeps),
        limit("max_bytes", config.max_bytes, keeps),
        limit(
            "max_msgs_per_subject",
            config.max_messages_per_subject,
            keeps && config.discard_new_per_subject,
        ),
        (
            !max_age.is_zero() && *max_age < RETRIES,
            format!(
                "max_age is {}: events that no consumer reads within it are lost: set max_age to 72h, the time for \
                 which the sender retries, or more",
                format_duration(*max_age)
            ),
        ),
        (
            config.subject_transform.is_some(),
            "subject_transform stores events under other subjects: consumers of theirs miss them: remove it"
                .to_owned(),
        ),
    ];
    found.into_iter().filter(|(found, _)| *found).map(|(_, text)| text).collect()
}

fn differences(actual: &Config, options: &Stream) -> Vec<String> {
    let length = |length: Duration, zero: &str| match length.is_zero() {
        true => zero.to_owned(),
        false => format_duration(length).to_string(),
    };
    let mut found = Vec::new();
    if let Some(replicas) = options.replicas.filter(|replicas| *replicas != actual.num_replicas) {
        found.push(format!("replicas are {}, nats.stream.replicas is {replicas}", actual.num_replicas));
    }
    for (name, zero, actual, wanted) in [
        // A stream with `sources` has none unless it is asked for.
        (
            "duplicate_window",
            "not set (no repeat is dropped)",
            actual.duplicate_window,
            options.duplicate_window,
        ),
        ("max_age", "unlimited", actual.max_age, options.max_age),
    ] {
        if actual != wanted {
            let (actual, wanted) = (length(actual, zero), length(wanted, zero));
            found.push(format!("{name} is {actual}, nats.stream.{name} is {wanted}"));
        }
    }
    found
}

/// Whether a subject pattern accepts all that another accepts.
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

/// A list of subjects, shortened for a log line.
pub(super) fn some_of(subjects: &[Arc<str>]) -> String {
    const SHOWN: usize = 4;
    let shown = subjects.iter().take(SHOWN).map(|subject| &**subject).collect::<Vec<_>>().join(", ");
    match subjects.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

pub(super) enum NoInfo {
    /// It is not permitted to ask, or to hear the reply.
    Denied(Violation),
    /// There was no reply, or an unusable one.
    Silent(RequestError),
}

pub(super) struct Probe {
    pub client: Client,
    context: Context,
    options: Stream,
    pub destinations: Vec<Arc<Destination>>,
    pub violations: Arc<Violations>,
}

impl Probe {
    pub(super) fn new(
        client: Client,
        options: Stream,
        destinations: Vec<Arc<Destination>>,
        violations: Arc<Violations>,
    ) -> Self {
        let context = ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone());
        Self { client, context, options, destinations, violations }
    }

    /// On a connection of its own. The inner error is why no server can be reached.
    pub(super) async fn connect(
        options: &Options,
        destinations: Vec<Arc<Destination>>,
    ) -> Result<Result<Self, String>, StartError> {
        let violations = Arc::<Violations>::default();
        let heard = Arc::clone(&violations);
        let client = connect_once(options, move |event| heard.on_event(&event)).await?;
        Ok(client.map(|client| Self::new(client, options.stream.clone(), destinations, violations)))
    }

    pub(super) fn is_clustered(&self) -> bool {
        self.client.server_info().cluster.is_some()
    }

    /// A request to JetStream, or why it is not permitted.
    async fn request<T: serde::de::DeserializeOwned>(
        &self,
        request: String,
        payload: &impl serde::Serialize,
    ) -> Result<Response<T>, NoInfo> {
        let (since, subject) = (self.violations.count(), format!("$JS.API.{request}"));
        tokio::select! {
            reply = self.context.request(request, payload) => reply.map_err(NoInfo::Silent),
            violation = self.violations.on(since, &subject) => Err(NoInfo::Denied(violation)),
        }
    }

    /// The stream, with the list of its deleted messages if asked for.
    pub(super) async fn info(&self, deleted: bool) -> Result<Response<Info>, NoInfo> {
        let request = format!("STREAM.INFO.{}", self.options.name);
        self.request(request, &json!({ "deleted_details": deleted })).await
    }

    /// Whether acks are received on this connection, and these subjects may be published to.
    pub(super) async fn is_permitted(&self, subjects: &[Arc<str>]) -> bool {
        let heard = match self.info(false).await {
            Ok(_) => true,
            Err(NoInfo::Denied(violation)) => violation != Violation::Acks,
            // Without JetStream there is a reply too.
            Err(NoInfo::Silent(error)) => error.kind() == RequestErrorKind::NoResponders,
        };
        heard && self.violations.denied(&self.client, subjects).await.is_some_and(|denied| denied.is_empty())
    }

    /// Reads the stream and compares it with the configuration. The error is why that is not known now.
    pub(super) async fn probe(&self) -> Result<Findings, String> {
        let name = &self.options.name;
        let refuse = |reason| Ok(Findings { refuse: true, ..Findings::invalid(reason) });
        if self.client.try_server_info().is_some_and(|server| !server.headers) {
            let reason = "the server has headers turned off: remove no_header_support from its configuration";
            return refuse(reason.into());
        }
        match self.info(false).await {
            Ok(Response::Ok(info)) => Ok(self.existing(info).await),
            Ok(Response::Err { error }) => match error.error_code().0 {
                STREAM_NOT_FOUND => Ok(self.absent().await),
                // No leader, or JetStream is starting.
                10008 | 10009 => Err(error.to_string()),
                _ => Ok(Findings::invalid(format!(
                    "JetStream refuses to describe stream {name}: {error}: enable JetStream for this account"
                ))),
            },
            Err(NoInfo::Denied(Violation::Acks)) => refuse(Violation::Acks.advice()),
            // This does not keep events from being stored.
            Err(NoInfo::Denied(violation)) => {
                let advice = violation.advice();
                let unknown = format!(
                    "stream {name} cannot be checked: {advice}, or set nats.stream.ensure to \"off\""
                );
                Ok(Findings { differences: vec![unknown], ..Findings::default() })
            }
            Err(NoInfo::Silent(error)) if error.kind() == RequestErrorKind::NoResponders => {
                let reason =
                    "JetStream does not reply: enable it on the server, or wait until it has started";
                Ok(Findings::invalid(reason.into()))
            }
            Err(NoInfo::Silent(error)) => Err(error.to_string()),
        }
    }

    async fn existing(&self, info: Info) -> Findings {
        let mut uncovered = every_subject(&self.destinations);
        uncovered.retain(|subject| !info.config.subjects.iter().any(|pattern| covers(pattern, subject)));
        let mut found = compare(info, self.is_clustered(), &self.options);
        // A mirror has no subjects.
        if let Some(first) = uncovered.first().filter(|_| !found.refuse) {
            let other = self.stream_of(first).await;
            let other = other.map(|other| format!("; stream {other} accepts the first: take it from there"));
            let (name, uncovered, other) =
                (&self.options.name, some_of(&uncovered), other.unwrap_or_default());
            let reason = format!("stream {name} does not accept {uncovered}: add the subjects to it{other}");
            found.invalid.push(reason);
        }
        found
    }

    async fn absent(&self) -> Findings {
        let (name, other) = (&self.options.name, self.other_stream().await);
        let (taken, subjects) = (other.is_some(), subjects(&self.destinations).join(", "));
        let reason = match other {
            Some(advice) => format!("stream {name} does not exist, and {advice}"),
            None => format!(
                "stream {name} does not exist: create it with the subjects {subjects}, as `attio-bridge topics` prints \
                 it, or set nats.stream.ensure to \"create\""
            ),
        };
        Findings { missing: true, taken, ..Findings::invalid(reason) }
    }

    pub(super) async fn create(&self) -> Findings {
        let name = &self.options.name;
        let wanted = stream_config(&self.options, &self.destinations);
        let error = match self.request::<Info>(format!("STREAM.CREATE.{name}"), &wanted).await {
            Ok(Response::Ok(created)) => {
                tracing::info!(stream = name, "nats: stream created");
                return compare(created, self.is_clustered(), &self.options);
            }
            Ok(Response::Err { error }) => {
                let other = self.other_stream().await.map(|advice| format!("; {advice}")).unwrap_or_default();
                format!("{error}{other}")
            }
            Err(NoInfo::Denied(violation)) => violation.advice(),
            Err(NoInfo::Silent(error)) => error.to_string(),
        };
        Findings::invalid(format!("stream {name} cannot be created: {error}"))
    }

    /// That another stream accepts some of the subjects, and what to do about it.
    async fn other_stream(&self) -> Option<String> {
        for subject in every_subject(&self.destinations) {
            if let Some(other) = self.stream_of(&subject).await {
                return Some(format!(
                    "stream {other} accepts {subject}: set nats.stream.name to \"{other}\", or take the subjects from it"
                ));
            }
        }
        None
    }

    async fn stream_of(&self, subject: &str) -> Option<String> {
        let found = self.context.stream_by_subject(subject).await;
        if let Err(error) = &found
            && error.kind() != GetStreamByNameErrorKind::NotFound
        {
            tracing::debug!(%error, "nats: cannot find the stream of {subject}");
        }
        found.ok()
    }
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
