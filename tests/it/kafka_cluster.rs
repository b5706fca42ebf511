//! Three brokers, replication 3, min.insync.replicas 2: acknowledged events survive the loss of one broker and of
//! two.

use std::sync::Arc;
use std::time::{Duration, Instant};

use attio_bridge::bus::kafka::Options;

use crate::check_connect::{found, row};
use crate::support::bridge::{Bridge, config};
use crate::support::consumer::Found;
use crate::support::kafka::cluster::Cluster;
use crate::support::load::{Load, broker_failures, ready, until_accepted};
use crate::support::mix::{Mix, Planned};
use crate::support::request::Request;
use crate::support::unique;
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full tier: three brokers, a minute"]
async fn one_of_three_brokers_may_fail_and_without_a_quorum_nothing_is_lost() {
    let (cluster, prefix) = (Cluster::start(), unique("quorum"));
    let bridge = Bridge::serving(config(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", cluster.all.bootstrap()),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", &prefix),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "create"),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__PARTITIONS", "3"),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__REPLICATION_FACTOR", "3"),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__MIN_INSYNC_REPLICAS", "2"),
    ]))
    .await;
    ready(&bridge).await;
    let options = Options::new(cluster.all.bootstrap());
    assert_eq!(row(&found(&options, &prefix, 0), "durability").0, "ok");
    let record = format!("topic {prefix}.record");
    let mut mix = Mix::new(&prefix, 23);
    let planned: Arc<[Planned]> = (0..20_000).map(|_| mix.single()).collect();
    let load = Load::start(planned, 8, bridge.http);
    let flows = async |more: usize| {
        let enough = load.accepted() + more;
        eventually("deliveries are accepted", || async { load.accepted() >= enough }).await;
    };
    flows(1500).await;

    cluster.kill(0);
    let killed = Instant::now();
    flows(1500).await;
    println!("one broker killed: 1500 more acknowledged within {:?}", killed.elapsed());

    let rows = found(&options, &prefix, 0);
    assert_eq!(row(&rows, "reachable").0, "warning", "one of the addresses does not answer: {rows:?}");
    let (level, detail) = row(&rows, &record);
    assert!(level == "warning" && detail.contains("only 2 replicas are in sync"), "{detail}");

    let before = broker_failures(&bridge).await;
    cluster.kill(1);
    eventually("deliveries fail without a quorum", || async { broker_failures(&bridge).await > before })
        .await;
    // In flight when the broker was killed.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let acknowledged = load.accepted();
    let task = r#"{"event_type":"task.created","id":{"workspace_id":"w","task_id":"t"}}"#;
    let (status, reason) = bridge.ask(&Request::keyed("quorum", task)).await.status_and_reason();
    assert_eq!(status, 503, "{reason}");
    assert!(["broker_timeout", "broker_unavailable"].contains(&&*reason), "{reason}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    found(&options, &prefix, 3);
    assert_eq!(load.accepted(), acknowledged, "one broker alone acknowledges nothing");

    cluster.restart(0);
    cluster.restart(1);
    let back = Instant::now();
    flows(1000).await;
    println!("two brokers restarted: 1000 more acknowledged within {:?}", back.elapsed());
    let retried = load.finish().await;
    cluster.wait_for(3);
    let found = Found::on(&cluster.all, &prefix);
    let lost: Vec<_> = mix.ledger.events.keys().filter(|id| found.copies(id) == 0).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    let twice: Vec<_> =
        found.events.keys().filter(|id| found.copies(id) > 1 && !retried.contains(*id)).collect();
    assert!(twice.is_empty(), "stored twice without a failed attempt: {twice:?}");
    assert!(bridge.metrics().await.balances());
}

/// A client that waits too long for a broker to name its cluster is replaced; none may be here.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "full tier: three brokers restarted in turn, two minutes"]
async fn rolling_restart_under_little_traffic_loses_nothing_and_replaces_no_client() {
    let (cluster, prefix) = (Cluster::start(), unique("rolling"));
    // Not the names that the brokers advertise, as with a load balancer in front of them.
    let bootstrap = cluster.all.bootstrap().replace("127.0.0.1", "localhost");
    let bridge = Bridge::serving(config(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", &bootstrap),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", &prefix),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "create"),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__PARTITIONS", "3"),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__REPLICATION_FACTOR", "3"),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__MIN_INSYNC_REPLICAS", "2"),
    ]))
    .await;
    ready(&bridge).await;
    let mut mix = Mix::new(&prefix, 29);
    let planned: Vec<_> = (0..5000).map(|_| mix.single()).collect();
    let restarts = tokio::task::spawn_blocking(move || {
        for at in [0, 1, 2] {
            cluster.stop(at);
            std::thread::sleep(Duration::from_secs(2));
            cluster.restart(at);
            cluster.wait_for(3);
            // Until its partitions are its own again.
            std::thread::sleep(Duration::from_secs(10));
        }
        cluster
    });
    let (mut client, mut accepted) = (bridge.connect().await, vec![]);
    for delivery in &planned {
        if restarts.is_finished() {
            break;
        }
        until_accepted(&mut client, bridge.http, &delivery.request).await;
        accepted.extend(&delivery.ids);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let cluster = restarts.await.unwrap();
    let found = Found::on(&cluster.all, &prefix);
    let lost: Vec<_> = accepted.iter().filter(|id| found.copies(id) == 0).collect();
    assert!(accepted.len() > 100 && lost.is_empty(), "of {} acknowledged are lost: {lost:?}", accepted.len());
    let metrics = bridge.metrics().await;
    assert_eq!(metrics.sum("bus_rebuilds_total", &[]), 0.0);
    assert_eq!(metrics.sum("bus_data_losses_total", &[]), 0.0);
}
