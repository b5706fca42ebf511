//! What is known, step by step.

use super::*;

fn health() -> (Health, BusMetrics) {
    let metrics = crate::bus::kafka::tests::bus_metrics();
    (Health::new("kafka:9092".into(), metrics.clone()), metrics)
}

#[test]
fn up_needs_contact_topics_and_a_warm_client() {
    let (health, metrics) = health();
    health.topics_there();
    health.warm();
    assert_eq!(health.state(), BusState::Starting);
    health.reached(0);
    assert_eq!(health.state(), BusState::Up);
    assert_eq!(metrics.up.get(), 1);
}

#[test]
fn a_broker_that_is_away_at_the_start_refuses_at_once_but_is_still_starting() {
    let (health, _) = health();
    health.complain("BrokerTransportFailure", "connect refused (after 3ms in state CONNECT)");
    health.lost();
    assert_eq!(health.state(), BusState::Starting);
    let detail = health.down().unwrap();
    assert_eq!(&*detail, "no broker of kafka:9092 can be reached: connect refused");
}

#[test]
fn a_probe_that_began_before_the_loss_proves_nothing() {
    let (health, metrics) = health();
    let before = health.losses();
    health.lost();
    health.reached(before);
    assert!(health.down().is_some());
    health.reached(health.losses());
    assert!(health.down().is_none());
    assert_eq!(metrics.up.get(), 1);
}

#[test]
fn down_and_up_again_once_ready() {
    let (health, metrics) = health();
    health.topics_there();
    health.warm();
    health.reached(0);
    health.lost();
    assert_eq!((health.state(), metrics.up.get()), (BusState::Down, 0));
    health.complain("Authentication", "wrong password");
    assert!(health.down().unwrap().ends_with("wrong password"));
    health.reached(health.losses());
    assert_eq!((health.state(), metrics.up.get()), (BusState::Up, 1));
    assert_eq!(health.cause(), None);
}
