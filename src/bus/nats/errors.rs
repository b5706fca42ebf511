//! What the errors of the client and the server mean, and what to do about them.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use async_nats::jetstream;
use tokio::sync::watch;

use crate::pipeline::publish::PublishError;

/// Why a message has no ack.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client's queue is full, or too many messages are in flight.
    Busy,
    /// Larger than the server accepts; the client's error.
    TooLarge(String),
    /// Nothing listens on the subject.
    NoResponders,
    /// JetStream's error.
    Server(jetstream::Error),
    /// Acknowledged by this other stream.
    OtherStream(String),
    /// No ack in time.
    TimedOut,
    /// The server does not permit it; what to do.
    NotPermitted(String),
    /// The connection was lost before the ack.
    ConnectionLost,
    /// Another error of the client, or a reply that is no ack.
    Other(String),
}

/// What is known when a message fails.
#[derive(Clone, Copy)]
pub(super) struct Circumstances<'a> {
    /// The subject of the message.
    pub subject: &'a str,
    /// The stream that should store it.
    pub stream: &'a str,
    /// Whether the connection was lost after the message was enqueued.
    pub lost: bool,
    /// The client's last connection error.
    pub last_error: Option<&'a str>,
}

impl Failure {
    /// The port's error for it.
    pub(super) fn to_publish_error(&self, at: Circumstances<'_>) -> PublishError {
        const LOST: &str = "the connection was lost before the ack";
        let Circumstances { subject, stream, .. } = at;
        match self {
            Self::NoResponders => refused(format!(
                "no stream accepts subject {subject}, or its stream has no leader now: create stream {stream} \
                 with subjects that cover it, or set nats.stream.ensure to \"create\", and check that \
                 JetStream is enabled for this account"
            )),
            Self::TooLarge(error) => rejected(format!(
                "larger than the server accepts ({error}), subject {subject}: see its max_payload"
            )),
            Self::Busy => {
                PublishError::Busy { detail: "too many messages in flight to the NATS server".into() }
            }
            Self::NotPermitted(advice) => refused(advice.clone()),
            Self::ConnectionLost => unavailable(LOST, at),
            Self::TimedOut if at.lost => unavailable(LOST, at),
            Self::TimedOut => PublishError::Timeout { detail: detail("no ack in time", at) },
            Self::OtherStream(other) => refused(other_stream(other, stream, subject)),
            Self::Server(error) => server_error(error, at),
            Self::Other(error) => unavailable(error, at),
        }
    }
}

fn other_stream(other: impl Display, stream: &str, subject: &str) -> String {
    format!(
        "another stream than {stream} accepts subject {subject} ({other}): name that stream in \
         nats.stream.name, or remove the subject from it"
    )
}

/// By JetStream's error codes.
/// Source: `server/errors.json` of nats-server.
fn server_error(error: &jetstream::Error, at: Circumstances<'_>) -> PublishError {
    let Circumstances { subject, stream, .. } = at;
    match error.error_code().0 {
        10054 => rejected(format!(
            "larger than stream {stream} accepts ({error}), subject {subject}: see its max_msg_size"
        )),
        10097 => rejected(format!("its headers are larger than the server accepts ({error})")),
        10056 | 10060 => refused(other_stream(error, stream, subject)),
        10059 => refused(format!("stream {stream} does not exist ({error}), subject {subject}: create it")),
        10035 | 10039 | 10076 | 10120 => refused(format!(
            "JetStream is off ({error}), subject {subject}: enable it for the server and this account"
        )),
        10109 => refused(format!("stream {stream} is sealed ({error}), subject {subject}: use another")),
        // 10158, "duplicate message id is in process": another copy is in flight and may still fail.
        // No space, no leader, store failed, codes of later servers: the sender retries.
        _ => unavailable(error, at),
    }
}

fn refused(detail: String) -> PublishError {
    PublishError::Refused { detail: detail.into() }
}

fn rejected(detail: String) -> PublishError {
    PublishError::Rejected { detail: detail.into() }
}

fn unavailable(error: impl Display, at: Circumstances<'_>) -> PublishError {
    PublishError::Unavailable { detail: detail(error, at) }
}

fn detail(error: impl Display, at: Circumstances<'_>) -> Arc<str> {
    let subject = at.subject;
    match at.last_error {
        Some(last) => format!("subject {subject}: {error}; last connection error: {last}").into(),
        None => format!("subject {subject}: {error}").into(),
    }
}

