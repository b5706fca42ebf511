//! The callbacks of one client: verdicts of messages, errors, statistics, log lines.
//!
//! They run on the client's own polling thread and never wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use serde::Deserialize;

use super::alone::{Suspect, Suspects};
use super::client_config::AUTO_CREATE;
use super::health::{Health, Nudge};
use super::verdict::{self, Circumstances};
use crate::pipeline::publish::{Ack, Destination, PublishError, PublishHandle, PublishResult};

/// What travels with a message through the client.
pub(super) struct Pending {
    pub handle: PublishHandle,
    pub destination: Arc<Destination>,
}

/// The callbacks of one client.
pub(super) struct Context {
    health: Arc<Health>,
    generation: u64,
    /// Messages this client has and has not settled.
    pending: AtomicU64,
    /// Why this client died, where that is the operator's fault.
    fatal: OnceLock<Code>,
    /// Where messages go that were refused in company; none for the client that sends single ones.
    suspects: Option<Suspects>,
}

/// The generation of the client that sends single messages: never the current one, so what happens
/// to it says nothing of the bus.
const NO_GENERATION: u64 = u64::MAX;

impl Context {
    pub(super) fn new(health: Arc<Health>, generation: u64, suspects: Suspects) -> Self {
        let fatal = OnceLock::new();
        Self { health, generation, pending: AtomicU64::new(0), fatal, suspects: Some(suspects) }
    }

    /// The callbacks of the client that sends single messages.
    pub(super) fn alone(health: Arc<Health>) -> Self {
        let fatal = OnceLock::new();
        Self { health, generation: NO_GENERATION, pending: AtomicU64::new(0), fatal, suspects: None }
    }

