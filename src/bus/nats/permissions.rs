//! What the server does not permit this client, which it reports separately from the message, never as its ack.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::header::NATS_EXPECTED_STREAM;
use async_nats::{Client, Event, HeaderMap, ServerError};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

/// The prefix of subjects that the server reserves.
const RESERVED: &str = "_R_.attio-bridge.";
/// Messages sent before their errors are awaited: the client drops events that overflow its channel.
const BATCH: usize = 32;
/// How long the server may take for all.
const DENIALS_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// To publish to this subject.
    Publish(String),
    /// To receive acks.
    Acks,
    /// To ask for this reserved reply, see [`Violations::denied`]: the subject itself is permitted.
    ReservedReply(String),
}

impl Violation {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let what = lower.strip_prefix("permissions violation for ")?;
        let subject = text.split('"').nth(1).map(str::to_owned);
        match what.contains("reply") {
            true if text.contains(RESERVED) => subject.map(Self::ReservedReply),
            false if !what.starts_with("subscription") => subject.map(Self::Publish),
            _ => Some(Self::Acks),
        }
    }

    pub(super) fn advice(&self) -> String {
        match self {
            Self::Publish(subject) | Self::ReservedReply(subject) => {
                format!("not permitted to publish to {subject}: allow it for this client's user")
            }
            Self::Acks => {
                "not permitted to receive acks: allow this client's user to subscribe to _INBOX.> and to \
                           publish with a reply"
                    .into()
            }
        }
    }
}

#[derive(Default)]
pub(super) struct Seen {
    count: u64,
    /// By subject, the number of its last violation. Only subjects that this client publishes to.
    publish: HashMap<String, u64>,
    reserved_replies: HashSet<String>,
    /// Acks cannot be received on this connection: the server reports it once.
    acks: bool,
    /// Violations of earlier connections.
    earlier: u64,
}

impl Seen {
    fn is_denied(&self, since: u64, subject: &str) -> bool {
        self.publish.get(subject).is_some_and(|last| *last > since)
    }

    fn since(&self, since: u64, subject: &str) -> Option<Violation> {
        let publish = || self.is_denied(since, subject).then(|| Violation::Publish(subject.to_owned()));
        self.acks.then_some(Violation::Acks).or_else(publish)
    }
}

/// Permissions violations so far. Without them a publish that is not permitted would time out.
#[derive(Default)]
pub(super) struct Violations(watch::Sender<Seen>);

impl Violations {
    /// Wakes every watch; true if it is the first of its subject.
    pub(super) fn add(&self, violation: &Violation) -> bool {
        let mut first = false;
        self.0.send_modify(|seen| {
            seen.count += 1;
            first = match violation {
                Violation::Publish(subject) => seen.publish.insert(subject.clone(), seen.count).is_none(),
                Violation::Acks => !std::mem::replace(&mut seen.acks, true),
                Violation::ReservedReply(reply) => {
                    seen.reserved_replies.insert(reply.clone());
                    false
                }
            };
        });
        first
    }

    pub(super) fn on_event(&self, event: &Event) {
        if let Event::ServerError(ServerError::Other(text)) = event
            && let Some(violation) = Violation::parse(text)
        {
            self.add(&violation);
        }
    }

    /// Permissions may be others on a new connection.
    pub(super) fn connected(&self) {
        self.0.send_modify(|seen| (seen.acks, seen.earlier) = (false, seen.count));
    }

    /// How many there are: read before a message is enqueued.
    pub(super) fn count(&self) -> u64 {
        self.0.borrow().count
    }

    /// Whether acks cannot be received on this connection.
    pub(super) fn no_acks(&self) -> bool {
        self.0.borrow().acks
    }

    /// The violation that concerns a message to `subject` that was enqueued after the first `since`.
    pub(super) fn since(&self, since: u64, subject: &str) -> Option<Violation> {
        self.0.borrow().since(since, subject)
    }

