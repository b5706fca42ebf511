//! The contract of the port: one suite for the buses memory, Kafka and NATS.

use std::time::Duration;

use attio_bridge::pipeline::publish::{Ack, BusState, PublishError, PublishResult};

use crate::support::bus::label;
use crate::support::rig::{InMemory, OnKafka, OnNats, Rig};
use crate::support::wait::{PATIENCE, eventually_blocking};

fn acknowledged(rig: &impl Rig) -> bool {
    label(&rig.publish(rig.message("{}")).wait()) == "acknowledged"
}

fn detail(result: PublishResult) -> String {
    match result {
        Ok(ack) => panic!("acknowledged: {ack:?}"),
        Err(error) => error.to_string(),
    }
}

/// Every result is counted, and nothing stays in flight.
fn settled(rig: &impl Rig, published: u64) {
    let metrics = rig.metrics().publish(rig.destination());
    assert_eq!(metrics.in_flight.get(), 0);
    assert_eq!(metrics.duration.get_sample_count(), published);
}

fn acknowledged_messages_are_stored(rig: &impl Rig) {
    let results: Vec<_> = (0..50).map(|n| rig.publish(rig.message(&n.to_string()))).collect();
    for result in results {
        assert_eq!(result.wait(), Ok(Ack { duplicate: false }));
    }
    assert_eq!(rig.stored(), 50);
    settled(rig, 50);
}

fn repeat_is_a_duplicate_where_the_broker_deduplicates<R: Rig>(rig: &R) {
    let message = rig.message("{}");
    assert_eq!(rig.publish(message.clone()).wait(), Ok(Ack { duplicate: false }));
    assert_eq!(rig.publish(message).wait(), Ok(Ack { duplicate: R::KNOWS_DUPLICATES }));
    assert_eq!(rig.stored(), if R::KNOWS_DUPLICATES { 1 } else { 2 });
}

fn deleted_destination_is_refused_by_name_until_recreated(rig: &impl Rig) {
    assert!(acknowledged(rig));
    rig.spoil();
    // librdkafka fails messages that it holds for a deleted partition with `_DESTROY`, which is unavailable,
    // until its metadata is refreshed; the sender retries. It never acknowledges one.
    eventually_blocking("it is refused by name", || {
        let result = rig.publish(rig.message("{}")).wait();
        assert!(matches!(label(&result), "refused" | "unavailable"), "{result:?}");
        label(&result) == "refused" && detail(result).contains(rig.destination())
    });
    // A broker on a busy machine may seem to be lost for a moment.
    eventually_blocking("the bus is up", || rig.bus().state() == BusState::Up);
    rig.mend();
    eventually_blocking("it heals", || acknowledged(rig));
}

fn killed_broker_is_unavailable_at_once_and_recovers(rig: &impl Rig) {
    assert!(acknowledged(rig));
    rig.kill();
    eventually_blocking("the loss is noticed", || rig.bus().state() == BusState::Down);
    let result = rig.publish(rig.message("{}")).now().expect("settled when publish returns");
    assert_eq!(label(&result), "unavailable", "{result:?}");
    rig.restart();
    eventually_blocking("it is up", || rig.bus().state() == BusState::Up);
    eventually_blocking("it heals", || acknowledged(rig));
}

fn publishes_wait_for_a_stalled_broker(rig: &impl Rig) {
    assert!(acknowledged(rig));
    rig.stall();
    let results: Vec<_> = (0..5).map(|n| rig.publish(rig.message(&n.to_string()))).collect();
    let flushed = |within| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(rig.bus().flush(within))
    };
    assert_eq!(flushed(Duration::from_millis(200)), 5);
    assert!(results.iter().all(|result| result.now().is_none()));
    assert_eq!(rig.metrics().publish(rig.destination()).in_flight.get(), 5);
    rig.go_on();
    assert_eq!(flushed(PATIENCE), 0);
    assert!(results.into_iter().all(|result| label(&result.wait()) == "acknowledged"));
    assert_eq!(rig.stored(), 6);
    settled(rig, 6);
}

fn late_ack_is_a_timeout_and_the_retry_succeeds<R: Rig>(rig: &R) {
    assert!(acknowledged(rig));
    rig.stall();
    let message = rig.message("{}");
    let timeout = rig.publish(message.clone()).wait();
    assert_eq!(label(&timeout), "timeout", "{timeout:?}");
    rig.go_on();
    eventually_blocking("the retry is acknowledged", || {
        label(&rig.publish(message.clone()).wait()) == "acknowledged"
    });
    // A timeout means unknown: the first attempt may be stored too.
    let stored = rig.stored();
    assert!(stored == 2 || (stored == 3 && !R::KNOWS_DUPLICATES), "{stored}");
}

fn too_large_message_is_rejected_alone(rig: &impl Rig) {
    let results = [rig.publish(rig.message("1")), rig.publish_too_large(), rig.publish(rig.message("2"))];
    let [before, rejected, after] = results.map(|result| result.wait());
    assert_eq!((label(&before), label(&after)), ("acknowledged", "acknowledged"));
    assert!(matches!(rejected, Err(PublishError::Rejected { .. })), "{rejected:?}");
    assert_eq!(rig.stored(), 2);
    settled(rig, 3);
}

macro_rules! suite {
    ($bus:ident, $rig:ty) => {
        mod $bus {
            use super::*;

            suite!($rig, PATIENCE, acknowledged_messages_are_stored);
            suite!($rig, PATIENCE, repeat_is_a_duplicate_where_the_broker_deduplicates);
            suite!($rig, PATIENCE, deleted_destination_is_refused_by_name_until_recreated);
            suite!($rig, PATIENCE, killed_broker_is_unavailable_at_once_and_recovers);
            suite!($rig, PATIENCE, publishes_wait_for_a_stalled_broker);
            suite!($rig, SHORT, late_ack_is_a_timeout_and_the_retry_succeeds);
            suite!($rig, PATIENCE, too_large_message_is_rejected_alone);
        }
    };
    ($rig:ty, $timeout:ident, $test:ident) => {
        #[test]
        fn $test() {
            super::$test(&<$rig>::new($timeout));
        }
    };
}

/// Short, and longer than a healthy broker needs on a busy machine.
const SHORT: Duration = Duration::from_secs(2);

suite!(memory, InMemory);
suite!(kafka, OnKafka);
suite!(nats, OnNats);