    /// To be called before a message that counts as pending already is handed to this client.
    pub(super) fn taken_over(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// To be called before a message is handed to the client.
    pub(super) fn handed_over(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
        self.health.handed_over();
    }

    pub(super) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Sorts the result of a message and reports it.
    pub(super) fn settle(&self, pending: Pending, result: Result<(), Option<Code>>) {
        let topic = &pending.destination.address;
        if result == Err(Some(Code::Fatal)) {
            self.health.nudge(Nudge::Look);
        }
        let verdict = result.map(|()| Ack { duplicate: false }).map_err(|code| self.sort(topic, code));
        self.report(pending, verdict);
    }

    fn report(&self, pending: Pending, verdict: PublishResult) {
        self.follow_up(&pending.destination.address, &verdict);
        pending.handle.settle(verdict);
        self.pending.fetch_sub(1, Ordering::Relaxed);
        self.health.settled();
    }

    fn sort(&self, topic: &str, code: Option<Code>) -> PublishError {
        let cause = self.health.cause();
        let at = Circumstances {
            topic,
            down: self.health.down().is_some(),
            cause: cause.as_deref(),
            fatal: self.fatal.get().copied(),
        };
        verdict::sort(code.unwrap_or(Code::Unknown), at)
    }

    fn follow_up(&self, topic: &Arc<str>, verdict: &PublishResult) {
        if matches!(verdict, Err(PublishError::Refused { .. })) && self.is_current() {
            self.health.suspect(topic);
        }
    }

    /// False once another client has taken over.
    fn is_current(&self) -> bool {
        self.health.generation() == self.generation
    }
}

/// A message counts as acknowledged only with the offset that the broker gave it. Where one request of
/// several on their way fails and a later one succeeds, librdkafka takes the earlier one's messages for
/// stored as well (`rd_kafka_dr_implicit_ack`), for a broker would have refused the later one's sequence
/// number. A broker that knows nothing yet of this producer on that partition takes any number (KIP-360),
/// so what was to be the first message there can be lost that way. Its sender is told 503 instead.
impl ProducerContext for Context {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<Pending>) {
        if let (Err((error, message)), Some(suspects)) = (result, &self.suspects)
            && error.rdkafka_error_code().is_some_and(verdict::may_be_the_batch)
        {
            return match suspects.add(Suspect { pending: *pending, message: message.detach() }) {
                Ok(()) => {
                    self.pending.fetch_sub(1, Ordering::Relaxed);
                    self.health.nudge(Nudge::Look);
                }
                Err(pending) => self.settle(pending, Err(Some(Code::QueueFull))),
            };
        }
        match result {
            Ok(message) if message.offset() < 0 => {
                let topic = &pending.destination.address;
                let detail =
                    format!("topic {topic}: the client takes it for stored, the broker has not said so");
                let detail = detail.into();
                self.report(*pending, Err(PublishError::Timeout { detail }));
            }
            Ok(_) => self.settle(*pending, Ok(())),
            Err((error, _)) => self.settle(*pending, Err(error.rdkafka_error_code())),
        }
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        if !self.is_current() {
            return;
        }
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown) => self.health.lost(),
            Some(Code::Fatal) => {
                if let Some(code) = refusal_in(reason) {
                    // A second fatal error of the same client changes nothing.
                    let _ = self.fatal.set(code);
                }
                self.health.complain("Fatal", reason);
                self.health.nudge(Nudge::Look);
            }
            Some(code) => self.health.complain(&format!("{code:?}"), reason),
            None => self.health.complain("Unknown", reason),
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
        if !statistics.is_connected() && self.health.is_reached() {
            self.health.nudge(Nudge::Doubt);
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        match level {
            // Failed connections: the error callback reports each of them once.
            _ if facility == "FAIL" || facility == "ERROR" => tracing::debug!(facility, "librdkafka: {text}"),
            // It is no mistake: the producer minds it.
            _ if facility == "CONFWARN" && text.contains(AUTO_CREATE) => {
                tracing::debug!(facility, "librdkafka: {text}");
            }
            // Said dozens of times while a broker starts up, and nothing is wrong yet.
            _ if text.ends_with("retrying") => tracing::debug!(facility, "librdkafka: {text}"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(facility, "librdkafka: {text}"),
            _ => tracing::debug!(facility, "librdkafka: {text}"),
        }
    }
}

/// The refusal that a fatal error's text tells of. librdkafka says only "fatal" as a code and puts
/// its own words for the reason into the text.
fn refusal_in(reason: &str) -> Option<Code> {
    let refusals = [Code::ClusterAuthorizationFailed, Code::TransactionalIdAuthorizationFailed];
    refusals.into_iter().find(|code| reason.contains(words_of(*code).trim()))
}

/// librdkafka's own words for a code: what `Display` puts in brackets.
fn words_of(code: Code) -> String {
    let shown = code.to_string();
    shown.split_once('(').map_or(shown.as_str(), |(_, words)| words.trim_end_matches(')')).to_owned()
}

/// The few fields of librdkafka's statistics that matter here.
#[derive(Deserialize)]
pub(super) struct Statistics {
    #[serde(default)]
    brokers: HashMap<String, Broker>,
    eos: Option<Idempotence>,
}

#[derive(Deserialize)]
struct Broker {
    state: String,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fatal_text_that_tells_of_missing_rights_is_recognised() {
        let reason = "Fatal error: Broker: Cluster authorization failed: Failed to acquire idempotence PID";
        assert_eq!(refusal_in(reason), Some(Code::ClusterAuthorizationFailed));
        assert_eq!(refusal_in("Fatal error: Broker: Broker received an out of order sequence number"), None);
    }

    #[test]
    fn the_statistics_tell_whether_the_client_is_warm_and_connected() {
        let text =
            r#"{"name":"x","brokers":{"a/1":{"name":"a/1","state":"UP"}},"eos":{"idemp_state":"Assigned"}}"#;
        let statistics: Statistics = serde_json::from_str(text).unwrap();
        assert!(statistics.is_warm() && statistics.is_connected());
        let text = r#"{"brokers":{"a/1":{"state":"DOWN"}},"eos":{"idemp_state":"WaitTransport"}}"#;
        let statistics: Statistics = serde_json::from_str(text).unwrap();
        assert!(!statistics.is_warm() && !statistics.is_connected());
    }
}