    /// Those of `subjects` that this connection may not publish to, as far as messages were sent there.
    pub(super) fn of_connection(&self, subjects: &[Arc<str>]) -> Vec<Arc<str>> {
        let seen = self.0.borrow();
        subjects.iter().filter(|subject| seen.is_denied(seen.earlier, subject)).cloned().collect()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Seen> {
        self.0.subscribe()
    }

    /// The first violation on this subject after the first `since`; pending if there is none.
    pub(super) async fn on(&self, since: u64, subject: &str) -> Violation {
        let mut seen = self.0.subscribe();
        loop {
            let found = seen.borrow_and_update().since(since, subject);
            if let Some(violation) = found {
                return violation;
            }
            // The sender outlives the wait.
            let _ = seen.changed().await;
        }
    }

    /// The subjects that the user may not publish to, without publishing; none if the server does not reply.
    ///
    /// Each subject is sent one message whose reply subject the server reserves. The server checks the permission
    /// first and the reply subject second, and drops the message either way: its error names the subject if the
    /// permission is missing, else the reply. A server that accepted the reply would still refuse the message: it
    /// expects a stream whose name no stream can have.
    pub(super) async fn denied(&self, client: &Client, subjects: &[Arc<str>]) -> Option<Vec<Arc<str>>> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_STREAM, "no.such.stream");
        let (since, mut denied) = (self.count(), Vec::new());
        let mut seen = self.0.subscribe();
        let reply = |subject: &str| format!("{RESERVED}{since}.{subject}");
        let probe = async {
            for batch in subjects.chunks(BATCH) {
                for subject in batch {
                    let (to, headers) = (subject.to_string(), headers.clone());
                    // A client that has ended gets no reply either.
                    let _ = client
                        .publish_with_reply_and_headers(to, reply(subject), headers, Bytes::new())
                        .await;
                }
                let is_known = |seen: &Seen, subject: &str| {
                    seen.is_denied(since, subject) || seen.reserved_replies.contains(&reply(subject))
                };
                let reported = |seen: &Seen| batch.iter().all(|subject| is_known(seen, subject));
                // The sender outlives the wait.
                if let Ok(seen) = seen.wait_for(reported).await {
                    denied.extend(batch.iter().filter(|subject| seen.is_denied(since, subject)).cloned());
                }
            }
        };
        timeout(DENIALS_TIMEOUT, probe).await.ok()?;
        Some(denied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_violations_are_parsed() {
        let publish = Violation::parse("Permissions Violation for Publish to \"Attio.record.created\"");
        assert_eq!(publish, Some(Violation::Publish("Attio.record.created".into())));
        for text in ["Subscription to \"_INBOX.x.*\"", "Publish with Reply of \"x\""] {
            let violation = Violation::parse(&format!("Permissions Violation for {text}"));
            assert_eq!(violation, Some(Violation::Acks), "{text}");
        }
        let reserved =
            Violation::parse("Permissions Violation for Publish with Reply of \"_R_.attio-bridge.0.a\"");
        assert_eq!(reserved, Some(Violation::ReservedReply("_R_.attio-bridge.0.a".into())));
        assert_eq!(Violation::parse("Authorization Violation"), None);
    }

    #[tokio::test]
    async fn permissions_violation_reaches_only_waiters_of_its_subject() {
        let violations = Violations::default();
        let publish = Violation::Publish("a".into());
        assert!(violations.add(&publish));
        let since = violations.count();
        assert_eq!(violations.since(since, "a"), None, "a violation before the message");
        assert!(!violations.add(&publish), "not the first");
        assert_eq!(violations.on(since, "a").await, publish);
        let other = timeout(Duration::from_millis(20), violations.on(since, "b")).await;
        assert!(other.is_err(), "another subject");
        assert_eq!(violations.of_connection(&["a".into(), "b".into()]), [Arc::from("a")]);
        violations.add(&Violation::Acks);
        assert_eq!(
            violations.on(violations.count(), "b").await,
            Violation::Acks,
            "until the next connection"
        );
        violations.connected();
        assert_eq!((violations.no_acks(), violations.of_connection(&["a".into()])), (false, vec![]));
    }
}
