//! Acks: one subscription for all of them, one entry for each message that waits.
//!
//! The client's own JetStream publish keeps an entry for ever where no ack comes; under a lasting
//! refusal that is a leak. Here an entry goes with its verdict. One task hears the acks, another ends
//! what will have none; a task for each message would cost more than the message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, response::Response};
use async_nats::{StatusCode, SubscribeError, Subscriber};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::pending::Pending;
use super::record::Layout;
use super::{Link, at_once};

/// Messages in flight; more are answered [`PublishError::Busy`]. The client's own queue holds as many. One
/// delivery has at most 10,000 events.
///
/// [`PublishError::Busy`]: crate::pipeline::publish::PublishError::Busy
pub(super) const MAX_IN_FLIGHT: usize = 16_384;

/// Why a message has no ack.
#[derive(Debug)]
pub(super) enum Failure {
    /// No room in the client, or too many wait.
    Busy,
    /// Larger than the server takes, in the client's words.
    TooLarge(String),
    /// Nothing listens on the subject.
    NoResponders,
    /// The server's own error.
    Server(jetstream::Error),
    /// Another stream's ack.
    OtherStream(String),
    /// No ack in time.
    TimedOut,
    /// The server does not permit it; what to do about that.
    Refused(String),
    /// The connection that the ack would have come on is gone.
    ConnectionLost,
    /// Whatever else the client says, or an answer that is no ack.
    Other(String),
}

/// Sends messages and hears their acks.
pub(super) struct Acks {
    link: Arc<Link>,
    /// What every ack's subject begins with.
    inbox: String,
    next: AtomicU64,
    at_most: Duration,
    /// In the order of the hand-over, which is that of the deadlines.
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    /// A connection was lost while a message was handed over.
    lost_meanwhile: Notify,
}

/// A message that was handed over.
struct Waiting {
    pending: Pending,
    deadline: Instant,
}

impl Acks {
    /// Subscribes; what comes in is to be handed to [`Self::hear`]. No ack is waited for longer than
    /// `at_most`.
    pub(super) async fn new(
        link: Arc<Link>,
        at_most: Duration,
    ) -> Result<(Arc<Self>, Subscriber), SubscribeError> {
        let inbox = link.client.new_inbox();
        let replies = link.client.subscribe(format!("{inbox}.*")).await?;
        let (next, waiting, lost_meanwhile) = (AtomicU64::new(0), Mutex::default(), Notify::new());
        Ok((Arc::new(Self { link, inbox, next, at_most, waiting, lost_meanwhile }), replies))
    }

    /// Settles each message by its reply, until the bus is gone.
    pub(super) async fn hear(self: Arc<Self>, mut replies: Subscriber) {
        while let Some(reply) = replies.next().await {
            let token = reply.subject.rsplit('.').next().and_then(|token| token.parse().ok());
            // Late, and nobody waits any more: the retry hears of it as a duplicate.
            let Some(pending) = token.and_then(|token| self.take(token)) else { continue };
            match read(&reply, &self.link.stream) {
                Ok(ack) => pending.acknowledge(ack.duplicate),
                Err(failure) => pending.fail(&failure),
            }
        }
    }

