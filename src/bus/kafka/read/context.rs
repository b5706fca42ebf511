//! The callbacks of the client that reads: they only take notes.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::bus::kafka::trouble;

/// More notes tell nothing more.
const NOTES: usize = 32;

/// What the client has complained of.
#[derive(Default)]
pub(super) struct Notes(Mutex<Vec<String>>);

impl Notes {
    /// The complaint of the try that came farthest.
    pub(super) fn farthest(&self) -> Option<String> {
        let notes = self.0.lock();
        notes.iter().max_by_key(|complaint| trouble::words(complaint).0).cloned()
    }
}

impl ClientContext for Notes {
    fn error(&self, error: KafkaError, reason: &str) {
        // Nobody joins the group, so nobody needs the right to.
        if matches!(
            error.rdkafka_error_code(),
            Some(Code::AllBrokersDown | Code::Fatal | Code::GroupAuthorizationFailed)
        ) {
            return;
        }
        let reason = reason.split(" (after ").next().unwrap_or(reason).to_owned();
        let mut notes = self.0.lock();
        if notes.len() < NOTES && !notes.contains(&reason) {
            notes.push(reason);
        }
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, text: &str) {
        tracing::debug!("librdkafka: {text}");
    }
}

impl ConsumerContext for Notes {}
