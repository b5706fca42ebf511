//! Metrics: all exist from the start, and the event metrics balance at every scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use attio_bridge::pipeline::outcome::Reason;
use attio_bridge::pipeline::publish::PublishError;

use crate::support::bridge::Bridge;
use crate::support::consumer::NAMES;
use crate::support::fixtures;
use crate::support::memory::Answer;
use crate::support::request::Request;
use crate::support::scrape::Labels;
use crate::support::wait::eventually;

/// The categories of events: the names of the topics but the last, quarantine.
const CATEGORIES: &[&str] = NAMES.split_at(NAMES.len() - 1).0;

/// Every label set of a metric: each label with all its values.
fn all(labels: &[(&str, &[&str])]) -> BTreeSet<Labels> {
    let one = |sets: BTreeSet<Labels>, (name, values): &(&str, &[&str])| {
        let mut more = BTreeSet::new();
        for (set, value) in sets.iter().flat_map(|set| values.iter().map(move |value| (set, value))) {
            let mut set = set.clone();
            set.insert((*name).to_owned(), (*value).to_owned());
            more.insert(set);
        }
        more
    };
    labels.iter().fold(BTreeSet::from([Labels::new()]), one)
}

/// The table of the contract, for a bridge with one source and one secret.
fn contract() -> BTreeMap<&'static str, BTreeSet<Labels>> {
    let reasons = Reason::ALL.map(Reason::slug);
    let addresses: Vec<String> = NAMES.iter().map(|category| format!("attio.{category}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let refused: Vec<&str> =
        Reason::ALL.into_iter().filter(|reason| reason.is_of_signature()).map(Reason::slug).collect();
    let publish_results =
        ["acknowledged", "unavailable", "timeout", "refused", "rejected", "busy", "abandoned"];
    let store_results =
        ["claimed", "hit", "in_flight", "failed", "skipped", "committed", "released", "dropped"];
    let results = ["published", "duplicate", "filtered", "quarantined", "failed"];
    let source: (&str, &[&str]) = ("source", &["attio"]);
    let any_source: (&str, &[&str]) = ("source", &["attio", "none"]);
    let bus: (&str, &[&str]) = ("bus", &["memory"]);
    let good = all(&[source, ("secret", &["default"]), ("result", &["ok"])]);
    let bad = all(&[source, ("secret", &["none"]), ("result", &refused)]);
    BTreeMap::from([
        ("deliveries_total", all(&[any_source, ("reason", &reasons)])),
        ("delivery_duration_seconds_count", all(&[any_source])),
        ("events_received_total", all(&[source])),
        ("events_total", all(&[source, ("category", CATEGORIES), ("result", &results)])),
        ("events_in_flight", all(&[])),
        ("signature_verifications_total", good.union(&bad).cloned().collect()),
        ("dedup_lookups_total", all(&[("result", &["miss", "hit", "joined"])])),
        ("dedup_entries", all(&[])),
        ("dedup_evictions_total", all(&[("cause", &["expired", "capacity"])])),
        ("dedup_store_requests_total", all(&[("result", &store_results)])),
        ("dedup_store_duration_seconds_count", all(&[])),
        ("identity_missing_total", all(&[source])),
        ("publish_attempts_total", all(&[bus, ("destination", &addresses), ("result", &publish_results)])),
        ("publish_duration_seconds_count", all(&[bus])),
        ("publish_in_flight", all(&[bus])),
        ("bus_up", all(&[bus])),
        ("bus_rebuilds_total", all(&[bus])),
        ("bus_data_losses_total", all(&[bus])),
        ("last_delivery_timestamp_seconds", all(&[source])),
        ("log_dropped_total", all(&[])),
        ("config_reloads_total", all(&[("result", &["ok", "failed"])])),
        ("spans_total", all(&[("result", &["exported", "failed", "dropped"])])),
    ])
}

#[tokio::test]
async fn every_metric_of_the_contract_starts_at_0() {
    let bridge = Bridge::start().await;
    let scrape = bridge.metrics().await;
    for (name, labels) in contract() {
        assert_eq!(scrape.labels_of(name), labels, "{name}");
        assert_eq!(scrape.sum(name, &[]), 0.0, "{name}");
    }
    assert_eq!(scrape.sum("dedup_store_up", &[]), 1.0, "no store is away");
    assert_eq!(scrape.sum("build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
}

#[tokio::test]
async fn no_metric_is_outside_the_contract() {
    let bridge = Bridge::start().await;
    let known: BTreeSet<String> =
        contract().into_keys().map(|name| name.trim_end_matches("_count").to_owned()).collect();
    for name in bridge.metrics().await.names() {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = family.unwrap_or(&name);
        assert!(known.contains(family) || ["build_info", "dedup_store_up"].contains(&family), "{name}");
    }
}

/// One of the kinds of deliveries.
fn some_delivery(at: usize) -> Request {
    let key = format!("k{}", at / 2);
    match at % 9 {
        0 => Request::keyed(&key, fixtures::delivery("edge/batch-of-three")),
        1 => Request::keyed(&key, "no JSON"),
        2 => Request::keyed(&key, r#"{"webhook_id":"w","events":[7,{"event_type":"x.y"}]}"#),
        3 => Request::unsigned(fixtures::delivery("record.created")),
        4 => Request::signed(fixtures::delivery("edge/empty-events")),
        5 => Request::keyed("always the same", fixtures::delivery("record.merged")),
        6 => Request::keyed(&key, fixtures::delivery("list.deleted")),
        7 => Request::signed(fixtures::delivery("task.created")),
        _ => Request::signed("{}").path("/nowhere"),
    }
}

/// One of the results of a publish.
fn some_result(at: usize) -> Answer {
    let detail = || "as the test asked".into();
    match at % 11 {
        0..=3 => Answer::Acknowledge,
        4 => Answer::Duplicate,
        5 => Answer::Fail(PublishError::Unavailable { detail: detail() }),
        6 => Answer::Fail(PublishError::Rejected { detail: detail() }),
        7 => Answer::Fail(PublishError::Refused { detail: detail() }),
        8 => Answer::Fail(PublishError::Abandoned),
        9 => Answer::Late,
        _ => Answer::Hang,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_metrics_balance_at_every_scrape() {
    let bridge = Bridge::with(|config| {
        config.http.answer_timeout = std::time::Duration::from_millis(100);
        config.sources[0].filter.exclude.types = vec!["list.*".into()];
    })
    .await;
    bridge.bus.script((0..400).map(some_result));
    let done = AtomicBool::new(false);
    let senders = async {
        for round in 0..4 {
            let mut clients = Vec::new();
            for at in 0..45 {
                let mut client = bridge.connect().await;
                client.send(&some_delivery(45 * round + at)).await;
                clients.push(client);
            }
            // Some clients leave before their answer.
            clients.truncate(30);
            for mut client in clients {
                client.receive().await;
            }
            bridge.bus.release();
        }
        done.store(true, Ordering::Relaxed);
    };
    let scrapes = async {
        let mut scrapes = 0;
        while !done.load(Ordering::Relaxed) {
            let scrape = bridge.metrics().await;
            assert!(scrape.balances(), "after {scrapes} scrapes that did");
            scrapes += 1;
        }
        scrapes
    };
    let ((), scrapes) = tokio::join!(senders, scrapes);
    assert!(scrapes > 4, "{scrapes}");
    eventually("everything has its result", || async {
        bridge.bus.release();
        bridge.metric("events_in_flight", &[]).await == 0.0
    })
    .await;
    bridge.until("publish_in_flight", &[("bus", "memory")], 0.0).await;
    let scrape = bridge.metrics().await;
    assert!(scrape.balances());
    for result in ["published", "duplicate", "filtered", "quarantined", "failed"] {
        assert!(scrape.sum("events_total", &[("result", result)]) > 0.0, "{result} was part of it");
    }
    let attempts = scrape.sum("publish_attempts_total", &[]);
    assert_eq!(attempts, bridge.bus.attempts() as f64, "every publish has one result");
    assert_eq!(scrape.get("publish_duration_seconds_count", &[("bus", "memory")]), attempts);
    assert_eq!(scrape.get("dedup_lookups_total", &[("result", "miss")]), attempts);
    let acknowledged = scrape.sum("publish_attempts_total", &[("result", "acknowledged")]);
    assert!(acknowledged >= bridge.bus.stored().len() as f64);
    let deliveries = scrape.sum("deliveries_total", &[]);
    assert_eq!(deliveries, 180.0, "those of disconnected clients are counted too");
    assert_eq!(scrape.sum("delivery_duration_seconds_count", &[]), deliveries);
}

#[tokio::test]
async fn event_is_in_flight_until_its_delivery_ends() {
    let bridge = Bridge::start().await;
    bridge.bus.script([Answer::Acknowledge, Answer::Late, Answer::Hang]);
    let mut client = bridge.connect().await;
    client.send(&Request::keyed("k", fixtures::delivery("edge/batch-of-three"))).await;
    eventually("two of three hang", || async { bridge.bus.waiting() == 2 }).await;
    let scrape = bridge.metrics().await;
    assert_eq!(scrape.get("events_received_total", &[("source", "attio")]), 3.0);
    assert_eq!(scrape.get("events_in_flight", &[]), 3.0);
    assert_eq!(scrape.get("publish_in_flight", &[("bus", "memory")]), 2.0);
    assert!(scrape.balances());
    bridge.bus.release();
    assert_eq!(client.receive().await.reason(), "broker_timeout");
    let scrape = bridge.metrics().await;
    assert_eq!(scrape.get("events_in_flight", &[]), 0.0);
    assert_eq!(scrape.sum("events_total", &[("result", "published")]), 2.0);
    assert_eq!(scrape.sum("events_total", &[("result", "failed")]), 1.0);
}

#[tokio::test]
async fn last_delivery_timestamp_is_of_a_verified_delivery() {
    let bridge = Bridge::start().await;
    let labels = [("source", "attio")];
    bridge.ask(&Request::unsigned("{}")).await;
    assert_eq!(bridge.metric("last_delivery_timestamp_seconds", &labels).await, 0.0);
    bridge.ask(&Request::signed("{}")).await;
    let now = time::OffsetDateTime::now_utc().unix_timestamp() as f64;
    assert!((now - bridge.metric("last_delivery_timestamp_seconds", &labels).await).abs() < 60.0);
}
