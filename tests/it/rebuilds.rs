//! B7: a client that died is replaced as often as it dies, and nothing of the dead ones stays.

use std::fs;
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::support::client::{Client, eventually};
use crate::support::consumer::NAMES;
use crate::support::load::until_accepted;
use crate::support::mix::Mix;
use crate::support::served::Served;
use crate::support::{full_tier, unique};

/// What ends an idempotent client for good: the broker misses some of its messages.
const FATAL: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;

/// Threads and open files of a process.
fn holds(served: &Served) -> (usize, usize) {
    let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", served.pid())).unwrap().count();
    (count("task"), count("fd"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_fifty_times_is_replaced_fifty_times_and_leaves_no_thread_and_no_file() {
    // One after the other takes two seconds each; a few of them leak as surely.
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
    let (before, mut slowest) = (holds(&served), Duration::ZERO);
    for death in 1..=deaths {
        cluster.request_errors(RDKafkaApiKey::Produce, &[FATAL]);
        let begun = Instant::now();
        until_accepted(&mut client, served.http, &mix.single().request).await;
        slowest = slowest.max(begun.elapsed());
        assert_eq!(rebuilds().await, f64::from(death), "each death has one replacement");
        if death % 10 == 0 {
            println!("after {death} deaths: threads and files {:?}, at first {before:?}", holds(&served));
        }
    }
    println!("{deaths} deaths: the slowest delivery took {slowest:?} with all its attempts");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    // A thread or a connection may come and go; one that stays of each death is more than that.
    let bounded = |now: (usize, usize)| now.0 <= before.0 + 2 && now.1 <= before.1 + 2;
    let settled = Instant::now();
    let after = loop {
        let after = holds(&served);
        if bounded(after) || settled.elapsed() > Duration::from_secs(10) {
            break after;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    println!("threads and files before {before:?}, after {after:?}");
    assert!(bounded(after), "before {before:?}, after {after:?}");
    until_accepted(&mut client, served.http, &mix.single().request).await;
    assert_eq!(rebuilds().await, f64::from(deaths));
    assert!(served.metrics().await.balances());
}
