//! Three servers with three replicas of the stream: acknowledged events survive the loss of the leader.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use attio_bridge::bus::nats::{Ensure, Options};
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::pipeline::publish::{Bus, BusState};

use crate::support::bridge::{Bridge, config};
use crate::support::bus::label;
use crate::support::consumer::Found;
use crate::support::load::{Load, broker_failures, ready, until_accepted};
use crate::support::mix::{Mix, Planned};
use crate::support::nats::bench::Bench;
use crate::support::nats::cluster::Cluster;
use crate::support::proxy::Proxy;
use crate::support::request::Request;
use crate::support::unique;
use crate::support::wait::{eventually, eventually_blocking};

const STREAM: &str = "ATTIO";

async fn bridge(cluster: &Cluster, prefix: &str) -> Bridge<dyn Bus> {
    let urls = cluster.urls();
    let variables = [
        ("ATTIO_BRIDGE__BUS__TYPE", "nats"),
        ("ATTIO_BRIDGE__NATS__SERVERS", &*urls),
        ("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "create"),
        ("ATTIO_BRIDGE__NATS__STREAM__REPLICAS", "3"),
        ("ATTIO_BRIDGE__NATS__PUBLISH_TIMEOUT", "3s"),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", prefix),
    ];
    Bridge::serving(config(&variables)).await
}

async fn wait_until_replicated(cluster: &Cluster, by: usize) {
    eventually("all copies are up to date", || async { cluster.is_whole(STREAM, by) }).await;
}

/// Asserts that every acknowledged event is stored once.
fn check(cluster: &Cluster, by: usize, prefix: &str, mix: &Mix) {
    let found = Found::in_stream(&cluster.servers[by], STREAM, prefix);
    let wrong: Vec<_> = mix.ledger.events.keys().filter(|id| found.copies(id) != 1).collect();
    assert!(wrong.is_empty(), "not stored exactly once: {wrong:?}");
}

#[test]
fn configured_server_is_tried_before_unreachable_ones_that_the_cluster_advertises() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let cluster = Cluster::with(&format!("client_advertise: \"{}\"", silent.local_addr().unwrap()));
    let door = Proxy::start(cluster.servers[0].url().trim_start_matches("nats://").parse().unwrap());
    let mut options = Options::new([door.addr().to_string()]);
    options.stream.name = STREAM.into();
    options.stream.ensure = Ensure::Create;
    let bench = Bench::with(options, &unique("advertised"), ContentMode::Structured).wait_for(BusState::Up);
    for _ in 0..3 {
        door.reset();
        eventually_blocking("a publish is acknowledged", || label(&bench.result()) == "acknowledged");
    }
    silent.set_nonblocking(true).unwrap();
    assert_eq!(silent.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody has connected");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full tier: three servers, a minute"]
async fn successive_leaders_killed_under_load_lose_no_event() {
    let (cluster, prefix) = (Cluster::start(), unique("leader"));
    let bridge = bridge(&cluster, &prefix).await;
    ready(&bridge).await;
    wait_until_replicated(&cluster, 0).await;
    let mut mix = Mix::new(&prefix, 7);
    let planned: Arc<[Planned]> = (0..6000).map(|_| mix.single()).collect();
    let load = Load::start(planned, 8, bridge.http);
    let mut by = 0;
    for round in 1..=2 {
        let enough = 1500 * round;
        eventually("deliveries are accepted", || async { load.accepted() >= enough }).await;
        let leader = cluster.leader(STREAM, by);
        by = (leader + 1) % 3;
        cluster.servers[leader].kill();
        let now = load.accepted();
        eventually("another server is leader", || async { load.accepted() >= now + 200 }).await;
        cluster.servers[leader].restart();
        wait_until_replicated(&cluster, by).await;
    }
    load.finish().await;
    check(&cluster, by, &prefix, &mix);
    assert!(bridge.metrics().await.balances());
    bridge.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full tier: three servers, a minute"]
async fn missing_quorum_answers_503_until_it_is_restored() {
    let (cluster, prefix) = (Cluster::start(), unique("quorum"));
    let bridge = bridge(&cluster, &prefix).await;
    ready(&bridge).await;
    wait_until_replicated(&cluster, 0).await;
    let mut mix = Mix::new(&prefix, 8);
    let before = mix.single();
    assert_eq!(bridge.ask(&before.request).await.status, 200);
    cluster.servers[0].kill();
    cluster.servers[1].kill();
    // A leader without followers may still accept messages for a moment.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let during = mix.single();
    for _ in 0..3 {
        assert_eq!(bridge.ask(&during.request).await.status, 503);
    }
    assert!(broker_failures(&bridge).await >= 3.0);
    cluster.servers[0].restart();
    cluster.servers[1].restart();
    until_accepted(&mut bridge.connect().await, bridge.http, &during.request).await;
    wait_until_replicated(&cluster, 0).await;
    check(&cluster, 0, &prefix, &mix);
    assert!(bridge.metrics().await.balances());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full tier: three servers, a minute"]
async fn server_in_lame_duck_mode_loses_no_event() {
    let (cluster, prefix) = (Cluster::start(), unique("lame-duck"));
    let bridge = bridge(&cluster, &prefix).await;
    ready(&bridge).await;
    wait_until_replicated(&cluster, 0).await;
    let mut mix = Mix::new(&prefix, 9);
    let planned: Arc<[Planned]> = (0..3000).map(|_| mix.single()).collect();
    let load = Load::start(planned, 4, bridge.http);
    eventually("deliveries are accepted", || async { load.accepted() >= 500 }).await;
    let leader = cluster.leader(STREAM, 0);
    cluster.servers[leader].lame_duck();
    load.finish().await;
    let by = (leader + 1) % 3;
    let request = Request::keyed("after", r#"{"event_type":"task.created","id":{"task_id":"after"}}"#);
    until_accepted(&mut bridge.connect().await, bridge.http, &request).await;
    check(&cluster, by, &prefix, &mix);
}
