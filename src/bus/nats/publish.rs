//! Publishing: one subscription receives every ack, one in-flight entry holds each message.
//!
//! The client's own JetStream publish keeps an entry forever if no ack comes. Here an entry ends with its
//! result. One task receives acks, another ends entries that get none; a task per message would cost more
//! than the message. Headers: CloudEvents NATS binding (main branch), sections 3.1 and 3.2.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::connection::State;
use async_nats::header::{HeaderMap, HeaderName, HeaderValue, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{RetentionPolicy, State as Contents};
use async_nats::{Client, StatusCode, SubscribeError, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::sync::Notify;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};

use super::Options;
use super::connect::MAX_IN_FLIGHT;
use super::errors::{Circumstances, Failure};
use super::health::Health;
use super::permissions::Violation;
use super::stream::{NoInfo, Probe};
use crate::bus::read::EncodedMessage;
use crate::cloudevent::{Attribute, ContentMode, structured};
use crate::pipeline::publish::{
    Ack, Destination, Message, Position, PublishError, PublishHandle, PublishResult,
};

pub(super) struct Link {
    pub client: Client,
    pub health: Arc<Health>,
    pub stream: Arc<str>,
}

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
    doubted: Mutex<Doubted>,
    doubt: Notify,
}

/// Messages whose result is verified before it is reported, at most those in flight.
#[derive(Default)]
struct Doubted {
    /// The server takes it for a repeat of the one with this sequence, which may have been deleted.
    duplicates: Vec<(InFlight, u64)>,
    /// The client takes it for too large, by the limit that the server had when it was connected.
    too_large: Vec<(InFlight, String)>,
}

/// The limit of another server, or of a changed configuration, is asked for at most so often.
const LIMIT_INTERVAL: Duration = Duration::from_secs(60);

impl Publisher {
    /// Subscribes to acks, which [`Self::receive_acks`] receives. Each is awaited for at most `timeout`.
    pub(super) async fn subscribe(
        link: Arc<Link>,
        timeout: Duration,
    ) -> Result<(Arc<Self>, Subscriber), SubscribeError> {
        let inbox = link.client.new_inbox();
        let acks = link.client.subscribe(format!("{inbox}.*")).await?;
        let (next_token, in_flight, lost_while_enqueuing, doubted, doubt) = Default::default();
        let publisher =
            Self { link, inbox, next_token, timeout, in_flight, lost_while_enqueuing, doubted, doubt };
        Ok((Arc::new(publisher), acks))
    }

    pub(super) async fn receive_acks(self: Arc<Self>, mut acks: Subscriber) {
        while let Some(reply) = acks.next().await {
            let token = reply.subject.rsplit('.').next().and_then(|token| token.parse().ok());
            // None for a late ack: its message has timed out, and the retry is a duplicate.
            let Some(entry) = token.and_then(|token| self.remove(token)) else { continue };
            match read_ack(&reply, &self.link.stream) {
                Ok(ack) if ack.duplicate => {
                    self.doubted.lock().duplicates.push((entry, ack.sequence));
                    self.doubt.notify_one();
                }
                Ok(ack) => entry.acknowledge(ack.sequence, false),
                Err(failure) => entry.fail(&failure),
            }
        }
    }

