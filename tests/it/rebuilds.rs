//! B7: a producer is replaced after every fatal error, and nothing of the dead ones is left.

use std::fs;

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::support::client::Client;
use crate::support::consumer::NAMES;
use crate::support::load::until_accepted;
use crate::support::mix::Mix;
use crate::support::served::Served;
use crate::support::wait::eventually;
use crate::support::{full_tier, unique};

/// Ends an idempotent producer for good: the broker misses some of its messages.
const FATAL: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;

/// Threads and open files of a process.
fn resources(served: &Served) -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", served.pid())).unwrap().count();
    (count("task"), count("fd"))
}

#[tokio::test(flavor = "multi_thread")]
async fn fatal_errors_replace_the_producer_without_leaking_threads_or_files() {
    // Each takes two seconds; a few show a leak too.
    let deaths = if full_tier() { 50 } else { 4 };
    let (cluster, prefix) = (MockCluster::new(1).unwrap(), unique("deaths"));
    for name in NAMES {
        cluster.create_topic(&format!("{prefix}.{name}"), 1, 1).unwrap();
    }
    let served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", &cluster.bootstrap_servers()),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "off"),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", &prefix),
    ]);
    eventually("the bridge is ready", || async { served.probe("/readyz").await == 200 }).await;
    let rebuilds = || async { served.metrics().await.sum("bus_rebuilds_total", &[]) };
    let mut mix = Mix::new(&prefix, 71);
    let mut client = Client::connect(served.http).await;
    until_accepted(&mut client, served.http, &mix.single().request).await;
    let before = resources(&served);
    for death in 1..=deaths {
        cluster.request_errors(RDKafkaApiKey::Produce, &[FATAL]);
        until_accepted(&mut client, served.http, &mix.single().request).await;
        assert_eq!(rebuilds().await, f64::from(death), "each death has one replacement");
        if death % 10 == 0 {
            println!("after {death} deaths: threads and files {:?}, at first {before:?}", resources(&served));
        }
    }
    // A thread or a connection may come and go; a leak with each death is more than that.
    let bounded = |now: (usize, usize)| now.0 <= before.0 + 2 && now.1 <= before.1 + 2;
    eventually("threads and files are as before", || async { bounded(resources(&served)) }).await;
    until_accepted(&mut client, served.http, &mix.single().request).await;
    assert_eq!(rebuilds().await, f64::from(deaths));
    assert!(served.metrics().await.balances());
}
