//! Sorts what the client and the server say of a message into the port's words.

use std::fmt::Display;

use async_nats::jetstream;

use super::acks::Failure;
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
pub(super) fn sort(failure: &Failure, at: Circumstances<'_>) -> PublishError {
    let Circumstances { subject, stream, .. } = at;
    match failure {
        Failure::NoResponders => refused(format!(
            "no stream takes subject {subject}, or its stream has no leader now: create stream {stream} with \
             subjects that cover it, or set nats.stream.ensure to \"create\", and see that JetStream is \
             enabled for this account"
        )),
        Failure::TooLarge(told) => {
            rejected(format!("larger than the server takes ({told}), subject {subject}: see its max_payload"))
        }
        Failure::Busy => PublishError::Busy { detail: "too many messages wait for the NATS server".into() },
        Failure::Refused(advice) => refused(advice.clone()),
        Failure::ConnectionLost => unavailable("the connection was lost before the ack", at),
        Failure::TimedOut if at.lost => unavailable("the connection was lost before the ack", at),
        Failure::TimedOut => PublishError::Timeout { detail: because("no ack in time", at) },
        Failure::OtherStream(other) => refused(another(other, stream, subject)),
        Failure::Server(error) => of_server(error, at),
        Failure::Other(told) => unavailable(told, at),
    }
}

fn another(other: impl Display, stream: &str, subject: &str) -> String {
    format!(
        "another stream than {stream} takes subject {subject} ({other}): name that stream in \
         nats.stream.name, or take the subject from it"
    )
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
        10056 | 10060 => refused(another(error, stream, subject)),
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

    fn of_code(code: u64) -> Failure {
        let text = format!(r#"{{"code":400,"err_code":{code},"description":"as told"}}"#);
        Failure::Server(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn every_failure_of_the_client() {
        let told = || "as told".to_owned();
        let table = [
            (Failure::NoResponders, "refused"),
            (Failure::OtherStream(told()), "refused"),
            (Failure::Refused(told()), "refused"),
            (Failure::ConnectionLost, "unavailable"),
            (Failure::TimedOut, "timeout"),
            (Failure::Busy, "busy"),
            (Failure::TooLarge(told()), "rejected"),
            (Failure::Other(told()), "unavailable"),
        ];
        for (failure, label) in table {
            assert_eq!(sort(&failure, AT).label(), label, "{failure:?}");
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
        let error = sort(&Failure::TimedOut, lost);
        assert_eq!(error.label(), "unavailable");
        assert!(error.to_string().contains("connection refused"), "{error}");
    }

    #[test]
    fn a_refusal_names_subject_and_stream() {
        for error in [Failure::NoResponders, Failure::OtherStream("X".into()), of_code(10060), of_code(10059)]
        {
            let text = sort(&error, AT).to_string();
            assert!(text.contains("attio.record.created") && text.contains("ATTIO"), "{text}");
        }
    }
}
