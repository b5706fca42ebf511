//! The callbacks of one client: acks and errors of messages, connection errors, statistics, log lines. They run on the
//! client's polling thread and never block.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::OwnedMessage;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::{ClientContext, Message as _};
use serde::Deserialize;

use super::cluster_identity::{AckVerdict, Acknowledged, Change, ClusterIdentity};
use super::end_offsets::EndOffsets;
use super::errors::{Circumstances, NO_NEW_TOKEN, classify, may_be_the_batch, without_suffix};
use super::health::{Health, Signal};
use super::options::AUTO_CREATE;
use super::record::Pending;
use super::repeats::kind;
use super::tokens::{self, Tokens};
use crate::pipeline::publish::{Ack, Position, PublishError, PublishResult};

/// A message that was refused as part of a batch.
pub(super) struct Retry {
    pub pending: Pending,
    pub message: OwnedMessage,
}

/// Messages to be sent again, each in its own batch.
#[derive(Clone, Default)]
pub(super) struct RetrySet(Arc<Mutex<Vec<Retry>>>);

/// At least the events of one delivery, which always fits. The permits of deliveries bound it too.
const MAX_RETRIES: usize = 16_384;

impl RetrySet {
    /// Adds a message; gives its handle back if the set is full.
    pub(super) fn add(&self, retry: Retry) -> Result<(), Pending> {
        let mut retries = self.0.lock();
        if retries.len() >= MAX_RETRIES {
            return Err(retry.pending);
        }
        retries.push(retry);
        Ok(())
    }

    pub(super) fn take(&self) -> Vec<Retry> {
        std::mem::take(&mut *self.0.lock())
    }
}

pub(super) struct Callbacks {
    pub(super) health: Arc<Health>,
    generation: u64,
    /// Messages that this client has not settled.
    pending: AtomicU64,
    /// The fatal error of this client, if the operator must act on it.
    fatal: OnceLock<Code>,
    /// Where messages go that were refused in a batch; none for the single-message producer.
    retries: Option<RetrySet>,
    pub(super) identity: ClusterIdentity,
    /// A message of this client was acknowledged.
    pub(super) has_acked: AtomicBool,
    /// There was no token when this client asked for one: it asks again in ten seconds.
    pub(super) lacks_token: AtomicBool,
    /// The last error of its connections.
    pub(super) last_error: Mutex<Option<String>>,
    /// Whether the operator asked for librdkafka's debug log.
    pub(super) verbose: bool,
}

/// A property of consumers that also applies where a producer asks for the end of a partition.
pub(super) const ISOLATION_LEVEL: &str = "isolation.level";

/// The generation of the single-message producer: never the current one, so its connection does not
/// count for the bus.
pub(super) const NO_GENERATION: u64 = u64::MAX;

impl Callbacks {
    /// `retries` is `None` for the single-message producer.
    pub(super) fn new(health: Arc<Health>, generation: u64, retries: Option<RetrySet>) -> Self {
        let (pending, fatal, identity, has_acked, lacks_token, last_error) = Default::default();
        Self {
            health,
            generation,
            pending,
            fatal,
            retries,
            identity,
            has_acked,
            lacks_token,
            last_error,
            verbose: false,
        }
    }

    /// The callbacks of the client that takes over from this one.
    pub(super) fn successor(&self, generation: u64) -> Self {
        let identity = ClusterIdentity::after(&self.identity);
        Self { identity, ..Self::new(Arc::clone(&self.health), generation, self.retries.clone()) }
    }

    /// Notes the ends of the partitions; they count if nothing is pending: what is published later is stored behind
    /// them.
    pub(super) fn set_baseline(&self, ends: EndOffsets) {
        self.identity.set_baseline((self.pending() == 0).then_some(ends));
    }

    /// A partition ends before messages that were acknowledged.
    pub(super) fn truncated(&self, topic: &str, partition: i32, end: i64) {
        if let Some(change) = self.identity.truncated(topic, partition, end) {
            self.changed(change);
        }
    }

    /// Lets no ack of this client count from now on.
    pub(super) fn invalidate(&self, reason: &str) {
        let held = self.identity.invalidate(reason);
        if self.is_current() {
            self.health.unconfirmed(reason);
        }
        held.into_iter().for_each(|pending| self.reject_ack(pending, reason));
    }

    /// The ack of a message proves nothing.
    fn reject_ack(&self, pending: Pending, reason: &str) {
        let detail = format!("topic {}: the ack does not count: {reason}", pending.destination.address);
        self.report(pending, Err(PublishError::Unavailable { detail: detail.into() }));
    }

    fn changed(&self, change: Change) {
        match change {
            Change::Connected => self.health.signal(Signal::Check),
            Change::Confirmed(held) => held.into_iter().for_each(|held| self.acknowledged(held)),
            Change::Invalid(invalid, held) => {
                if invalid.changed {
                    self.health.data_lost(&invalid.reason);
                } else if self.is_current() {
                    self.health.unconfirmed(&invalid.reason);
                }
                self.health.signal(Signal::Check);
                held.into_iter().for_each(|pending| self.reject_ack(pending, &invalid.reason));
            }
        }
    }

