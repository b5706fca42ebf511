//! Sorts what the client and the server say of a message into the port's words.

use std::error::Error as _;
use std::fmt::Display;

use async_nats::jetstream;
use async_nats::jetstream::context::{PublishError as ClientError, PublishErrorKind as Kind};

use crate::pipeline::publish::PublishError;

/// What is known when a message fails.
#[derive(Clone, Copy)]
pub(super) struct Circumstances<'a> {
    /// The subject of the message.
    pub subject: &'a str,
    /// The stream that is to take it.
    pub stream: &'a str,
    /// True where the connection was lost after the message was handed over.
    pub lost: bool,
    /// What last kept the client from a server.
    pub cause: Option<&'a str>,
}

/// The port's word for a failed message.
pub(super) fn sort(error: &ClientError, at: Circumstances<'_>) -> PublishError {
    let Circumstances { subject, stream, .. } = at;
    match error.kind() {
        Kind::StreamNotFound => refused(format!(
            "no stream takes subject {subject}, or its stream has no leader now: create stream {stream} with \
             subjects that cover it, or set nats.stream.ensure to \"create\", and see that JetStream is \
             enabled for this account"
        )),
        Kind::MaxPayloadExceeded => rejected(format!(
            "larger than the server takes ({}), subject {subject}: see max_payload",
            detail(error)
        )),
        Kind::MaxAckPending => busy(),
        Kind::TimedOut if !at.lost => PublishError::Timeout { detail: because("no ack in time", at) },
        Kind::TimedOut => unavailable("the connection was lost before the ack", at),
        Kind::BrokenPipe => unavailable("the client has ended", at),
        Kind::WrongLastMessageId | Kind::WrongLastSequence | Kind::Other => match error.source() {
            Some(source) => match source.downcast_ref::<jetstream::Error>() {
                Some(error) => of_server(error, at),
                None => unavailable(source, at),
            },
            None => unavailable(error, at),
        },
    }
}

/// The answer where a message finds no room.
pub(super) fn busy() -> PublishError {
    PublishError::Busy { detail: "too many messages wait for the NATS server".into() }
}

/// By JetStream's own error codes.
/// Source: `server/errors.json` of nats-server.
fn of_server(error: &jetstream::Error, at: Circumstances<'_>) -> PublishError {
    let Circumstances { subject, stream, .. } = at;
    match error.error_code().0 {
        10054 => rejected(format!(
            "larger than stream {stream} takes ({error}), subject {subject}: see its max_msg_size"
        )),
        10097 => rejected(format!("its headers are larger than the server takes ({error})")),
        10056 | 10060 => refused(format!(
            "another stream than {stream} takes subject {subject} ({error}): name that stream in \
             nats.stream.name, or take the subject from it"
        )),
        10059 => refused(format!("stream {stream} does not exist ({error}), subject {subject}: create it")),
        10035 | 10039 | 10076 | 10120 => refused(format!(
            "JetStream is off ({error}), subject {subject}: enable it for the server and this account"
        )),
        10109 => refused(format!("stream {stream} is sealed ({error}), subject {subject}: use another")),
        // "Duplicate message id is in process": another copy is on its way and may still fail.
        // No room, store failed, no leader, and whatever a later server may say: the sender tries again.
        _ => unavailable(error, at),
    }
}

fn detail(error: &ClientError) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

fn refused(detail: String) -> PublishError {
    PublishError::Refused { detail: detail.into() }
}

fn rejected(detail: String) -> PublishError {
    PublishError::Rejected { detail: detail.into() }
}

fn unavailable(what: impl Display, at: Circumstances<'_>) -> PublishError {
    PublishError::Unavailable { detail: because(what, at) }
}

fn because(what: impl Display, at: Circumstances<'_>) -> std::sync::Arc<str> {
    let subject = at.subject;
    match at.cause {
        Some(cause) => format!("subject {subject}: {what}; the client last said: {cause}").into(),
        None => format!("subject {subject}: {what}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Circumstances<'_> =
        Circumstances { subject: "attio.record.created", stream: "ATTIO", lost: false, cause: None };

    fn of_code(code: u64) -> ClientError {
        let text = format!(r#"{{"code":400,"err_code":{code},"description":"as told"}}"#);
        let error: jetstream::Error = serde_json::from_str(&text).unwrap();
        ClientError::with_source(Kind::Other, error)
    }

    #[test]
    fn every_kind() {
        let table = [
            (Kind::StreamNotFound, "refused"),
            (Kind::WrongLastMessageId, "unavailable"),
            (Kind::WrongLastSequence, "unavailable"),
            (Kind::TimedOut, "timeout"),
            (Kind::BrokenPipe, "unavailable"),
            (Kind::MaxAckPending, "busy"),
            (Kind::MaxPayloadExceeded, "rejected"),
            (Kind::Other, "unavailable"),
        ];
        for (kind, label) in table {
            assert_eq!(sort(&ClientError::new(kind), AT).label(), label, "{kind:?}");
        }
    }

    #[test]
    fn every_code() {
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
            let error = sort(&of_code(code), AT);
            assert_eq!(error.label(), label, "{code}");
            assert!(error.to_string().contains("as told"), "{error}");
        }
    }

    #[test]
    fn an_ack_that_went_with_its_connection_means_unavailable() {
        let lost = Circumstances { lost: true, cause: Some("connection refused"), ..AT };
        let error = sort(&ClientError::new(Kind::TimedOut), lost);
        assert_eq!(error.label(), "unavailable");
        assert!(error.to_string().contains("connection refused"), "{error}");
    }

    #[test]
    fn a_refusal_names_subject_and_stream() {
        for error in [ClientError::new(Kind::StreamNotFound), of_code(10060), of_code(10059)] {
            let text = sort(&error, AT).to_string();
            assert!(text.contains("attio.record.created") && text.contains("ATTIO"), "{text}");
        }
    }
}
