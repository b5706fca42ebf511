//! What the server does not permit. It says so beside the message, never as its ack: without this a
//! publish that is not permitted would end as a time-out.

use std::collections::HashMap;

use tokio::sync::watch;

/// What a refusal is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Publishing to this subject.
    Publish(String),
    /// Hearing acks at all.
    Acks,
}

/// Every refusal so far.
#[derive(Default)]
struct Seen {
    count: u64,
    /// By subject, the number of its last refusal. Only subjects that this client publishes to.
    publish: HashMap<String, u64>,
    acks: u64,
}

impl Seen {
    /// The refusal that a message of this subject met, if it was handed over after the first `since`.
    fn of(&self, subject: &str, since: u64) -> Option<Refusal> {
        if self.publish.get(subject).is_some_and(|last| *last > since) {
            return Some(Refusal::Publish(subject.to_owned()));
        }
        (self.acks > since).then_some(Refusal::Acks)
    }
}

/// Every refusal so far, to be waited on.
#[derive(Default)]
pub(super) struct Refusals {
    seen: watch::Sender<Seen>,
}

impl Refusals {
    /// Tells whoever waits; logs each subject's first.
    pub(super) fn add(&self, refusal: &Refusal, text: &str) {
        let mut first = false;
        self.seen.send_modify(|seen| {
            seen.count += 1;
            let last = match refusal {
                Refusal::Publish(subject) => seen.publish.entry(subject.clone()).or_default(),
                Refusal::Acks => &mut seen.acks,
            };
            first = std::mem::replace(last, seen.count) == 0;
        });
        if first {
            tracing::error!(text, "nats: {}", advice(refusal));
        }
    }

    /// How many there were: to be taken before a message is handed over.
    pub(super) fn count(&self) -> u64 {
        self.seen.borrow().count
    }

    /// What to do about the refusal that a message of this subject met, handed over after the first `since`.
    pub(super) fn of(&self, subject: &str, since: u64) -> Option<String> {
        self.seen.borrow().of(subject, since).as_ref().map(advice)
    }

    /// To be taken before a message is handed over, where one is waited for alone.
    pub(super) fn watch(&self) -> Watch {
        let seen = self.seen.subscribe();
        let since = seen.borrow().count;
        Watch { seen, since }
    }
}

/// Waits for a refusal.
pub(super) struct Watch {
    seen: watch::Receiver<Seen>,
    since: u64,
}

impl Watch {
    /// What to do about a refusal of this subject, once there is one; for ever where there is none.
    pub(super) async fn of(mut self, subject: &str) -> String {
        let since = self.since;
        let found = self.seen.wait_for(|seen| seen.of(subject, since).is_some()).await;
        let refusal = found.ok().and_then(|seen| seen.of(subject, since));
        match refusal {
            Some(refusal) => advice(&refusal),
            // The bus is gone, and nobody will tell any more.
            None => std::future::pending().await,
        }
    }

    /// Waits for any refusal that has not been waited for.
    pub(super) async fn next(&mut self) {
        if self.seen.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

fn advice(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Publish(subject) => {
            format!("not permitted to publish to {subject}: allow it for this client's user")
        }
        Refusal::Acks => "not permitted to hear acks: allow this client's user to subscribe to _INBOX.> and \
                          to publish with a reply"
            .into(),
    }
}

/// The refusal that an error of the server tells of.
pub(super) fn parse(text: &str) -> Option<Refusal> {
    let lower = text.to_ascii_lowercase();
    let what = lower.strip_prefix("permissions violation for ")?;
    if what.starts_with("subscription") || what.contains("reply") {
        return Some(Refusal::Acks);
    }
    let subject = text.split('"').nth(1)?;
    Some(Refusal::Publish(subject.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_are_understood() {
        let publish = parse("Permissions Violation for Publish to \"Attio.record.created\"");
        assert_eq!(publish, Some(Refusal::Publish("Attio.record.created".into())));
        assert_eq!(parse("Permissions Violation for Subscription to \"_INBOX.x.*\""), Some(Refusal::Acks));
        assert_eq!(parse("Permissions Violation for Publish with Reply of \"x\""), Some(Refusal::Acks));
        assert_eq!(parse("Authorization Violation"), None);
    }

    #[tokio::test]
    async fn a_refusal_reaches_those_who_wait_for_its_subject() {
        let refusals = Refusals::default();
        refusals.add(&Refusal::Publish("a".into()), "");
        let (earlier, other) = (refusals.watch(), refusals.watch());
        refusals.add(&Refusal::Publish("a".into()), "");
        assert!(earlier.of("a").await.contains("publish to a"));
        let none = tokio::time::timeout(std::time::Duration::from_millis(20), other.of("b")).await;
        assert!(none.is_err(), "a refusal of another subject is none of its own");
        let late = tokio::time::timeout(std::time::Duration::from_millis(20), refusals.watch().of("a")).await;
        assert!(late.is_err(), "a refusal before the hand-over is none of this message");
        let acks = refusals.watch();
        refusals.add(&Refusal::Acks, "");
        assert!(acks.of("b").await.contains("_INBOX"));
    }
}