    fn acknowledged(&self, Acknowledged { pending, partition, offset }: Acknowledged) {
        self.has_acked.store(true, Ordering::Relaxed);
        let position = Some(Position::Offset { partition, offset });
        self.report(pending, Ok(Ack { duplicate: false, position }));
    }

    pub(super) fn enqueued(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.health.enqueued();
    }

    /// To be called before a message is enqueued again; the bus counts it as pending already.
    pub(super) fn enqueued_again(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Settles a message that the client gave up.
    pub(super) fn failed(&self, pending: Pending, code: Option<Code>) {
        if code == Some(Code::Fatal) {
            self.health.signal(Signal::Check);
        }
        let error = self.publish_error(&pending.destination.address, code.unwrap_or(Code::Unknown));
        self.report(pending, Err(error));
    }

    fn report(&self, pending: Pending, result: PublishResult) {
        if matches!(result, Err(PublishError::Refused { .. })) && self.is_current() {
            self.health.mark_stale(&pending.destination.address);
        }
        pending.handle.settle(result);
        self.pending.fetch_sub(1, Ordering::Relaxed);
        self.health.settled();
    }

    fn publish_error(&self, topic: &str, code: Code) -> PublishError {
        let cause = self.health.cause();
        let circumstances = Circumstances {
            topic,
            down: self.health.down().is_some(),
            cause: cause.as_deref(),
            fatal: self.fatal.get().copied(),
        };
        classify(code, circumstances)
    }

    /// False once another client has taken over.
    fn is_current(&self) -> bool {
        self.health.generation() == self.generation
    }
}

/// A message is acknowledged only with the offset that the broker assigned. When one of several requests
/// in flight fails and a later one succeeds, librdkafka reports the earlier messages as stored too
/// (`rd_kafka_dr_implicit_ack`): a broker would have refused the later sequence number. A broker that
/// does not know this producer on that partition yet accepts any number (KIP-360), so the first message
/// can be lost that way. Its sender gets 503.
impl ProducerContext for Callbacks {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<Pending>) {
        if let (Err((error, message)), Some(retries)) = (result, &self.retries)
            && error.rdkafka_error_code().is_some_and(may_be_the_batch)
        {
            return match retries.add(Retry { pending: *pending, message: message.detach() }) {
                Ok(()) => {
                    self.pending.fetch_sub(1, Ordering::Relaxed);
                    self.health.signal(Signal::Check);
                }
                Err(pending) => self.failed(pending, Some(Code::QueueFull)),
            };
        }
        match result {
            Ok(message) if message.offset() < 0 => {
                let topic = &pending.destination.address;
                let detail = format!("topic {topic}: inferred by the client, without the broker's offset");
                self.report(*pending, Err(PublishError::Timeout { detail: detail.into() }));
            }
            Ok(message) => match self.identity.verdict_on(*pending, message.partition(), message.offset()) {
                AckVerdict::Accept(stored) => self.acknowledged(stored),
                AckVerdict::Hold => {}
                AckVerdict::Reject(pending, reason, change) => {
                    self.reject_ack(pending, &reason);
                    change.into_iter().for_each(|change| self.changed(change));
                }
            },
            Err((error, _)) => self.failed(*pending, error.rdkafka_error_code()),
        }
    }
}

