//! The Kafka adapter on a real broker.
use crate::support::kafka::shared;

#[test]
fn smoke() {
    let t = std::time::Instant::now();
    let broker = shared();
    eprintln!("start {:?}", t.elapsed());
    let topic = broker.topic("smoke", 3);
    eprintln!("topic {:?}", t.elapsed());
    assert_eq!(broker.read_all(&topic).len(), 0);
    eprintln!("read {:?}", t.elapsed());
    let own = crate::support::kafka::Broker::start();
    own.kill();
    own.restart();
    eprintln!("restart {:?}", t.elapsed());
}
