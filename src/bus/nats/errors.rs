//! What the errors of the client and the server mean, and what to do about them.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use humantime::format_duration;

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
    Server(jetstream::Error),
    /// Acknowledged by this other stream.
    OtherStream(String),
    TimedOut,
    /// The server does not permit it; what to do.
    NotPermitted(String),
    /// Before the ack.
    ConnectionLost,
    /// Acknowledged as a repeat of a message that the stream does not have any more. The server remembers its id for
    /// the window.
    Gone {
        sequence: u64,
        window: Duration,
    },
    /// Another error of the client, or a reply that is no ack.
    Other(String),
}

#[derive(Clone, Copy)]
pub(super) struct Circumstances<'a> {
    pub subject: &'a str,
    pub stream: &'a str,
    /// Whether the connection was lost after the message was enqueued.
    pub lost: bool,
    /// The client's last connection error.
    pub last_error: Option<&'a str>,
}

impl Failure {
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
            Self::Gone { sequence, window } => refused(format!(
                "stream {stream} takes this event for a repeat of its message {sequence}, which was deleted, purged \
                 or evicted by a limit; it stores the event once its duplicate_window of {} has passed, subject \
                 {subject}",
                format_duration(*window)
            )),
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

/// By JetStream's error codes, of `server/errors.json` of nats-server.
fn server_error(error: &jetstream::Error, at: Circumstances<'_>) -> PublishError {
    let Circumstances { subject, stream, .. } = at;
    if let Some(advice) = full(error) {
        return refused(format!("stream {stream} has no room ({error}), subject {subject}: {advice}"));
    }
    match error.error_code().0 {
        10054 => rejected(format!(
            "larger than stream {stream} accepts ({error}), subject {subject}: see its max_msg_size"
        )),
        10097 => rejected(format!("its headers are larger than the server accepts ({error})")),
        10056 | 10060 => refused(other_stream(error, stream, subject)),
        10059 => refused(format!(
            "stream {stream} does not exist ({error}), subject {subject}: create it; `attio-bridge topics` prints how"
        )),
        10035 | 10039 | 10076 | 10120 => refused(format!(
            "JetStream is off ({error}), subject {subject}: enable it for the server and this account"
        )),
        10109 => refused(format!("stream {stream} is sealed ({error}), subject {subject}: use another")),
        // 10158, "duplicate message id is in process": another copy is in flight and may still fail.
        // No leader, store failed, codes of later servers: the sender retries.
        _ => unavailable(error, at),
    }
}

/// What is full, and what to raise.
fn full(error: &jetstream::Error) -> Option<&'static str> {
    const FULL: [(u64, &str, &str); 8] = [
        (10077, "maximum messages per subject", "raise its max_msgs_per_subject, or delete messages"),
        (10077, "maximum messages", "raise its max_msgs, or delete messages"),
        (10077, "maximum bytes", "raise its max_bytes, or delete messages"),
        (10077, "no space left", "free space on the disk of the server's store_dir"),
        (10002, "", "raise the JetStream limits of this account, or delete messages of its streams"),
        (10023, "", "raise max_file_store and max_memory_store of the server, or free space on its disk"),
        (10028, "", "raise max_memory_store of the server"),
        (10047, "", "raise max_file_store of the server, or free space on its disk"),
    ];
    let (code, error) = (error.error_code().0, error.to_string().to_ascii_lowercase());
    FULL.iter().find(|(of, part, _)| *of == code && error.contains(part)).map(|(.., advice)| *advice)
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

/// A connection error with what to do about it.
pub(super) fn with_advice(error: &str) -> String {
    format!("{error}{}", advice(error))
}

/// What to do about a connection error, where its own text does not say it.
fn advice(error: &str) -> &'static str {
    const OTHER_PORT: &str =
        ": that port is for other servers: use the one for clients, 4222 by default, in nats.servers";
    const NO_SERVER: &str = ": no NATS server listens there: check nats.servers";
    const LOGIN: &str =
        ": check nats.creds_file, nats.nkey_file, nats.token or nats.username and nats.password";
    const NO_TLS: &str =
        ": the server seems not to use TLS: check nats.servers, and tls in the server's configuration";
    const TLS: &str = ": check nats.ca_file, nats.cert_file and nats.key_file, and the server's certificate";
    const SILENT: &str = ": check the address in nats.servers, and the firewalls on the way";
    const ADVICE: [(&str, &str); 12] = [
        ("attempted to connect to", OTHER_PORT),
        ("expected info", NO_SERVER),
        ("invalid server operation", NO_SERVER),
        ("authorization violation", LOGIN),
        ("authentication", LOGIN),
        ("corrupt message", NO_TLS),
        ("tls", TLS),
        ("certificate", TLS),
        ("connection refused", ": check the address in nats.servers, and that the server runs"),
        ("dns error", ": check the names in nats.servers"),
        ("timed out", SILENT),
        ("no reply", SILENT),
    ];
    let error = error.to_ascii_lowercase();
    ADVICE.iter().find(|(part, _)| error.contains(part)).map_or("", |(_, advice)| advice)
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
            (10077, "unavailable"), // store failed, for another reason than those below
            (10023, "refused"),     // insufficient resources
            (10002, "refused"),     // resource limits exceeded for account
            (10028, "refused"),     // insufficient memory resources available
            (10047, "refused"),     // insufficient storage resources available
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
    fn full_stream_is_refused_with_what_to_raise() {
        for (text, raise) in [
            ("maximum messages exceeded", "raise its max_msgs,"),
            ("maximum bytes exceeded", "raise its max_bytes"),
            ("maximum messages per subject exceeded", "raise its max_msgs_per_subject"),
            ("write /data/1.blk: no space left on device", "free space"),
        ] {
            let text = format!(r#"{{"code":503,"err_code":10077,"description":"{text}"}}"#);
            let error = Failure::Server(serde_json::from_str(&text).unwrap()).to_publish_error(AT);
            assert_eq!(error.label(), "refused", "{error}");
            assert!(error.to_string().contains(raise), "{error}");
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
