//! The Kafka adapter on a broker that asks who is there.

use attio_bridge::bus::kafka::Options;
use attio_bridge::bus::kafka::options::Ensure;
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::pipeline::publish::{Bus, BusState};

use crate::support::bus::{label, message};
use crate::support::kafka::bench::Bench;
use crate::support::kafka::security::{PASSWORD, Secured, USER};
use crate::support::{eventually, eventually_some};

fn options(secured: &Secured, password: &str) -> Options {
    let mut options = Options::new(secured.bootstrap());
    options.security_protocol = Some("SASL_PLAINTEXT".into());
    options.sasl_mechanism = Some("PLAIN".into());
    options.sasl_username = Some(USER.into());
    options.sasl_password = Some(password.to_owned().into());
    options
}

#[test]
fn a_wrong_password_is_told_with_every_refusal() {
    let secured = Secured::start();
    let topic = secured.broker.topic("locked", 1);
    let bench = Bench::with(options(&secured, "wrong-password"), &[&topic], ContentMode::Structured);
    let error = eventually_some("the cause is told", || {
        let verdict = bench.publish(message(&topic, "rec-1", "{}")).now()?;
        verdict.err().map(|error| error.to_string()).filter(|text| text.contains("uthentication"))
    });
    assert!(!error.contains("wrong-password"), "{error}");
    assert_eq!(bench.bus.state(), BusState::Starting);
}

#[test]
fn rights_that_are_granted_later_heal_without_a_restart() {
    let secured = Secured::start();
    let topics = [secured.broker.topic("granted", 1), secured.broker.topic("granted", 1)];
    let mut options = options(&secured, PASSWORD);
    options.topics.ensure = Ensure::Off;
    let bench = Bench::with(options, &[&topics[0], &topics[1]], ContentMode::Structured);

    // No right on any topic: the client is not even given a producer id, which ends it for good.
    eventually("it is refused", || label(&bench.verdict(&topics[0])) == "refused");
    eventually("a new client is built", || bench.metrics.bus().rebuilds.get() >= 1);
    assert_eq!(bench.bus.state(), BusState::Starting);
    secured.allow(&topics[0]);
    eventually("the first topic heals", || label(&bench.verdict(&topics[0])) == "acknowledged");
    bench.until(BusState::Up);

    let rebuilds = bench.metrics.bus().rebuilds.get();
    let refused = bench.verdict(&topics[1]);
    assert_eq!(label(&refused), "refused", "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains(&topics[1]));
    secured.allow(&topics[1]);
    eventually("the second topic heals", || label(&bench.verdict(&topics[1])) == "acknowledged");
    assert_eq!(bench.metrics.bus().rebuilds.get(), rebuilds, "one topic's rights do not end the client");
}

#[test]
fn verify_waits_for_the_rights_too() {
    let secured = Secured::start();
    let topic = secured.broker.topic("seen", 1);
    let bench = Bench::with(options(&secured, PASSWORD), &[&topic], ContentMode::Structured);
    eventually("first contact", || bench.metrics.bus().up.get() == 1);
    assert_eq!(bench.bus.state(), BusState::Starting);
    secured.allow(&topic);
    bench.until(BusState::Up);
    assert_eq!(label(&bench.verdict(&topic)), "acknowledged");
}