    /// Reports the results that are verified first. `options` are for a second connection.
    pub(super) async fn verify(self: Arc<Self>, probe: Probe, options: Options) {
        let mut limit_known_at = None::<Instant>;
        loop {
            self.doubt.notified().await;
            let Doubted { duplicates, too_large } = std::mem::take(&mut *self.doubted.lock());
            if !duplicates.is_empty() {
                verify_duplicates(&probe, duplicates).await;
            }
            if too_large.is_empty() {
                continue;
            }
            let mut raised = false;
            if limit_known_at.is_none_or(|at| at.elapsed() > LIMIT_INTERVAL) {
                limit_known_at = Some(Instant::now());
                let known = self.link.client.max_payload();
                let fresh = Probe::connect(&options, Vec::new()).await;
                raised = fresh.is_ok_and(|fresh| fresh.is_ok_and(|fresh| fresh.client.max_payload() > known));
            }
            if raised {
                tracing::info!("nats: the server accepts larger messages than before: reconnecting");
                // A client that has ended is not connected either.
                let _ = self.link.client.force_reconnect().await;
            }
            for (entry, error) in too_large {
                entry.fail(&if raised { Failure::ConnectionLost } else { Failure::TooLarge(error) });
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
                // The sender outlives the wait.
                _ = violations.changed() => {}
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
    pub(super) fn enqueue(&self, entry: InFlight, (headers, payload): (HeaderMap, Bytes)) {
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
        let reply = format!("{}.{token}", self.inbox);
        let Link { client, health, .. } = &*self.link;
        let sent = client.publish_with_reply_and_headers(subject.to_string(), reply, headers, payload);
        // Unconstrained: tokio's cooperative budget may otherwise delay a future that is ready.
        let error = match unconstrained(sent).now_or_never() {
            Some(Ok(())) => {
                // The expiry of that loss may have run before the entry was inserted.
                if health.losses() != losses {
                    self.lost_while_enqueuing.notify_one();
                }
                return;
            }
            // The queue is full; nothing was enqueued.
            None => None,
            Some(Err(error)) => Some(error),
        };
        let Some(entry) = self.remove(token) else { return };
        match error {
            None => entry.fail(&Failure::Busy),
            Some(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                self.doubted.lock().too_large.push((entry, error.to_string()));
                self.doubt.notify_one();
            }
            Some(error) => entry.fail(&Failure::Other(error.to_string())),
        }
    }
}

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
        health.counters.in_flight.fetch_add(1, Ordering::Relaxed);
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
        let violation = health.violations.since(self.violations, &self.destination.subject);
        violation.map(|violation| Failure::NotPermitted(violation.advice()))
    }

    fn acknowledge(self, sequence: u64, duplicate: bool) {
        let Destination { subject, .. } = &*self.destination;
        tracing::debug!(stream = &*self.link.stream, %subject, sequence, duplicate, "nats: acknowledged");
        if !duplicate {
            self.link.health.acknowledged(sequence);
        }
        self.settle(Ok(Ack { duplicate, position: Some(Position::Sequence(sequence)) }));
    }

    fn fail(self, failure: &Failure) {
        let Link { client, health, stream } = &*self.link;
        let lost = health.losses() != self.losses || client.connection_state() != State::Connected;
        let last_error = health.known.lock().last_error.clone();
        let subject = &self.destination.subject;
        let at = Circumstances { subject, stream, lost, last_error: last_error.as_deref() };
        let error = failure.to_publish_error(at);
        match error {
            PublishError::Refused { .. } => health.nudge_monitor(),
            PublishError::Timeout { .. } => health.timed_out(),
            _ => {}
        }
        self.settle(Err(error));
    }

    fn settle(mut self, result: PublishResult) {
        if let Some(handle) = self.handle.take() {
            handle.settle(result);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Settled before it is counted: a flush that counts none has seen every result.
        drop(self.handle.take());
        self.link.health.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Acknowledges the messages that the stream takes for repeats, if it still has what they repeat. Where consumed
/// messages are deleted, or the stream may not be asked, the server is believed.
async fn verify_duplicates(probe: &Probe, duplicates: Vec<(InFlight, u64)>) {
    let mut info = probe.info(false).await;
    if let Ok(Response::Ok(found)) = &info
        && found.state.deleted_count.is_some_and(|count| count > 0)
    {
        info = probe.info(true).await;
    }
    for (entry, sequence) in duplicates {
        let failure = match &info {
            Ok(Response::Ok(info))
                if info.config.retention == RetentionPolicy::Limits && !has(&info.state, sequence) =>
            {
                Failure::Gone { sequence, window: info.config.duplicate_window }
            }
            Ok(Response::Ok(_))
            | Err(NoInfo::Denied(Violation::Publish(_) | Violation::ReservedReply(_))) => {
                entry.acknowledge(sequence, true);
                continue;
            }
            Ok(Response::Err { error }) => Failure::Server(error.clone()),
            Err(NoInfo::Denied(violation)) => Failure::NotPermitted(violation.advice()),
            Err(NoInfo::Silent(error)) => Failure::Other(format!("a repeat cannot be verified: {error}")),
        };
        entry.fail(&failure);
    }
}

fn has(contents: &Contents, sequence: u64) -> bool {
    let deleted = contents.deleted.as_ref().is_some_and(|deleted| deleted.contains(&sequence));
    (contents.first_sequence..=contents.last_sequence).contains(&sequence) && !deleted
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

/// What the binding percent-encodes in a header value, in addition to everything that is not ASCII.
pub(super) const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Headers and payload of a message in the content mode, or structured if it must be. The error is a header that NATS
/// does not accept.
pub(super) fn encode_record(
    message: &Message,
    mode: ContentMode,
    stream: &str,
) -> Result<(HeaderMap, Bytes), async_nats::Error> {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, HeaderValue::from_str(&message.dedup_key)?);
    headers.insert(NATS_EXPECTED_STREAM, HeaderValue::from_str(stream)?);
    let event = &message.event;
    for (name, value) in event.trace_headers() {
        headers.insert(HeaderName::from_str(name)?, HeaderValue::from_str(value)?);
    }
    if mode == ContentMode::Structured || message.structured_only {
        let name = HeaderName::from_str("Content-Type")?;
        headers.insert(name, HeaderValue::from_str(structured::CONTENT_TYPE)?);
        return Ok((headers, structured::encode(event).into()));
    }
    let content_type = event.get(Attribute::DataContentType).map(|value| ("datacontenttype", value));
    for (name, value) in event.binary_headers().chain(content_type) {
        let name = HeaderName::from_str(&format!("ce-{name}"))?;
        headers.insert(name, HeaderValue::from_str(&Cow::from(utf8_percent_encode(value, ENCODED)))?);
    }
    Ok((headers, event.data().bytes().clone()))
}

/// A message as the stream would store it.
pub(in crate::bus) fn encode(
    message: &Message,
    mode: ContentMode,
    stream: &str,
) -> Result<EncodedMessage, String> {
    let (headers, payload) = encode_record(message, mode, stream).map_err(|error| error.to_string())?;
    let all = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    let mut headers: Vec<_> = all.map(|(name, value)| (name.to_string(), value.to_string())).collect();
    // The client keeps them unordered.
    headers.sort();
    Ok(EncodedMessage { headers, payload: payload.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloudevent::Data;

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

    fn message(structured_only: bool) -> Message {
        let data = Data::Json(Bytes::from_static(b"{\"a\":1}"));
        let mut event = crate::cloudevent::CloudEvent::new("1", &["urn:x"], data);
        event.set(Attribute::Type, "com.attio.record.created");
        event.set(Attribute::DataContentType, "application/json");
        event.set(Attribute::PartitionKey, "50 % \"é\"");
        let destination =
            Destination { address: "attio.record".into(), subject: "attio.record.created".into() };
        Message { destination: Arc::new(destination), event, dedup_key: "0".repeat(32), structured_only }
    }

    fn headers((headers, _): &(HeaderMap, Bytes)) -> BTreeMap<String, String> {
        let text = |values: &[HeaderValue]| values.iter().map(HeaderValue::to_string).collect::<String>();
        headers.iter().map(|(name, values)| (name.to_string(), text(values))).collect()
    }

    fn expected(more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let always = [("Nats-Msg-Id", "00000000000000000000000000000000"), ("Nats-Expected-Stream", "ATTIO")];
        always.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn structured_mode_has_only_the_media_type_header() {
        let record = encode_record(&message(false), ContentMode::Structured, "ATTIO").unwrap();
        let media_type = ("Content-Type", "application/cloudevents+json; charset=utf-8");
        assert_eq!(headers(&record), expected(&[media_type]));
        assert!(record.1.ends_with(b",\"data\":{\"a\":1}}"));
    }

    #[test]
    fn binary_mode_has_attributes_as_headers_and_data_as_payload() {
        let record = encode_record(&message(false), ContentMode::Binary, "ATTIO").unwrap();
        assert_eq!(record.1, "{\"a\":1}");
        let attributes = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "urn:x"),
            ("ce-type", "com.attio.record.created"),
            ("ce-datacontenttype", "application/json"),
            ("ce-partitionkey", "50%20%25%20%22%C3%A9%22"),
        ];
        assert_eq!(headers(&record), expected(&attributes));
    }

    #[test]
    fn quarantine_is_structured_in_binary_mode() {
        let record = encode_record(&message(true), ContentMode::Binary, "ATTIO").unwrap();
        assert!(record.1.starts_with(b"{\"specversion\":\"1.0\""));
        assert_eq!(record.0.len(), 3);
    }

    #[test]
    fn line_break_in_a_header_value_is_an_error() {
        assert!(encode_record(&message(false), ContentMode::Structured, "A\r\nB").is_err());
    }
}
