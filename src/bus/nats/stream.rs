//! The stream: what it should be, whether it is, and the monitor that checks it for `serve`.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{
    ContextBuilder, GetStreamByNameErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, Info, RetentionPolicy, StorageType};
use humantime::format_duration;

use super::errors::Violations;
use super::health::Health;
use super::options::{Ensure, Stream};
use crate::pipeline::publish::Destination;

/// One request to JetStream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// JetStream's error code for a stream that does not exist.
const STREAM_NOT_FOUND: u64 = 10059;

/// How often an invalid stream is probed.
const INVALID_INTERVAL: Duration = Duration::from_secs(1);

/// How often a valid stream is probed without a nudge.
const VALID_INTERVAL: Duration = Duration::from_secs(3600);

/// Nudges within this cause one probe.
const NUDGE_DELAY: Duration = Duration::from_millis(20);

/// What a probe found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// No stream of that name exists.
    pub missing: bool,
    /// The stream, if it can be read.
    pub config: Option<Config>,
    /// Why events cannot be stored, each with what to do.
    pub invalid: Vec<String>,
    /// What differs from the configuration but does not keep events from being stored.
    pub differences: Vec<String>,
    /// Subjects that the stream does not accept.
    pub uncovered: Vec<Arc<str>>,
}

impl Findings {
    fn invalid(reason: String) -> Self {
        Self { invalid: vec![reason], ..Self::default() }
    }
}

