//! The contract of the port: one suite for the buses memory, Kafka and NATS.

use std::time::Duration;

use attio_bridge::pipeline::publish::{BusState, Position, PublishError, PublishResult};

use crate::support::bus::label;
use crate::support::harness::{Harness, KafkaHarness, MemoryHarness, NatsHarness};
use crate::support::wait::{PATIENCE, eventually_blocking};

fn acknowledged(harness: &impl Harness) -> bool {
    label(&harness.publish(harness.message("{}")).wait()) == "acknowledged"
}

fn detail(result: PublishResult) -> String {
    match result {
        Ok(ack) => panic!("acknowledged: {ack:?}"),
        Err(error) => error.to_string(),
    }
}

/// Every result is counted, and nothing stays in flight.
fn settled(harness: &impl Harness, published: u64) {
    let metrics = harness.metrics().publish(harness.destination());
    assert_eq!(metrics.in_flight.get(), 0);
    assert_eq!(metrics.duration.get_sample_count(), published);
}

fn acknowledged_messages_are_stored(harness: &impl Harness) {
    let results: Vec<_> = (0..50).map(|n| harness.publish(harness.message(&n.to_string()))).collect();
    let acks: Vec<_> = results.into_iter().map(|result| result.wait().expect("it is acknowledged")).collect();
    assert!(acks.iter().all(|ack| !ack.duplicate));
    assert_eq!(harness.stored(), 50);
    settled(harness, 50);
    let place = |position| match position {
        Position::Offset { offset, .. } => offset,
        Position::Sequence(sequence) => sequence.try_into().expect("it is small"),
    };
    let places: Vec<i64> = acks.iter().filter_map(|ack| ack.position).map(place).collect();
    if harness.bus().name() == "memory" {
        return assert!(places.is_empty());
    }
    assert_eq!(places.len(), 50);
    assert!(places.is_sorted_by(|place, next| place + 1 == *next), "one after the other: {places:?}");
}

fn repeat_is_a_duplicate_where_the_broker_deduplicates<H: Harness>(harness: &H) {
    let message = harness.message("{}");
    assert_eq!(harness.publish(message.clone()).wait().map(|ack| ack.duplicate), Ok(false));
    assert_eq!(harness.publish(message).wait().map(|ack| ack.duplicate), Ok(H::DEDUPLICATES));
    assert_eq!(harness.stored(), if H::DEDUPLICATES { 1 } else { 2 });
}

fn deleted_destination_is_refused_by_name_until_recreated(harness: &impl Harness) {
    assert!(acknowledged(harness));
    harness.delete_destination();
    // librdkafka fails messages that it holds for a deleted partition with `_DESTROY`, which is unavailable,
    // until its metadata is refreshed; the sender retries. It never acknowledges one.
    eventually_blocking("it is refused by name", || {
        let result = harness.publish(harness.message("{}")).wait();
        assert!(matches!(label(&result), "refused" | "unavailable"), "{result:?}");
        label(&result) == "refused" && detail(result).contains(harness.destination())
    });
    // A broker on a busy machine may seem to be lost for a moment.
    eventually_blocking("the bus is up", || harness.bus().state() == BusState::Up);
    harness.restore_destination();
    eventually_blocking("a publish is acknowledged", || acknowledged(harness));
}

fn killed_broker_is_unavailable_at_once_and_recovers(harness: &impl Harness) {
    assert!(acknowledged(harness));
    harness.broker().kill();
    eventually_blocking("the loss is noticed", || harness.bus().state() == BusState::Down);
    let result = harness.publish(harness.message("{}")).now().expect("settled when publish returns");
    assert_eq!(label(&result), "unavailable", "{result:?}");
    harness.broker().restart();
    eventually_blocking("it is up", || harness.bus().state() == BusState::Up);
    eventually_blocking("a publish is acknowledged", || acknowledged(harness));
}

fn publishes_wait_for_a_stalled_broker(harness: &impl Harness) {
    assert!(acknowledged(harness));
    harness.broker().pause();
    let results: Vec<_> = (0..5).map(|n| harness.publish(harness.message(&n.to_string()))).collect();
    let flushed = |within| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(harness.bus().flush(within))
    };
    assert_eq!(flushed(Duration::from_millis(200)), 5);
    assert!(results.iter().all(|result| result.now().is_none()));
    assert_eq!(harness.metrics().publish(harness.destination()).in_flight.get(), 5);
    harness.broker().resume();
    assert_eq!(flushed(PATIENCE), 0);
    assert!(results.into_iter().all(|result| label(&result.wait()) == "acknowledged"));
    assert_eq!(harness.stored(), 6);
    settled(harness, 6);
}

fn late_ack_is_a_timeout_and_the_retry_succeeds<H: Harness>(harness: &H) {
    assert!(acknowledged(harness));
    harness.broker().pause();
    let message = harness.message("{}");
    let timeout = harness.publish(message.clone()).wait();
    assert_eq!(label(&timeout), "timeout", "{timeout:?}");
    harness.broker().resume();
    eventually_blocking("the retry is acknowledged", || {
        label(&harness.publish(message.clone()).wait()) == "acknowledged"
    });
    // A timeout means unknown: the first attempt may be stored too.
    let stored = harness.stored();
    assert!(stored == 2 || (stored == 3 && !H::DEDUPLICATES), "{stored}");
}

fn too_large_message_is_rejected_alone(harness: &impl Harness) {
    let results = [
        harness.publish(harness.message("1")),
        harness.publish_too_large(),
        harness.publish(harness.message("2")),
    ];
    let [before, rejected, after] = results.map(|result| result.wait());
    assert_eq!((label(&before), label(&after)), ("acknowledged", "acknowledged"));
    assert!(matches!(rejected, Err(PublishError::Rejected { .. })), "{rejected:?}");
    assert_eq!(harness.stored(), 2);
    settled(harness, 3);
}

macro_rules! suite {
    ($bus:ident, $harness:ty) => {
        mod $bus {
            use super::*;

            suite!($harness, PATIENCE, acknowledged_messages_are_stored);
            suite!($harness, PATIENCE, repeat_is_a_duplicate_where_the_broker_deduplicates);
            suite!($harness, PATIENCE, deleted_destination_is_refused_by_name_until_recreated);
            suite!($harness, PATIENCE, killed_broker_is_unavailable_at_once_and_recovers);
            suite!($harness, PATIENCE, publishes_wait_for_a_stalled_broker);
            suite!($harness, SHORT, late_ack_is_a_timeout_and_the_retry_succeeds);
            suite!($harness, PATIENCE, too_large_message_is_rejected_alone);
        }
    };
    ($harness:ty, $timeout:ident, $test:ident) => {
        #[test]
        fn $test() {
            super::$test(&<$harness>::new($timeout));
        }
    };
}

/// Short, and longer than a healthy broker needs on a busy machine.
const SHORT: Duration = Duration::from_secs(2);

suite!(memory, MemoryHarness);
suite!(kafka, KafkaHarness);
suite!(nats, NatsHarness);