    /// Ends what waits in vain, until the bus is gone: by the loss of the connection that its ack would have
    /// come on, by a refusal, or by the publish time-out. Nothing else ends a wait.
    pub(super) async fn end(self: Arc<Self>) {
        let health = &self.link.health;
        let mut refusals = health.refusals.watch();
        loop {
            let losses = health.losses();
            for (pending, failure) in self.take_hopeless() {
                pending.fail(&failure);
            }
            let oldest = self.waiting.lock().values().next().map(|waiting| waiting.deadline);
            // What is not there yet has all of its time before it.
            let next = oldest.unwrap_or_else(|| Instant::now() + self.at_most);
            tokio::select! {
                () = health.lost_since(losses) => {}
                () = self.lost_meanwhile.notified() => {}
                () = refusals.next() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    fn take(&self, token: u64) -> Option<Pending> {
        self.waiting.lock().remove(&token).map(|waiting| waiting.pending)
    }

    fn take_hopeless(&self) -> Vec<(Pending, Failure)> {
        let now = Instant::now();
        let mut waiting = self.waiting.lock();
        let failed = |(token, Waiting { pending, deadline }): (&u64, &Waiting)| {
            let failure = pending.hopeless().or_else(|| (*deadline <= now).then_some(Failure::TimedOut))?;
            Some((*token, failure))
        };
        let failed: Vec<_> = waiting.iter().filter_map(failed).collect();
        let taken = failed.into_iter().map(|(token, failure)| (waiting.remove(&token), failure));
        taken.filter_map(|(waiting, failure)| Some((waiting?.pending, failure))).collect()
    }

    /// Hands a message to the client without waiting. Messages are sent in the order of the calls.
    pub(super) fn send(&self, pending: Pending, layout: Layout) {
        let (subject, losses) = (pending.subject(), pending.losses());
        let token = {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= MAX_IN_FLIGHT {
                drop(waiting);
                return pending.fail(&Failure::Busy);
            }
            // Numbered under the lock, so that the order of the numbers is that of the deadlines.
            let token = self.next.fetch_add(1, Ordering::Relaxed);
            waiting.insert(token, Waiting { pending, deadline: Instant::now() + self.at_most });
            token
        };
        let Layout { headers, payload } = layout;
        let to = format!("{}.{token}", self.inbox);
        let Link { client, health, .. } = &*self.link;
        let sent = client.publish_with_reply_and_headers(subject.to_string(), to, headers, payload);
        let failure = match at_once(sent) {
            Some(Ok(())) => None,
            // A hand-over that would have to wait is given up; nothing of it was enqueued.
            None => Some(Failure::Busy),
            Some(Err(error)) => Some(match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => Failure::TooLarge(error.to_string()),
                PublishErrorKind::InvalidSubject | PublishErrorKind::Send => {
                    Failure::Other(error.to_string())
                }
            }),
        };
        match failure {
            Some(failure) => {
                if let Some(pending) = self.take(token) {
                    pending.fail(&failure);
                }
            }
            // It may have been too late to be among what that loss ended.
            None if health.losses() != losses => self.lost_meanwhile.notify_one(),
            None => {}
        }
    }
}

fn read(reply: &async_nats::Message, stream: &str) -> Result<PublishAck, Failure> {
    if reply.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(Failure::NoResponders);
    }
    match serde_json::from_slice(&reply.payload) {
        Ok(Response::Ok(PublishAck { stream: other, .. })) if other != stream => {
            Err(Failure::OtherStream(other))
        }
        Ok(Response::Ok(ack)) => Ok(ack),
        Ok(Response::Err { error }) => Err(Failure::Server(error)),
        // Somebody who is no stream answers on the subject too.
        Err(error) => Err(Failure::Other(format!("the answer is no ack: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(payload: &'static str, status: Option<StatusCode>) -> async_nats::Message {
        async_nats::Message {
            subject: "_INBOX.a.1".into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn only_an_ack_of_the_stream_is_one() {
        let told = |payload, status| read(&reply(payload, status), "ATTIO");
        let ack = told(r#"{"stream":"ATTIO","seq":7,"duplicate":true}"#, None).unwrap();
        assert!(ack.duplicate);
        assert!(!told(r#"{"stream":"ATTIO","seq":7}"#, None).unwrap().duplicate);
        assert!(
            matches!(told(r#"{"stream":"OTHER","seq":7}"#, None), Err(Failure::OtherStream(name)) if name == "OTHER")
        );
        assert!(matches!(told("", Some(StatusCode::NO_RESPONDERS)), Err(Failure::NoResponders)));
        assert!(matches!(told("", None), Err(Failure::Other(_))));
        assert!(matches!(told("OK", None), Err(Failure::Other(_))));
        let refused =
            told(r#"{"error":{"code":503,"err_code":10077,"description":"no"},"stream":"","seq":0}"#, None);
        assert!(matches!(refused, Err(Failure::Server(error)) if error.error_code().0 == 10077));
    }
}
