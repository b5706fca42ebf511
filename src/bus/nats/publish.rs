//! Publishing: one subscription receives every ack, one in-flight entry holds each message.
//!
//! The client's own JetStream publish keeps an entry forever if no ack comes. Here an entry ends with its
//! result. One task receives acks, another ends entries that get none; a task per message would cost more
//! than the message.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::connection::State;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Client, StatusCode, SubscribeError, Subscriber};
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};

use super::connect::MAX_IN_FLIGHT;
use super::errors::{Circumstances, Failure};
use super::health::Health;
use super::record::Record;
use crate::pipeline::publish::{Ack, Destination, PublishError, PublishHandle, PublishResult};

/// The client and its state.
pub(super) struct Link {
    pub client: Client,
    pub health: Arc<Health>,
    /// The stream that stores the events.
    pub stream: Arc<str>,
}

/// Enqueues messages and awaits their acks.
pub(super) struct Publisher {
    link: Arc<Link>,
    /// The prefix of every ack's subject.
    inbox: String,
    next_token: AtomicU64,
    timeout: Duration,
    /// By token, with its deadline. Tokens and deadlines have the same order.
    in_flight: Mutex<BTreeMap<u64, (Instant, InFlight)>>,
    /// The connection was lost while a message was enqueued.
    lost_while_enqueuing: Notify,
}

impl Publisher {
    /// Subscribes to acks, which [`Self::receive_acks`] receives. Each is awaited for at most `timeout`.
    pub(super) async fn subscribe(
        link: Arc<Link>,
        timeout: Duration,
    ) -> Result<(Arc<Self>, Subscriber), SubscribeError> {
        let inbox = link.client.new_inbox();
        let acks = link.client.subscribe(format!("{inbox}.*")).await?;
        let (next_token, in_flight, lost_while_enqueuing) = Default::default();
        Ok((Arc::new(Self { link, inbox, next_token, timeout, in_flight, lost_while_enqueuing }), acks))
    }

    /// Settles each message by its reply.
    pub(super) async fn receive_acks(self: Arc<Self>, mut acks: Subscriber) {
        while let Some(reply) = acks.next().await {
            let token = reply.subject.rsplit('.').next().and_then(|token| token.parse().ok());
            // None for a late ack: its message has timed out, and the retry is a duplicate.
            let Some(entry) = token.and_then(|token| self.remove(token)) else { continue };
            match read_ack(&reply, &self.link.stream) {
                Ok(ack) => entry.acknowledge(ack.duplicate),
                Err(failure) => entry.fail(&failure),
            }
        }
    }

