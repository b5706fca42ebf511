//! Acks: one subscription for all of them, one entry for each message that waits.
//!
//! The client's own JetStream publish keeps an entry for ever where no ack comes; under a lasting
//! refusal that is a leak. Here an entry goes with the wait for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, response::Response};
use async_nats::{Client, StatusCode, SubscribeError, Subscriber};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::at_once;
use super::record::Layout;

/// Messages handed over and not yet acknowledged: beyond it a publish is refused as busy. The client's
/// own queue holds as many.
pub(super) const MAX_IN_FLIGHT: usize = 8192;

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
    /// The connection that the ack would have come on is gone.
    ConnectionLost,
    /// Whatever else the client says, or an answer that is no ack.
    Other(String),
}

/// Sends messages and hears their acks.
pub(super) struct Acks {
    client: Client,
    stream: Arc<str>,
    /// What every ack's subject begins with.
    inbox: String,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<async_nats::Message>>>,
}

impl Acks {
    /// Subscribes; what comes in is to be handed to [`Self::hear`].
    pub(super) async fn new(
        client: Client,
        stream: Arc<str>,
    ) -> Result<(Arc<Self>, Subscriber), SubscribeError> {
        let inbox = client.new_inbox();
        let replies = client.subscribe(format!("{inbox}.*")).await?;
        let waiting = Mutex::new(HashMap::new());
        Ok((Arc::new(Self { client, stream, inbox, next: AtomicU64::new(0), waiting }), replies))
    }

    /// Gives every reply to who waits for it, until the bus is gone.
    pub(super) async fn hear(self: Arc<Self>, mut replies: Subscriber) {
        while let Some(reply) = replies.next().await {
            let token = reply.subject.rsplit('.').next().and_then(|token| token.parse().ok());
            let waiting = token.and_then(|token: u64| self.waiting.lock().remove(&token));
            // Late, and nobody waits any more: the retry hears of it as a duplicate.
            if let Some(waiting) = waiting {
                let _ = waiting.send(reply);
            }
        }
    }

    /// Hands a message to the client without waiting. Messages are sent in the order of the calls.
    pub(super) fn send(self: &Arc<Self>, subject: &str, layout: Layout) -> Result<Waiting, Failure> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= MAX_IN_FLIGHT {
                return Err(Failure::Busy);
            }
            waiting.insert(token, sender);
        }
        let waiting = Waiting { acks: Arc::clone(self), token, reply };
        let Layout { headers, payload } = layout;
        let to = format!("{}.{token}", self.inbox);
        let sent = self.client.publish_with_reply_and_headers(subject.to_owned(), to, headers, payload);
        match at_once(sent) {
            Some(Ok(())) => Ok(waiting),
            // A hand-over that would have to wait is given up; nothing of it was enqueued.
            None => Err(Failure::Busy),
            Some(Err(error)) => Err(match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => Failure::TooLarge(error.to_string()),
                PublishErrorKind::InvalidSubject | PublishErrorKind::Send => {
                    Failure::Other(error.to_string())
                }
            }),
        }
    }
}

/// A message that was handed over.
pub(super) struct Waiting {
    acks: Arc<Acks>,
    token: u64,
    reply: oneshot::Receiver<async_nats::Message>,
}

impl Waiting {
    /// The server's word, at most so long.
    pub(super) async fn ack(mut self, at_most: Duration) -> Result<PublishAck, Failure> {
        match tokio::time::timeout(at_most, &mut self.reply).await {
            Ok(Ok(reply)) => read(&reply, &self.acks.stream),
            Ok(Err(_)) => Err(Failure::Other("the client has ended".into())),
            Err(_) => Err(Failure::TimedOut),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.acks.waiting.lock().remove(&self.token);
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