/// The subjects of a stream that is created: `<address>.>`, and the address itself where events go there.
fn subjects(destinations: &[Arc<Destination>]) -> Vec<String> {
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
fn compare(actual: Config, options: &Stream, destinations: &[Arc<Destination>]) -> Findings {
    let mut invalid = Vec::new();
    if actual.mirror.is_some() || actual.sealed {
        invalid.push("it is a mirror or sealed and accepts no messages: name another stream".into());
    }
    if actual.no_ack {
        invalid.push("its acks are turned off (no_ack): turn them on".into());
    }
    let covered = |to: &&Arc<Destination>| actual.subjects.iter().any(|pattern| covers(pattern, &to.subject));
    let uncovered = destinations.iter().filter(|to| !covered(to));
    let mut uncovered: Vec<_> = uncovered.map(|to| Arc::clone(&to.subject)).collect();
    uncovered.sort();
    uncovered.dedup();
    let differences = differences(&actual, options);
    Findings { missing: false, invalid, differences, uncovered, config: Some(actual) }
}

fn differences(actual: &Config, options: &Stream) -> Vec<String> {
    let age = |age: Duration| match age.is_zero() {
        true => "unlimited".to_owned(),
        false => format_duration(age).to_string(),
    };
    let mut found = Vec::new();
    if actual.storage != StorageType::File {
        found.push("storage is memory, not file: a restart of the server loses its events".to_owned());
    }
    if actual.retention != RetentionPolicy::Limits {
        let retention = actual.retention;
        found.push(format!("retention is {retention:?}, not limits: the server deletes consumed events"));
    }
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
    let shown: Vec<&str> = subjects.iter().take(SHOWN).map(|subject| &**subject).collect();
    let more = subjects.len().saturating_sub(SHOWN);
    let shown = shown.join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// Asks JetStream about the stream.
pub(super) struct Probe {
    client: Client,
    context: Context,
    options: Stream,
    destinations: Vec<Arc<Destination>>,
    violations: Arc<Violations>,
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

    /// Reads the stream and compares it with the configuration.
    pub(super) async fn probe(&self) -> Result<Findings, RequestError> {
        let name = &self.options.name;
        let request = format!("STREAM.INFO.{name}");
        let subject = format!("$JS.API.{request}");
        let violation = self.violations.watch();
        let reply: Result<Response<Info>, RequestError> = tokio::select! {
            reply = self.context.request(request, &()) => reply,
            // This does not keep events from being stored.
            advice = violation.on(&subject) => return Ok(Findings {
                differences: vec![format!(
                    "stream {name} cannot be checked: {advice}, or set nats.stream.ensure to \"off\""
                )],
                ..Findings::default()
            }),
        };
        match reply {
            Ok(Response::Ok(info)) => Ok(self.existing(info.config).await),
            Ok(Response::Err { error }) if error.error_code().0 == STREAM_NOT_FOUND => {
                let subjects = subjects(&self.destinations).join(", ");
                let other = self.other_stream().await;
                let reason = format!(
                    "stream {name} does not exist{other}: create it with the subjects {subjects}, or set \
                     nats.stream.ensure to \"create\""
                );
                Ok(Findings { missing: true, ..Findings::invalid(reason) })
            }
            Ok(Response::Err { error }) => Ok(Findings::invalid(format!(
                "JetStream refuses to describe stream {name}: {error}: enable JetStream for this account"
            ))),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(Findings::invalid(
                "JetStream does not reply: enable it on the server, or wait until it has started".into(),
            )),
            Err(error) => Err(error),
        }
    }

    async fn existing(&self, actual: Config) -> Findings {
        let mut found = compare(actual, &self.options, &self.destinations);
        if let Some(first) = found.uncovered.first() {
            let name = &self.options.name;
            let other = self.stream_of(first).await;
            let other = other.map(|other| format!("; stream {other} accepts the first")).unwrap_or_default();
            let uncovered = some_of(&found.uncovered);
            found
                .invalid
                .push(format!("stream {name} does not accept {uncovered}{other}: add the subjects to it"));
        }
        found
    }

    /// Creates the stream.
    async fn create(&self) -> Findings {
        let name = &self.options.name;
        match self.context.create_stream(stream_config(&self.options, &self.destinations)).await {
            Ok(created) => {
                tracing::info!(stream = name, "nats: stream created");
                compare(created.cached_info().config.clone(), &self.options, &self.destinations)
            }
            Err(error) => {
                let other = self.other_stream().await;
                Findings::invalid(format!("stream {name} cannot be created: {error}{other}"))
            }
        }
    }

    /// Another stream that accepts some of the subjects, as a part of a sentence.
    async fn other_stream(&self) -> String {
        for to in &self.destinations {
            if let Some(other) = self.stream_of(&to.subject).await {
                return format!(" (stream {other} accepts {})", to.subject);
            }
        }
        String::new()
    }

    async fn stream_of(&self, subject: &str) -> Option<String> {
        match self.context.stream_by_subject(subject).await {
            Ok(name) => Some(name),
            Err(error) => {
                if error.kind() != GetStreamByNameErrorKind::NotFound {
                    tracing::debug!(%error, "nats: cannot find the stream of {subject}");
                }
                None
            }
        }
    }
}

/// Probes the stream until it is valid, and again after a message was refused. Logs only changes. Never
/// changes a stream that exists.
pub(super) struct Monitor {
    probe: Probe,
    health: Arc<Health>,
    logged: Option<Findings>,
}

impl Monitor {
    pub(super) fn new(probe: Probe, health: Arc<Health>) -> Self {
        Self { probe, health, logged: None }
    }

    pub(super) async fn run(mut self) {
        if self.probe.options.ensure == Ensure::Off {
            self.health.mark_valid();
            // A supervised task that returned would end the process.
            return std::future::pending().await;
        }
        loop {
            let interval = match self.probe.client.connection_state() {
                State::Connected => self.check().await,
                State::Pending | State::Disconnected => VALID_INTERVAL,
            };
            self.health.nudged(interval).await;
            if interval == VALID_INTERVAL {
                tokio::time::sleep(NUDGE_DELAY).await;
            }
        }
    }

    /// Probes once, and creates a missing stream if configured; returns the time to the next probe.
    async fn check(&mut self) -> Duration {
        let found = match self.probe.probe().await {
            Ok(found) if found.missing && self.probe.options.ensure == Ensure::Create => {
                self.probe.create().await
            }
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "nats: cannot probe the stream");
                return INVALID_INTERVAL;
            }
        };
        let valid = found.invalid.is_empty();
        match valid {
            true => self.health.mark_valid(),
            false => self.health.mark_invalid(&found.invalid),
        }
        self.log(found);
        if valid { VALID_INTERVAL } else { INVALID_INTERVAL }
    }

    fn log(&mut self, found: Findings) {
        if self.logged.as_ref() == Some(&found) {
            return;
        }
        let stream = &self.probe.options.name;
        for reason in &found.invalid {
            tracing::error!(stream, "nats: the stream cannot store events: {reason}");
        }
        if !found.differences.is_empty() {
            let differences = found.differences.join("; ");
            tracing::warn!(stream, "nats: the stream differs from the configuration: {differences}");
        }
        if found.invalid.is_empty() {
            tracing::info!(stream, "nats: the stream accepts every event");
        }
        self.logged = Some(found);
    }
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

    #[test]
    fn created_stream_has_no_findings() {
        let options = Options::new(["x"]).stream;
        let created = stream_config(&options, &usual());
        assert_eq!(
            compare(created.clone(), &options, &usual()),
            Findings { config: Some(created), ..Findings::default() }
        );
    }

    #[test]
    fn every_difference_is_found() {
        let mut options = Options::new(["x"]).stream;
        let mut actual = stream_config(&options, &usual());
        options.replicas = Some(3);
        actual.storage = StorageType::Memory;
        actual.retention = RetentionPolicy::WorkQueue;
        actual.duplicate_window = Duration::from_secs(120);
        actual.max_age = Duration::ZERO;
        actual.subjects = vec!["attio.record.*".into()];
        let found = compare(actual.clone(), &options, &usual());
        assert_eq!(
            found.uncovered,
            ["attio.quarantine", "attio.unknown", "crm.notes.created"].map(Arc::from)
        );
        assert_eq!(found.invalid, Vec::<String>::new());
        assert_eq!(found.differences.len(), 5, "{:?}", found.differences);
        assert_eq!(found.differences[3], "duplicate_window is 2m, nats.stream.duplicate_window is 2h");
        assert_eq!(found.differences[4], "max_age is unlimited, nats.stream.max_age is 7days");
        actual.no_ack = true;
        actual.sealed = true;
        assert_eq!(compare(actual.clone(), &options, &usual()).invalid.len(), 2);
    }

    #[test]
    fn long_list_of_subjects_is_shortened() {
        let subjects: Vec<Arc<str>> = (0..6).map(|n| n.to_string().into()).collect();
        assert_eq!(some_of(&subjects), "0, 1, 2, 3 and 2 more");
        assert_eq!(some_of(&subjects[..2]), "0, 1");
    }
}