    /// Ends entries that get no ack: by the loss of their connection, by a permissions violation, or by the
    /// publish timeout. Nothing else ends an entry.
    pub(super) async fn expire(self: Arc<Self>) {
        let health = &self.link.health;
        let mut violations = health.violations.watch();
        loop {
            let losses = health.losses();
            for (entry, failure) in self.remove_hopeless() {
                entry.fail(&failure);
            }
            let earliest = self.in_flight.lock().values().next().map(|(deadline, _)| *deadline);
            let next = earliest.unwrap_or_else(|| Instant::now() + self.timeout);
            tokio::select! {
                () = health.lost_since(losses) => {}
                () = self.lost_while_enqueuing.notified() => {}
                () = violations.next() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    fn remove(&self, token: u64) -> Option<InFlight> {
        self.in_flight.lock().remove(&token).map(|(_, entry)| entry)
    }

    fn remove_hopeless(&self) -> Vec<(InFlight, Failure)> {
        let now = Instant::now();
        let mut in_flight = self.in_flight.lock();
        let hopeless = |(token, (deadline, entry)): (&u64, &(Instant, InFlight))| {
            let failure = entry.failure().or_else(|| (*deadline <= now).then_some(Failure::TimedOut))?;
            Some((*token, failure))
        };
        let hopeless: Vec<_> = in_flight.iter().filter_map(hopeless).collect();
        let removed = hopeless.into_iter().map(|(token, failure)| (in_flight.remove(&token), failure));
        removed.filter_map(|(entry, failure)| Some((entry?.1, failure))).collect()
    }

    /// Puts a message into the client's queue without waiting. Messages are sent in the order of the calls.
    pub(super) fn enqueue(&self, entry: InFlight, record: Record) {
        let (subject, losses) = (Arc::clone(&entry.destination.subject), entry.losses);
        let token = {
            let mut in_flight = self.in_flight.lock();
            if in_flight.len() >= MAX_IN_FLIGHT {
                drop(in_flight);
                return entry.fail(&Failure::Busy);
            }
            // Numbered under the lock, so that tokens and deadlines have the same order.
            let token = self.next_token.fetch_add(1, Ordering::Relaxed);
            in_flight.insert(token, (Instant::now() + self.timeout, entry));
            token
        };
        let Record { headers, payload } = record;
        let reply = format!("{}.{token}", self.inbox);
        let Link { client, health, .. } = &*self.link;
        let sent = client.publish_with_reply_and_headers(subject.to_string(), reply, headers, payload);
        // Unconstrained: tokio's cooperative budget may otherwise delay a future that is ready.
        let failure = match unconstrained(sent).now_or_never() {
            Some(Ok(())) => None,
            // The queue is full; nothing was enqueued.
            None => Some(Failure::Busy),
            Some(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Some(Failure::TooLarge(error.to_string()))
            }
            Some(Err(error)) => Some(Failure::Other(error.to_string())),
        };
        match failure {
            Some(failure) => {
                if let Some(entry) = self.remove(token) {
                    entry.fail(&failure);
                }
            }
            // The expiry of that loss may have run before the entry was inserted.
            None if health.losses() != losses => self.lost_while_enqueuing.notify_one(),
            None => {}
        }
    }
}

/// A message without a result.
pub(super) struct InFlight {
    /// None once settled.
    handle: Option<PublishHandle>,
    destination: Arc<Destination>,
    link: Arc<Link>,
    /// Connections lost before it was enqueued.
    losses: u64,
    /// Permissions violations before it was enqueued.
    violations: u64,
}

impl InFlight {
    /// Counts as in flight until it is settled.
    pub(super) fn new(handle: PublishHandle, destination: Arc<Destination>, link: &Arc<Link>) -> Self {
        let health = &link.health;
        health.enqueued();
        let (losses, violations) = (health.losses(), health.violations.count());
        Self { handle: Some(handle), destination, losses, violations, link: Arc::clone(link) }
    }

    /// Why no ack will come, if that is known. A message whose connection was lost may be stored; its retry
    /// has the same message id, so that the server stores it once.
    fn failure(&self) -> Option<Failure> {
        let health = &self.link.health;
        if health.losses() != self.losses {
            return Some(Failure::ConnectionLost);
        }
        let advice = health.violations.since(self.violations, &self.destination.subject);
        advice.map(Failure::NotPermitted)
    }

    fn acknowledge(self, duplicate: bool) {
        self.settle(Ok(Ack { duplicate }));
    }

    fn fail(self, failure: &Failure) {
        let Link { client, health, stream } = &*self.link;
        let lost = health.losses() != self.losses || client.connection_state() != State::Connected;
        let last_error = health.last_error();
        let subject = &self.destination.subject;
        let at = Circumstances { subject, stream, lost, last_error: last_error.as_deref() };
        let error = failure.to_publish_error(at);
        self.settle(Err(error));
    }

    fn settle(mut self, result: PublishResult) {
        if matches!(result, Err(PublishError::Refused { .. })) {
            self.link.health.nudge_monitor();
        }
        if let Some(handle) = self.handle.take() {
            handle.settle(result);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Settled before it is counted: a flush that counts none has seen every result.
        drop(self.handle.take());
        self.link.health.settled();
    }
}

/// The ack of the expected stream, or why the reply is none.
fn read_ack(reply: &async_nats::Message, stream: &str) -> Result<PublishAck, Failure> {
    if reply.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(Failure::NoResponders);
    }
    match serde_json::from_slice(&reply.payload) {
        Ok(Response::Ok(ack @ PublishAck { .. })) if ack.stream == stream => Ok(ack),
        Ok(Response::Ok(ack)) => Err(Failure::OtherStream(ack.stream)),
        Ok(Response::Err { error }) => Err(Failure::Server(error)),
        // A subscriber that is no stream may reply too.
        Err(error) => Err(Failure::Other(format!("the reply is no ack: {error}"))),
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
    fn only_a_reply_of_the_expected_stream_is_an_ack() {
        let read = |payload, status| read_ack(&reply(payload, status), "ATTIO");
        let ack = read(r#"{"stream":"ATTIO","seq":7,"duplicate":true}"#, None).unwrap();
        assert!(ack.duplicate);
        assert!(!read(r#"{"stream":"ATTIO","seq":7}"#, None).unwrap().duplicate);
        assert!(
            matches!(read(r#"{"stream":"OTHER","seq":7}"#, None), Err(Failure::OtherStream(name)) if name == "OTHER")
        );
        assert!(matches!(read("", Some(StatusCode::NO_RESPONDERS)), Err(Failure::NoResponders)));
        assert!(matches!(read("", None), Err(Failure::Other(_))));
        assert!(matches!(read("OK", None), Err(Failure::Other(_))));
        let refused =
            read(r#"{"error":{"code":503,"err_code":10077,"description":"no"},"stream":"","seq":0}"#, None);
        assert!(matches!(refused, Err(Failure::Server(error)) if error.error_code().0 == 10077));
    }
}