/// What to do about a connection error, where its own text does not say it.
pub(super) fn advice(error: &str) -> &'static str {
    const ADVICE: [(&[&str], &str); 6] = [
        (
            &["authorization violation", "authentication"],
            ": check nats.creds_file, nats.nkey_file, nats.token or nats.username and nats.password",
        ),
        (
            &["corrupt message"],
            ": the server seems not to use TLS: check nats.servers, and tls in the server's configuration",
        ),
        (
            &["tls", "certificate"],
            ": check nats.ca_file, nats.cert_file and nats.key_file, and the server's certificate",
        ),
        (&["connection refused"], ": check the address in nats.servers, and that the server runs"),
        (&["dns error"], ": check the names in nats.servers"),
        (&["timed out", "no reply"], ": check the address in nats.servers, and the firewalls on the way"),
    ];
    let error = error.to_ascii_lowercase();
    let found = ADVICE.iter().find(|(parts, _)| parts.iter().any(|part| error.contains(part)));
    found.map_or("", |(_, advice)| advice)
}

/// What the server does not permit this client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// To publish to this subject.
    Publish(String),
    /// To receive acks.
    Acks,
}

impl Violation {
    /// The violation that a text of the server reports.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let what = lower.strip_prefix("permissions violation for ")?;
        if what.starts_with("subscription") || what.contains("reply") {
            return Some(Self::Acks);
        }
        text.split('"').nth(1).map(|subject| Self::Publish(subject.to_owned()))
    }

    fn advice(&self) -> String {
        match self {
            Self::Publish(subject) => {
                format!("not permitted to publish to {subject}: allow it for this client's user")
            }
            Self::Acks => {
                "not permitted to receive acks: allow this client's user to subscribe to _INBOX.> and \
                           to publish with a reply"
                    .into()
            }
        }
    }
}

/// Permissions violations so far. The server reports them separately from the message, never as its ack: without
/// them a publish that is not permitted would time out.
#[derive(Default)]
pub(super) struct Violations(watch::Sender<Seen>);

#[derive(Default)]
struct Seen {
    count: u64,
    /// By subject, the number of its last violation. Only subjects that this client publishes to.
    publish: HashMap<String, u64>,
    acks: u64,
}

impl Seen {
    /// The violation that concerns a message to `subject` that was enqueued after the first `since`.
    fn since(&self, since: u64, subject: &str) -> Option<Violation> {
        if self.publish.get(subject).is_some_and(|last| *last > since) {
            return Some(Violation::Publish(subject.to_owned()));
        }
        (self.acks > since).then_some(Violation::Acks)
    }
}

impl Violations {
    /// Wakes every watch; logs the first of each subject.
    pub(super) fn add(&self, violation: &Violation, text: &str) {
        let mut first = false;
        self.0.send_modify(|seen| {
            seen.count += 1;
            let last = match violation {
                Violation::Publish(subject) => seen.publish.entry(subject.clone()).or_default(),
                Violation::Acks => &mut seen.acks,
            };
            first = std::mem::replace(last, seen.count) == 0;
        });
        if first {
            tracing::error!(text, "nats: {}", violation.advice());
        }
    }

    /// How many there are: read before a message is enqueued.
    pub(super) fn count(&self) -> u64 {
        self.0.borrow().count
    }

    /// What to do about the violation of a message to `subject` that was enqueued after the first `since`.
    pub(super) fn since(&self, since: u64, subject: &str) -> Option<String> {
        self.0.borrow().since(since, subject).as_ref().map(Violation::advice)
    }

    /// Watches for violations from now on.
    pub(super) fn watch(&self) -> Watch {
        let seen = self.0.subscribe();
        let since = seen.borrow().count;
        Watch { seen, since }
    }
}

/// Waits for violations after it began.
pub(super) struct Watch {
    seen: watch::Receiver<Seen>,
    since: u64,
}

impl Watch {
    /// What to do about the first violation on this subject; pending if there is none.
    pub(super) async fn on(mut self, subject: &str) -> String {
        let since = self.since;
        let found = self.seen.wait_for(|seen| seen.since(since, subject).is_some()).await;
        match found.ok().and_then(|seen| seen.since(since, subject)) {
            Some(violation) => violation.advice(),
            // The bus is gone.
            None => std::future::pending().await,
        }
    }

