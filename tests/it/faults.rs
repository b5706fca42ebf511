//! A broker that is there and does not answer: frozen, or cut off at every step of a publish. What is
//! not known is answered 503; the retry finds it, and nothing is lost or stored twice unexplained.

use std::sync::Arc;
use std::time::Duration;

use crate::support::behind::Behind;
use crate::support::client::{Client, eventually};
use crate::support::load::{Load, until_accepted};
use crate::support::mix::{Mix, Planned};
use crate::support::proxy::{Flow, Proxy, Way};

/// A sender that is told soon what is not known.
const SOON: [(&str, &str); 1] = [("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "700ms")];

/// Copies of that delivery's events, the fewest and the most.
fn copies(behind: &Behind, delivery: &Planned) -> (usize, usize) {
    let found = behind.found();
    let copies = delivery.ids.iter().map(|id| found.copies(id));
    (copies.clone().min().unwrap(), copies.max().unwrap())
}

/// Another delivery for the same topic.
fn neighbour(mix: &mut Mix, delivery: &Planned) -> Planned {
    let topic = |mix: &Mix, of: &Planned| mix.ledger.events[&of.ids[0]].topic.clone();
    loop {
        let other = mix.single();
        if topic(mix, &other) == topic(mix, delivery) {
            return other;
        }
    }
}

async fn accepted(behind: &Behind, delivery: &Planned) {
    let bridge = &behind.bridge;
    until_accepted(&mut bridge.connect().await, bridge.http, &delivery.request).await;
}

/// What is asked of the broker never arrives.
async fn a_publish_that_does_not_arrive(behind: Behind, flow: Flow) {
    let delivery = Mix::new(behind.prefix(), 1).single();
    behind.proxy.set(Way::There, flow);
    assert_eq!(behind.bridge.ask(&delivery.request).await.status, 503);
    assert_eq!(copies(&behind, &delivery), (0, 0), "nothing has arrived");
    behind.proxy.cut();
    behind.proxy.heal();
    accepted(&behind, &delivery).await;
    assert_eq!(copies(&behind, &delivery), (1, 1));
    assert!(behind.bridge.metrics().await.balances());
}

/// The broker has stored it, and its ack does not come back.
async fn an_ack_that_does_not_come_back(behind: Behind, flow: Flow) {
    let mut mix = Mix::new(behind.prefix(), 2);
    let delivery = mix.single();
    // Not the first one of its topic: a client asks about a topic before it sends anything there.
    accepted(&behind, &neighbour(&mut mix, &delivery)).await;
    behind.proxy.set(Way::Back, flow);
    assert_eq!(behind.bridge.ask(&delivery.request).await.status, 503);
    eventually("the broker has stored it", || async { copies(&behind, &delivery) == (1, 1) }).await;
    assert_eq!(behind.bridge.ask(&delivery.request).await.status, 503, "a repeat is not acknowledged either");
    behind.proxy.cut();
    behind.proxy.heal();
    accepted(&behind, &delivery).await;
    // The client of Kafka sends it again under its own number, the one of NATS under its message id.
    assert_eq!(copies(&behind, &delivery), (1, 1));
    assert!(behind.bridge.metrics().await.balances());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_held_back_before_kafka_is_stored_by_its_retry() {
    a_publish_that_does_not_arrive(Behind::kafka(&SOON).await, Flow::Hold).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_held_back_before_nats_is_stored_by_its_retry() {
    a_publish_that_does_not_arrive(Behind::nats(&SOON).await, Flow::Hold).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_dropped_before_kafka_is_stored_by_its_retry() {
    a_publish_that_does_not_arrive(Behind::kafka(&SOON).await, Flow::Swallow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_dropped_before_nats_is_stored_by_its_retry() {
    a_publish_that_does_not_arrive(Behind::nats(&SOON).await, Flow::Swallow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_of_kafka_held_back_is_not_answered_for_and_the_retry_finds_it_stored() {
    an_ack_that_does_not_come_back(Behind::kafka(&SOON).await, Flow::Hold).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_of_nats_held_back_is_not_answered_for_and_the_retry_finds_it_stored() {
    an_ack_that_does_not_come_back(Behind::nats(&SOON).await, Flow::Hold).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_of_kafka_dropped_is_not_answered_for_and_the_retry_finds_it_stored() {
    an_ack_that_does_not_come_back(Behind::kafka(&SOON).await, Flow::Swallow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_of_nats_dropped_is_not_answered_for_and_the_retry_finds_it_stored() {
    an_ack_that_does_not_come_back(Behind::nats(&SOON).await, Flow::Swallow).await;
}

/// The bridge has its ack, and the sender does not get the answer.
async fn an_answer_that_does_not_reach_the_sender(behind: Behind) {
    let between = Proxy::start(behind.bridge.http);
    let delivery = Mix::new(behind.prefix(), 3).single();
    between.set(Way::Back, Flow::Swallow);
    let mut sender = Client::connect(between.address()).await;
    sender.send(&delivery.request).await;
    behind.bridge.until("deliveries_total", &[("source", "attio"), ("reason", "accepted")], 1.0).await;
    between.cut();
    assert!(sender.try_receive().await.is_none(), "the sender has no answer");
    let repeat = behind.bridge.ask(&delivery.request).await;
    assert_eq!(repeat.told(), (200, "duplicate".into()));
    assert_eq!(copies(&behind, &delivery), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_cut_off_after_the_ack_of_kafka_costs_only_a_duplicate() {
    an_answer_that_does_not_reach_the_sender(Behind::kafka(&[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_cut_off_after_the_ack_of_nats_costs_only_a_duplicate() {
    an_answer_that_does_not_reach_the_sender(Behind::nats(&[]).await).await;
}

/// Under load, whatever the moment: every ledger holds.
async fn under_load(behind: Behind, seed: u64, trouble: impl AsyncFn(&Behind, u64)) {
    let mut mix = Mix::new(behind.prefix(), seed);
    let planned: Arc<[Planned]> = (0..4000).map(|_| mix.single()).collect();
    let load = Load::start(planned, 8, behind.bridge.http);
    for round in 1..=6 {
        let enough = usize::try_from(round).unwrap() * 500;
        eventually("load flows", || async { load.accepted() >= enough }).await;
        trouble(&behind, round).await;
    }
    let retried = load.finish().await;
    let found = behind.found();
    let lost: Vec<_> = mix.ledger.events.keys().filter(|id| found.copies(id) == 0).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    let twice: Vec<_> = found.events.keys().filter(|id| found.copies(id) > 1).collect();
    let may_be = |id: &&&String| !behind.knows_duplicates() && retried.contains(**id);
    let unexplained: Vec<_> = twice.iter().filter(|id| !may_be(id)).collect();
    assert!(unexplained.is_empty(), "stored twice without a failed attempt: {unexplained:?}");
    assert!(behind.bridge.metrics().await.balances());
    behind.bridge.stop().await.unwrap();
}

/// Another step of a publish each round, in turn: held and then passed on, held and cut, dropped and cut.
async fn cut_off(behind: &Behind, round: u64) {
    let way = if round.is_multiple_of(2) { Way::There } else { Way::Back };
    let flow = if round.is_multiple_of(3) { Flow::Swallow } else { Flow::Hold };
    behind.proxy.set(way, flow);
    tokio::time::sleep(Duration::from_millis(40 * round)).await;
    if round != 1 {
        behind.proxy.cut();
    }
    behind.proxy.heal();
}

/// Frozen, some rounds for longer than the sender waits.
async fn frozen(behind: &Behind, round: u64) {
    behind.pause();
    tokio::time::sleep(Duration::from_millis(300 * round)).await;
    behind.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_kafka_is_cut_off_at_every_step_under_load() {
    under_load(Behind::kafka(&SOON).await, 11, cut_off).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_stored_twice_when_nats_is_cut_off_at_every_step_under_load() {
    under_load(Behind::nats(&SOON).await, 12, cut_off).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_kafka_freezes_under_load() {
    under_load(Behind::kafka(&SOON).await, 13, frozen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_stored_twice_when_nats_freezes_under_load() {
    under_load(Behind::nats(&SOON).await, 14, frozen).await;
}
