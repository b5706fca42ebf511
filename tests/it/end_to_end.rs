//! End to end on a real Kafka: signed deliveries over HTTP in, CloudEvents out, and 200 only after the broker's
//! ack, also while the broker is killed.

use std::collections::BTreeMap;
use std::sync::Arc;

use attio_bridge::pipeline::publish::Bus;

use crate::support::bridge::{Bridge, config};
use crate::support::consumer::{Found, NAMES};
use crate::support::kafka::{Broker, shared};
use crate::support::load::{
    Load, broker_failures, check_bus, check_metrics, ready, send_and_check, until_accepted,
};
use crate::support::mix::{Mix, Planned};
use crate::support::request::Request;
use crate::support::unique;
use crate::support::wait::eventually;

/// A bridge onto a broker, ready, and its own prefix.
async fn bridge(broker: &Broker, prefix: &str, more: &[(&str, &str)]) -> Bridge<dyn Bus> {
    let mut variables = vec![
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap()),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", prefix),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "create"),
    ];
    variables.extend_from_slice(more);
    Bridge::serving(config(&variables)).await
}

fn record_created(record: &str) -> String {
    format!(
        r#"{{"webhook_id":"w","events":[{{"event_type":"record.created","id":{{"workspace_id":"ws","object_id":"o","record_id":"{record}"}}}}]}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_topic_answers_503_until_it_is_created() {
    let (broker, prefix) = (shared(), unique("missing"));
    let bridge = bridge(&broker, &prefix, &[("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "verify")]).await;
    let request = Request::keyed("one", record_created("r"));
    eventually("it is refused", || async {
        bridge.ask(&request).await.status_and_reason() == (503, "broker_refused".into())
    })
    .await;
    eventually("readiness reports the missing topics", || async {
        let answer = bridge.admin("/readyz").await;
        answer.status == 503 && String::from_utf8_lossy(&answer.body).contains(&format!("{prefix}.record"))
    })
    .await;
    for name in NAMES {
        broker.create_topic(&format!("{prefix}.{name}"), 1, &[]);
    }
    eventually("it is accepted", || async { bridge.ask(&request).await.status == 200 }).await;
    ready(&bridge).await;
    assert_eq!(broker.read_all(&format!("{prefix}.record")).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_delivery_keep_their_order_under_one_key() {
    let (broker, prefix) = (shared(), unique("order"));
    let bridge = bridge(&broker, &prefix, &[("ATTIO_BRIDGE__KAFKA__TOPICS__PARTITIONS", "6")]).await;
    ready(&bridge).await;
    let event = |at| {
        format!(
            r#"{{"event_type":"record.updated","id":{{"record_id":"r{}","attribute_id":"a{at}"}}}}"#,
            at % 3
        )
    };
    let events = (0..60).map(event).collect::<Vec<_>>().join(",");
    let body = format!(r#"{{"webhook_id":"w","events":[{events}]}}"#);
    assert_eq!(bridge.ask(&Request::keyed("k", body)).await.json()["published"], 60);
    let mut order: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for record in broker.read_all(&format!("{prefix}.record")) {
        let value: serde_json::Value = serde_json::from_str(record.value()).unwrap();
        let attribute = value["data"]["id"]["attribute_id"].as_str().unwrap();
        order.entry(record.key().into()).or_default().push(attribute[1..].parse().unwrap());
    }
    for (key, seen) in order {
        assert!(seen.is_sorted() && seen.len() == 20, "{key}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_broker_answers_503_and_the_retry_is_stored_once() {
    let (broker, prefix) = (Broker::start(), unique("stopped"));
    // The publish waits for much longer than the test: the answer is due to `http.answer_timeout`, or immediate.
    let bridge = bridge(&broker, &prefix, &[("ATTIO_BRIDGE__KAFKA__PUBLISH_TIMEOUT", "1h")]).await;
    ready(&bridge).await;
    broker.kill();
    let request = Request::keyed("one", record_created("r"));
    let answer = bridge.ask(&request).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    broker.restart();
    until_accepted(&mut bridge.connect().await, bridge.http, &request).await;
    assert_eq!(broker.read_all(&format!("{prefix}.record")).len(), 1);
    assert!(bridge.metrics().await.balances());
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_killed_under_load_loses_no_event() {
    let (broker, prefix) = (Broker::start(), unique("killed"));
    let bridge = bridge(&broker, &prefix, &[]).await;
    ready(&bridge).await;
    let mut mix = Mix::new(&prefix, 7);
    let planned: Arc<[Planned]> = (0..8000).map(|_| mix.single()).collect();
    let load = Load::limited(planned, 8, bridge.http, 3000);
    for round in 1..=2 {
        // Killed in the middle of what may be sent so far.
        load.reach(2500 * round - 1000).await;
        let before = broker_failures(&bridge).await;
        broker.kill();
        // However far the senders have come, some deliveries are sent during the outage.
        load.allow(if round == 1 { 5500 } else { usize::MAX });
        eventually("deliveries are refused during the outage", || async {
            broker_failures(&bridge).await > before
        })
        .await;
        broker.restart();
    }
    let retried = load.finish().await;
    assert!(!retried.is_empty(), "deliveries were refused during the outage");
    let found = Found::on(&broker, &prefix);
    let lost: Vec<_> = mix.ledger.events.keys().filter(|id| found.copies(id) == 0).collect();
    assert!(lost.is_empty(), "acknowledged and not there: {lost:?}");
    let unexplained: Vec<_> =
        found.events.keys().filter(|id| found.copies(id) > 1 && !retried.contains(*id)).collect();
    assert!(unexplained.is_empty(), "stored twice without a failed attempt: {unexplained:?}");
    assert!(bridge.metrics().await.balances());
    bridge.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mixed_deliveries_on_kafka_match_the_expected_ledger() {
    let (broker, prefix) = (shared(), unique("ledger"));
    let bridge = bridge(&broker, &prefix, &[]).await;
    ready(&bridge).await;
    let mut mix = Mix::new(&prefix, 42);
    let planned: Arc<[Planned]> = mix.deliveries(10_000).into();
    send_and_check(&planned, 32, bridge.http).await;
    check_bus(&mix.ledger, &Found::on(&broker, &prefix));
    check_metrics(&bridge.metrics().await, &planned, &mix.ledger);
}
