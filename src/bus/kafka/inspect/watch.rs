//! The callbacks of the client that asks: they only take notes.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use crate::bus::kafka::context::Statistics;

/// More notes tell nothing more.
const NOTES: usize = 32;

/// What the client has said.
#[derive(Default)]
pub(super) struct Watch {
    complaints: Mutex<Vec<String>>,
    warm: Mutex<bool>,
}

impl Watch {
    /// Everything it complained of, each once.
    pub(super) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().clone()
    }

    /// True once it has its producer id.
    pub(super) fn is_warm(&self) -> bool {
        *self.warm.lock()
    }
}

impl ClientContext for Watch {
    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(error.rdkafka_error_code(), Some(Code::AllBrokersDown | Code::Fatal)) {
            return;
        }
        let reason = reason.split(" (after ").next().unwrap_or(reason).to_owned();
        let mut complaints = self.complaints.lock();
        if complaints.len() < NOTES && !complaints.contains(&reason) {
            complaints.push(reason);
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let statistics = serde_json::from_slice::<Statistics>(statistics);
        if statistics.is_ok_and(|statistics| statistics.is_warm()) {
            *self.warm.lock() = true;
        }
    }

    /// The table says it all.
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ProducerContext for Watch {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
