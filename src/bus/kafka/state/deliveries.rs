//! What became of the records of a transaction.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::positions::Place;

/// How long the client takes to tell of all records of a batch.
const OF_A_BATCH: Duration = Duration::from_millis(10);

#[derive(Default)]
pub(super) struct Deliveries {
    told: Mutex<Told>,
    /// Notified once as many are told of as are waited for, or one is nowhere.
    is_told: Condvar,
}

#[derive(Default)]
struct Told {
    /// The mark of the transaction's first record. What is told of one of a former transaction comes late, and has a lower
    /// mark.
    first: usize,
    /// Behind the mark of its last one.
    end: usize,
    /// By the number of the record in the transaction: where it is, or why it is nowhere.
    places: Vec<(usize, KafkaResult<Place>)>,
    has_failed: bool,
    /// Of how many somebody waits to be told.
    awaited: usize,
}

impl Deliveries {
    /// Begins a transaction of at most so many records. Returns the mark of the first one; each record's is higher by its
    /// number.
    pub(super) fn begin(&self, count: usize) -> usize {
        let mut told = self.told.lock();
        let first = told.end;
        *told = Told { first, end: first + count, ..Told::default() };
        first
    }

    /// Why a record is nowhere.
    pub(super) fn failure(&self, number: usize) -> Option<KafkaError> {
        let told = self.told.lock();
        told.places.iter().find(|(of, _)| *of == number).and_then(|(_, place)| place.clone().err())
    }

    /// Waits until so many records of the transaction are told of, or one is nowhere: then the client sends no other of
    /// the transaction, and those of its batch are told of at once. False if neither is so by then.
    ///
    /// The client's `flush` would do the same, but uses up its time, up to 100 ms, if it has to wait at all, and spins for
    /// the last millisecond (findings/rdkafka-flush-uses-up-its-time.sh).
    pub(super) fn wait(&self, count: usize, mut deadline: Instant) -> bool {
        let mut told = self.told.lock();
        told.awaited = count;
        let mut had_failed = false;
        while told.places.len() < count {
            if told.has_failed && !had_failed {
                had_failed = true;
                deadline = deadline.min(Instant::now() + OF_A_BATCH);
            }
            if self.is_told.wait_until(&mut told, deadline).timed_out() {
                return told.has_failed || told.places.len() >= count;
            }
        }
        true
    }

    pub(super) fn take(&self) -> Vec<(usize, KafkaResult<Place>)> {
        std::mem::take(&mut self.told.lock().places)
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
        let mut told = self.told.lock();
        if let Some(number) = mark.checked_sub(told.first) {
            told.has_failed |= place.is_err();
            told.places.push((number, place));
            if told.has_failed || told.places.len() >= told.awaited {
                self.is_told.notify_all();
            }
        }
    }
}
