//! What became of the records of a transaction.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::positions::Partition;

/// Where a record is, or why it is nowhere.
pub(super) type Place = KafkaResult<(Partition, i64)>;

#[derive(Default)]
pub(super) struct Deliveries(Mutex<Told>);

#[derive(Default)]
struct Told {
    /// The mark of the transaction's first record. What is told of one of a former transaction comes late, and has a lower
    /// mark.
    first: usize,
    /// Behind the mark of its last one.
    end: usize,
    /// By the number of the record in the transaction.
    places: Vec<(usize, Place)>,
}

impl Deliveries {
    /// Begins a transaction of at most so many records. Returns the mark of the first one; each record's is higher by its
    /// number.
    pub(super) fn begin(&self, count: usize) -> usize {
        let mut told = self.0.lock();
        let first = told.end;
        *told = Told { first, end: first + count, places: Vec::new() };
        first
    }

    /// Why a record is nowhere.
    pub(super) fn failure(&self, number: usize) -> Option<KafkaError> {
        let told = self.0.lock();
        told.places.iter().find(|(of, _)| *of == number).and_then(|(_, place)| place.clone().err())
    }

    pub(super) fn has_failed(&self) -> bool {
        self.0.lock().places.iter().any(|(_, place)| place.is_err())
    }

    pub(super) fn take(&self) -> Vec<(usize, Place)> {
        std::mem::take(&mut self.0.lock().places)
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, text: &str) {
        tracing::debug!("kafka: {error}: {text}");
    }

    fn log(&self, _: RDKafkaLogLevel, _: &str, text: &str) {
        tracing::debug!("librdkafka: {text}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, mark: usize) {
        let place = match result {
            Ok(message) => Ok(((message.topic().to_owned(), message.partition()), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        let mut told = self.0.lock();
        if let Some(number) = mark.checked_sub(told.first) {
            told.places.push((number, place));
        }
    }
}