impl ClientContext for Callbacks {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let token = tokens::hand_out(self.health.tokens.get());
        let is_awaited = token.is_err() && self.health.tokens.get().is_some();
        self.lacks_token.store(is_awaited, Ordering::Relaxed);
        token
    }

    fn error(&self, error: KafkaError, text: &str) {
        if error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            *self.last_error.lock() = Some(text.to_owned());
        }
        if !self.is_current() {
            return;
        }
        match error.rdkafka_error_code() {
            // It does not even try to connect.
            Some(code @ Code::Authentication) if self.lacks_token.load(Ordering::Relaxed) => {
                self.health.connection_error(format!("{code:?}"), text);
                self.health.lost();
            }
            Some(Code::AllBrokersDown) => self.health.lost(),
            Some(Code::Fatal) => {
                if let Some(code) = refusal_in(text) {
                    // A second fatal error of the same client changes nothing.
                    let _ = self.fatal.set(code);
                }
                self.health.connection_error("Fatal".into(), text);
                self.health.signal(Signal::Check);
            }
            Some(code) => {
                let lapse = self.health.tokens.get().and_then(Tokens::lapse);
                let because = |why| Cow::from(format!("{}: {NO_NEW_TOKEN}: {why}", without_suffix(text)));
                let text = lapse.map_or(text.into(), because);
                self.health.connection_error(format!("{code:?}"), &text);
            }
            None => self.health.connection_error("Unknown".into(), text),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        if !self.is_current() {
            return;
        }
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        if statistics.is_warm() {
            self.health.warm();
        }
        if !statistics.is_connected() && self.health.is_up() {
            self.health.signal(Signal::Probe);
        }
        if let Some(throttle_ms) = statistics.throttle_ms()
            && let Some(repeated) = self.health.repeats.pass("throttled")
        {
            tracing::warn!(
                throttle_ms,
                repeated,
                "kafka: a quota of the broker delays the bridge's messages: raise or remove the producer_byte_rate or \
                 request_percentage of its user and client"
            );
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        if let Some(change) = self.identity.read(facility, text, self.pending() > 0) {
            self.changed(change);
        }
        match level {
            RDKafkaLogLevel::Debug if !self.verbose => {}
            // Connection errors: the error callback reports each of them once.
            _ if ["FAIL", "ERROR", "FATAL"].contains(&facility) => {
                tracing::debug!(facility, "librdkafka: {text}")
            }
            // librdkafka warns that producers ignore these properties, which is not so.
            _ if facility == "CONFWARN"
                && [AUTO_CREATE, ISOLATION_LEVEL].iter().any(|key| text.contains(key)) =>
            {
                tracing::debug!(facility, "librdkafka: {text}");
            }
            // Logged dozens of times while a broker starts, when nothing is wrong yet.
            _ if text.ends_with("retrying") => tracing::debug!(facility, "librdkafka: {text}"),
            // Emergencies, alerts, critical conditions, errors, warnings.
            level if level as i32 <= RDKafkaLogLevel::Warning as i32 => {
                // Every CONFWARN is about another property.
                let kind = if facility == "CONFWARN" { kind(text) } else { facility.to_owned() };
                if let Some(repeated) = self.health.repeats.pass(&kind) {
                    tracing::warn!(facility, repeated, "librdkafka: {text}");
                }
            }
            _ => tracing::debug!(facility, "librdkafka: {text}"),
        }
    }
}

/// The refusal in a fatal error's text. librdkafka's code is only "fatal"; the reason is in the text, in
/// librdkafka's words: what `Display` of a code puts in brackets.
fn refusal_in(text: &str) -> Option<Code> {
    let is_in = |code: &Code| {
        let shown = code.to_string();
        let words = shown.split_once('(').map_or(&*shown, |(_, words)| words.trim_end_matches(')'));
        text.contains(words.trim())
    };
    [Code::ClusterAuthorizationFailed, Code::TransactionalIdAuthorizationFailed].into_iter().find(is_in)
}

/// The fields of librdkafka's statistics that are used here.
#[derive(Deserialize)]
pub(super) struct Statistics {
    #[serde(default)]
    brokers: HashMap<String, Broker>,
    eos: Option<Idempotence>,
}

#[derive(Deserialize)]
struct Broker {
    state: String,
    #[serde(default)]
    throttle: Throttle,
}

/// For how long the broker asked the client to wait, in milliseconds, since the last statistics.
#[derive(Default, Deserialize)]
struct Throttle {
    max: i64,
}

#[derive(Deserialize)]
struct Idempotence {
    idemp_state: String,
}

impl Statistics {
    pub(super) fn is_warm(&self) -> bool {
        self.eos.as_ref().is_some_and(|eos| eos.idemp_state == "Assigned")
    }

    fn is_connected(&self) -> bool {
        self.brokers.values().any(|broker| matches!(broker.state.as_str(), "UP" | "UPDATE"))
    }

    /// The longest wait that a broker asked for; none without a quota.
    fn throttle_ms(&self) -> Option<i64> {
        self.brokers.values().map(|broker| broker.throttle.max).max().filter(|longest| *longest > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The retry set holds every event of a delivery.
    const _: () = assert!(MAX_RETRIES >= crate::pipeline::parse::MAX_EVENTS);

    #[test]
    fn a_fatal_authorization_error_is_recognised_by_its_text() {
        let text = "Fatal error: Broker: Cluster authorization failed: Failed to acquire idempotence PID";
        assert_eq!(refusal_in(text), Some(Code::ClusterAuthorizationFailed));
        assert_eq!(refusal_in("Fatal error: Broker: Broker received an out of order sequence number"), None);
    }

    #[test]
    fn statistics_show_the_producer_id_open_connections_and_throttling() {
        let text = r#"{"name":"x","brokers":{"a/1":{"name":"a/1","state":"UP","throttle":{"min":0,"max":0}},
            "b/2":{"state":"UP","throttle":{"max":40011}}},"eos":{"idemp_state":"Assigned"}}"#;
        let statistics: Statistics = serde_json::from_str(text).unwrap();
        assert!(statistics.is_warm() && statistics.is_connected());
        assert_eq!(statistics.throttle_ms(), Some(40_011));
        let text = r#"{"brokers":{"a/1":{"state":"DOWN"}},"eos":{"idemp_state":"WaitTransport"}}"#;
        let statistics: Statistics = serde_json::from_str(text).unwrap();
        assert!(!statistics.is_warm() && !statistics.is_connected());
        assert_eq!(statistics.throttle_ms(), None);
    }
}