    /// Waits for the next violation on any subject.
    pub(super) async fn next(&mut self) {
        if self.seen.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Circumstances<'_> =
        Circumstances { subject: "attio.record.created", stream: "ATTIO", lost: false, last_error: None };

    fn of_code(code: u64) -> Failure {
        let text = format!(r#"{{"code":400,"err_code":{code},"description":"its text"}}"#);
        Failure::Server(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn every_failure_has_its_publish_error() {
        let text = || "its text".to_owned();
        let table = [
            (Failure::NoResponders, "refused"),
            (Failure::OtherStream(text()), "refused"),
            (Failure::NotPermitted(text()), "refused"),
            (Failure::ConnectionLost, "unavailable"),
            (Failure::TimedOut, "timeout"),
            (Failure::Busy, "busy"),
            (Failure::TooLarge(text()), "rejected"),
            (Failure::Other(text()), "unavailable"),
        ];
        for (failure, label) in table {
            assert_eq!(failure.to_publish_error(AT).label(), label, "{failure:?}");
        }
    }

    #[test]
    fn every_jetstream_error_code_has_its_publish_error() {
        let table = [
            (10054, "rejected"),    // message size exceeds maximum allowed
            (10097, "rejected"),    // header size exceeds maximum allowed of 64k
            (10056, "refused"),     // stream name in subject does not match request
            (10060, "refused"),     // expected stream does not match
            (10059, "refused"),     // stream not found
            (10035, "refused"),     // account not found
            (10039, "refused"),     // JetStream not enabled for account
            (10076, "refused"),     // JetStream not enabled
            (10120, "refused"),     // no JetStream default or applicable tiered limit present
            (10109, "refused"),     // invalid operation on sealed stream
            (10158, "unavailable"), // duplicate message id is in process
            (10077, "unavailable"), // store failed
            (10023, "unavailable"), // insufficient resources
            (10002, "unavailable"), // resource limits exceeded for account
            (10028, "unavailable"), // insufficient memory resources available
            (10047, "unavailable"), // insufficient storage resources available
            (10008, "unavailable"), // JetStream system temporarily unavailable
            (10009, "unavailable"), // JetStream cluster can not handle request
            (10118, "unavailable"), // stream is offline
            (10052, "unavailable"), // anything else
            (0, "unavailable"),
        ];
        for (code, label) in table {
            let error = of_code(code).to_publish_error(AT);
            assert_eq!(error.label(), label, "{code}");
            assert!(error.to_string().contains("its text"), "{error}");
        }
    }

    #[test]
    fn timeout_on_a_lost_connection_is_unavailable() {
        let lost = Circumstances { lost: true, last_error: Some("connection refused"), ..AT };
        let error = Failure::TimedOut.to_publish_error(lost);
        assert_eq!(error.label(), "unavailable");
        assert!(error.to_string().contains("connection refused"), "{error}");
    }

    #[test]
    fn refused_error_names_subject_and_stream() {
        for error in [Failure::NoResponders, Failure::OtherStream("X".into()), of_code(10060), of_code(10059)]
        {
            let text = error.to_publish_error(AT).to_string();
            assert!(text.contains("attio.record.created") && text.contains("ATTIO"), "{text}");
        }
    }

    #[test]
    fn permissions_violations_are_parsed() {
        let publish = Violation::parse("Permissions Violation for Publish to \"Attio.record.created\"");
        assert_eq!(publish, Some(Violation::Publish("Attio.record.created".into())));
        assert_eq!(
            Violation::parse("Permissions Violation for Subscription to \"_INBOX.x.*\""),
            Some(Violation::Acks)
        );
        assert_eq!(
            Violation::parse("Permissions Violation for Publish with Reply of \"x\""),
            Some(Violation::Acks)
        );
        assert_eq!(Violation::parse("Authorization Violation"), None);
    }

    #[tokio::test]
    async fn permissions_violation_reaches_only_waiters_of_its_subject() {
        let violations = Violations::default();
        violations.add(&Violation::Publish("a".into()), "");
        let (earlier, other) = (violations.watch(), violations.watch());
        violations.add(&Violation::Publish("a".into()), "");
        assert!(earlier.on("a").await.contains("publish to a"));
        let none = tokio::time::timeout(std::time::Duration::from_millis(20), other.on("b")).await;
        assert!(none.is_err(), "another subject");
        let late =
            tokio::time::timeout(std::time::Duration::from_millis(20), violations.watch().on("a")).await;
        assert!(late.is_err(), "a violation before the watch began");
        let acks = violations.watch();
        violations.add(&Violation::Acks, "");
        assert!(acks.on("b").await.contains("_INBOX"));
    }

    #[test]
    fn connection_errors_have_advice() {
        let table = [
            ("IO error: Connection refused (os error 111)", "that the server runs"),
            ("DNS error: failed to lookup address information: Name or service not known", "the names in"),
            ("timed out", "firewalls"),
            ("no reply within 6s", "firewalls"),
            ("TLS error: invalid peer certificate: UnknownIssuer", "nats.ca_file"),
        ];
        for (cause, part) in table {
            assert!(advice(cause).starts_with(": check ") && advice(cause).contains(part), "{cause}");
        }
    }
}
