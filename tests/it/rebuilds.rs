//! A Kafka client that is dead for good is replaced by a new one, again and again, and leaves nothing
//! behind: no thread, no descriptor.

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::support::client::{Client, eventually};
use crate::support::full_tier;
use crate::support::load::until_accepted;
use crate::support::mix::Mix;
use crate::support::served::Served;

const PREFIX: &str = "attio";

/// Threads and descriptors of a process.
fn held(pid: u32) -> (usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("task"), count("fd"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_again_and_again_leaves_nothing_behind() {
    let rounds = if full_tier() { 50 } else { 4 };
    let mock = MockCluster::new(1).unwrap();
    let bootstrap = mock.bootstrap_servers();
    let served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", &bootstrap),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "off"),
    ]);
    let mut mix = Mix::new(PREFIX, 5);
    let mut client = Client::connect(served.http).await;
    // Every topic is met before, so that the counts are those of a bridge at rest.
    for _ in 0..40 {
        until_accepted(&mut client, served.http, &mix.single().request).await;
    }
    let mut before = (0, 0);
    for round in 1..=rounds {
        mock.request_errors(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER],
        );
        until_accepted(&mut client, served.http, &mix.single().request).await;
        eventually("the client is replaced", || async {
            served.metrics().await.get("bus_rebuilds_total", &[("bus", "kafka")]) == f64::from(round)
        })
        .await;
        // Works, and not only once.
        for _ in 0..3 {
            until_accepted(&mut client, served.http, &mix.single().request).await;
        }
        if round == 1 {
            before = held(served.pid());
        }
    }
    // The last of the replaced clients takes its leave on a thread of its own. A runtime's spare thread
    // may be there or not; one client that stays behind would be more than that, in every round.
    eventually("no more is held than after the first time", || async {
        let (threads, descriptors) = held(served.pid());
        threads <= before.0 + 2 && descriptors <= before.1 + 2
    })
    .await;
    let after = held(served.pid());
    println!("threads and descriptors after {rounds} clients: {after:?}; after one: {before:?}");
    assert!(served.metrics().await.balances());
}
