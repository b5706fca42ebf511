//! The network between the bridge and its broker, and between a sender and the bridge: cut, stalled and
//! reset at every step of a delivery, on Kafka and on NATS.

use attio_bridge::pipeline::publish::{Bus, BusState};

use crate::support::bus::label;
use crate::support::kafka::Broker;
use crate::support::kafka::bench::Bench;
use crate::support::proxy::{Flow, Way};

#[test]
fn an_ack_that_is_held_on_its_way_is_waited_for() {
    let (broker, proxy) = Broker::start_behind_a_proxy();
    let topic = broker.topic("far", 1);
    let options = attio_bridge::bus::kafka::Options::new(proxy.addr().to_string());
    let bench = Bench::with(options, &[&topic], attio_bridge::cloudevent::ContentMode::Structured);
    bench.until(BusState::Up);
    assert_eq!(label(&bench.verdict(&topic)), "acknowledged");
    proxy.set(Way::ToClient, Flow::Stall);
    let late = bench.publish(crate::support::bus::message(&topic, "rec-1", "{}"));
    crate::support::eventually("it is stored", || broker.read_all(&topic).len() == 2);
    assert!(late.now().is_none());
    assert_eq!(bench.bus.state(), BusState::Up);
    proxy.pass();
    assert_eq!(label(&late.wait()), "acknowledged");
}
