//! Signed deliveries over HTTP to CloudEvents on a real NATS server: the 200 follows the ack, also when the
//! server is stopped, stalled or killed.

use std::sync::Arc;
use std::time::Duration;

use attio_bridge::bus::stdout::Stdout;
use attio_bridge::supervise::Supervisor;

use crate::support::bridge::{Bridge, config};
use crate::support::bus::metrics;
use crate::support::client::Client;
use crate::support::consumer::Found;
use crate::support::load::{
    Load, broker_failures, check_bus, check_metrics, ready, send_and_check, until_accepted,
};
use crate::support::mix::{Mix, Planned};
use crate::support::nats::target::NatsTarget;
use crate::support::nats::{Server, Settings, shared};
use crate::support::request::Request;
use crate::support::wait::eventually;

fn record_created(record: &str) -> String {
    format!(
        r#"{{"webhook_id":"w","events":[{{"event_type":"record.created","id":{{"object_id":"o","record_id":"{record}"}}}}]}}"#
    )
}

/// The limit of events in one delivery.
const MAX_EVENTS: usize = 10_000;

fn largest_delivery() -> Request {
    let event = |n| format!(r#"{{"event_type":"task.created","id":{{"workspace_id":"w","task_id":"{n}"}}}}"#);
    let events: Vec<_> = (0..MAX_EVENTS).map(event).collect();
    Request::keyed("largest", format!(r#"{{"webhook_id":"w","events":[{}]}}"#, events.join(",")))
}

/// Limits that allow such a delivery even on a loaded machine.
const GENEROUS_LIMITS: [(&str, &str); 4] = [
    ("ATTIO_BRIDGE__HTTP__MAX_BODY_BYTES", "2000000"),
    ("ATTIO_BRIDGE__HTTP__BODY_TIMEOUT", "20s"),
    ("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "60s"),
    ("ATTIO_BRIDGE__NATS__PUBLISH_TIMEOUT", "60s"),
];

#[tokio::test(flavor = "multi_thread")]
async fn delivery_of_10000_events_to_nats_is_accepted_at_the_first_attempt() {
    let (server, target) = (shared(), NatsTarget::new("largest"));
    let bridge = target.bridge(&server, &GENEROUS_LIMITS).await;
    ready(&bridge).await;
    let response = bridge.ask(&largest_delivery()).await;
    assert_eq!(response.status_and_reason(), (200, "accepted".into()));
    assert_eq!(response.json()["published"], MAX_EVENTS);
    assert_eq!(target.stored(&server).len(), MAX_EVENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn delivery_of_10000_events_to_stdout_is_accepted_at_the_first_attempt() {
    let config = config(&GENEROUS_LIMITS);
    let metrics = metrics("stdout", &[]);
    let bus = Stdout::with_writer(std::io::sink(), metrics.bus(), &Supervisor::detached()).unwrap();
    let bridge = Bridge::over(bus, config).await;
    let response = bridge.ask(&largest_delivery()).await;
    assert_eq!(response.status_and_reason(), (200, "accepted".into()));
    assert_eq!(response.json()["published"], MAX_EVENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_server_answers_503_and_the_retry_is_stored_once() {
    let (server, target) = (Server::start(), NatsTarget::new("stopped"));
    // The publish waits for much longer than the test: the answer is immediate.
    let bridge = target.bridge(&server, &[("ATTIO_BRIDGE__NATS__PUBLISH_TIMEOUT", "1h")]).await;
    ready(&bridge).await;
    server.kill();
    bridge.until("bus_up", &[("bus", "nats")], 0.0).await;
    let request = Request::keyed("one", record_created("r"));
    assert_eq!(bridge.ask(&request).await.status_and_reason(), (503, "broker_unavailable".into()));
    assert_eq!(bridge.admin("/readyz").await.status, 200, "readiness does not follow the server");
    server.restart();
    until_accepted(&mut bridge.connect().await, bridge.http, &request).await;
    assert_eq!(target.stored(&server).len(), 1);
    assert!(bridge.metrics().await.balances());
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_server_answers_broker_timeout_and_the_retry_is_stored_once() {
    let (server, target) = (Server::start(), NatsTarget::new("stalled"));
    // The client detects a stalled server by its pings; the answer timeout is shorter.
    let limits =
        [("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "1s"), ("ATTIO_BRIDGE__NATS__PUBLISH_TIMEOUT", "1h")];
    let bridge = target.bridge(&server, &limits).await;
    ready(&bridge).await;
    let request = Request::keyed("one", record_created("r"));
    server.pause();
    assert_eq!(bridge.ask(&request).await.status_and_reason(), (503, "broker_timeout".into()));
    server.resume();
    until_accepted(&mut bridge.connect().await, bridge.http, &request).await;
    assert_eq!(target.stored(&server).len(), 1);
    assert!(bridge.metrics().await.balances());
}

#[tokio::test(flavor = "multi_thread")]
async fn server_killed_under_load_loses_no_event() {
    let (server, target) = (Server::start(), NatsTarget::new("killed"));
    let bridge = target.bridge(&server, &[]).await;
    ready(&bridge).await;
    let mut mix = Mix::new(&target.prefix, 7);
    let planned: Arc<[Planned]> = (0..6000).map(|_| mix.single()).collect();
    let load = Load::start(planned, 8, bridge.http);
    for round in 1..=2 {
        let enough = 1500 * round;
        eventually("deliveries are accepted", || async { load.accepted() >= enough }).await;
        let before = broker_failures(&bridge).await;
        server.kill();
        eventually("a delivery is refused during the outage", || async {
            broker_failures(&bridge).await > before
        })
        .await;
        server.restart();
    }
    let retried = load.finish().await;
    assert!(!retried.is_empty(), "deliveries were refused during the outage");
    let found = Found::in_stream(&server, &target.stream, &target.prefix);
    let wrong: Vec<_> = mix.ledger.events.keys().filter(|id| found.copies(id) != 1).collect();
    assert!(wrong.is_empty(), "not stored exactly once: {wrong:?}");
    assert!(bridge.metrics().await.balances());
    bridge.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_pending_acks() {
    let (server, target) = (Server::start(), NatsTarget::new("stop"));
    let bridge = target.bridge(&server, &[]).await;
    ready(&bridge).await;
    server.pause();
    let address = bridge.http;
    let answer = tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        client.ask(&Request::keyed("one", record_created("r"))).await
    });
    bridge.until("events_in_flight", &[], 1.0).await;
    bridge.begin_stop();
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.resume();
    assert_eq!(answer.await.unwrap().status, 200);
    bridge.stop().await.unwrap();
    assert_eq!(target.stored(&server).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_without_jetstream_answers_503_until_it_is_enabled() {
    let server = Server::with(Settings { jetstream: false, ..Settings::default() });
    let target = NatsTarget::new("off");
    let bridge = target.bridge(&server, &[]).await;
    let request = Request::keyed("one", record_created("r"));
    eventually("the delivery is refused", || async {
        bridge.ask(&request).await.status_and_reason() == (503, "broker_refused".into())
    })
    .await;
    server.configure(|settings| settings.jetstream = true);
    server.kill();
    server.restart();
    ready(&bridge).await;
    until_accepted(&mut bridge.connect().await, bridge.http, &request).await;
    assert_eq!(target.stored(&server).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_deliveries_on_nats_match_the_expected_ledger() {
    let (server, target) = (shared(), NatsTarget::new("ledger"));
    let bridge = target.bridge(&server, &[]).await;
    ready(&bridge).await;
    let mut mix = Mix::new(&target.prefix, 42);
    let planned: Arc<[Planned]> = mix.deliveries(3000).into();
    send_and_check(&planned, 32, bridge.http).await;
    check_bus(&mix.ledger, &Found::in_stream(&server, &target.stream, &target.prefix));
    check_metrics(&bridge.metrics().await, &planned, &mix.ledger);
}
