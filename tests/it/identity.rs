//! Event ids, computed a second time from their formula.

use std::collections::HashSet;

use attio_bridge::pipeline::publish::Message;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::events::attributes;
use crate::support::bridge::Bridge;
use crate::support::request::Request;

const NAMESPACE: &str = "82aa3251-fb12-5533-8215-e473197ca642";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn formula(webhook: &str, key: &str, index: usize, event: &str) -> String {
    let digest = hex(&Sha256::digest(event));
    let namespace = Uuid::parse_str(NAMESPACE).unwrap();
    Uuid::new_v5(&namespace, format!("{webhook}\n{key}\n{index}\n{digest}").as_bytes()).to_string()
}

fn dedup_key(id: &str) -> String {
    hex(&Sha256::digest(format!("attio\n{id}")))[..32].to_owned()
}

fn id(message: &Message) -> String {
    attributes(message)["id"].clone()
}

/// The ids under which a new bridge publishes one delivery.
async fn check(request: &Request, ids: &[String]) {
    let bridge = Bridge::start().await;
    assert_eq!(bridge.ask(request).await.status, 200);
    let stored = bridge.bus.stored();
    assert_eq!(stored.iter().map(id).collect::<Vec<_>>(), ids);
    for message in &stored {
        assert_eq!(message.dedup_key, dedup_key(&id(message)));
    }
}

const EVENT: &str = r#"{ "event_type": "x.y" }"#;

fn envelope(webhook: &str, events: &[&str]) -> String {
    format!(r#"{{"webhook_id":"{webhook}","events":[{}]}}"#, events.join(" , "))
}

#[tokio::test]
async fn ids_follow_the_formula_also_after_a_restart() {
    for _restart in 0..2 {
        let batch = [EVENT, EVENT, r#"{"event_type":"x.z"}"#];
        let ids: Vec<_> = (0..3).map(|at| formula("w", "k", at, batch[at])).collect();
        check(&Request::keyed("k", envelope("w", &batch)), &ids).await;
        check(&Request::keyed("k", EVENT), &[formula("", "k", 0, EVENT)]).await;
        check(&Request::keyed("k", format!("\n{EVENT} ")), &[formula("", "k", 0, EVENT)]).await;
    }
}

#[test]
fn ids_never_change() {
    // A changed id is a second copy of every event that is retried over an upgrade.
    assert_eq!(formula("w", "k", 0, EVENT), "b842c9fe-d5d0-5d1e-9b5d-aedacf61bbe7");
}

#[tokio::test]
async fn every_part_of_the_formula_changes_the_id() {
    let bridge = Bridge::start().await;
    let other = r#"{ "event_type":  "x.y" }"#;
    let requests = [
        Request::keyed("k", envelope("w", &[EVENT])),
        Request::keyed("k", envelope("w", &[other])),
        Request::keyed("k", envelope("v", &[EVENT])),
        Request::keyed("k", EVENT),
        Request::keyed("j", envelope("w", &[EVENT])),
        Request::keyed("k", envelope("w", &["7", EVENT])),
        Request::keyed("K", envelope("w", &[EVENT])),
    ];
    for request in &requests {
        assert_eq!(bridge.ask(request).await.reason(), "accepted");
    }
    let events = bridge.bus.stored().into_iter().filter(|message| !message.structured_only);
    let ids: HashSet<_> = events.map(|message| id(&message)).collect();
    assert_eq!(ids.len(), requests.len());
}

#[tokio::test]
async fn an_idempotency_key_is_the_same_with_and_without_quotes() {
    let longest = "k".repeat(255);
    let quoted_longest = format!("\"{longest}\"");
    let table = [
        ("k", "k"),
        ("\"k\"", "k"),
        ("\"\"k\"\"", "\"k\""),
        ("\"k", "\"k"),
        ("k\"", "k\""),
        ("\"", "\""),
        ("!~", "!~"),
        (&*longest, &*longest),
        (&*quoted_longest, &*longest),
    ];
    for (sent, key) in table {
        check(&Request::keyed(sent, EVENT), &[formula("", key, 0, EVENT)]).await;
        let bridge = Bridge::start().await;
        bridge.ask(&Request::keyed(sent, EVENT)).await;
        assert_eq!(attributes(&bridge.bus.stored()[0])["correlationid"], key, "{sent}");
    }
}

#[tokio::test]
async fn without_a_usable_idempotency_key_every_delivery_is_published_and_counted() {
    let long = "k".repeat(256);
    let keys: [&[&[u8]]; 10] = [
        &[],
        &[b""],
        &[b"\"\""],
        &[long.as_bytes()],
        &[b"a b"],
        &[b"a\tb"],
        &["é".as_bytes()],
        &[b"\xff"],
        &[b"k", b"j"],
        &[b"k", b"a b"],
    ];
    for keys in keys {
        let bridge = Bridge::start().await;
        let mut request = Request::signed(envelope("w", &[EVENT, EVENT]));
        for key in keys {
            request = request.header("Idempotency-Key", key);
        }
        for round in 1..=2u8 {
            assert_eq!(bridge.ask(&request).await.json()["published"], 2, "{keys:?}");
            let missing = bridge.metric("identity_missing_total", &[("source", "attio")]).await;
            assert_eq!(missing, 2.0 * f64::from(round), "{keys:?}");
        }
        let stored = bridge.bus.stored();
        let ids: HashSet<_> = stored.iter().map(id).collect();
        assert_eq!(ids.len(), 4, "{keys:?}: random ids");
        for message in &stored {
            let uuid = Uuid::parse_str(&id(message)).unwrap();
            assert_eq!(uuid.get_version_num(), 4);
            assert_eq!(message.dedup_key, dedup_key(&id(message)));
            assert_eq!(attributes(message).get("correlationid"), None, "{keys:?}");
        }
        assert_eq!(bridge.metric("dedup_entries", &[]).await, 0.0, "{keys:?}: nothing is remembered");
    }
}

#[tokio::test]
async fn filtered_and_quarantined_events_need_no_idempotency_key() {
    let bridge = Bridge::with(|config| config.sources[0].filter.exclude.types = vec!["x.y".into()]).await;
    bridge.ask(&Request::signed(envelope("w", &[EVENT, "7"]))).await;
    assert_eq!(bridge.metric("identity_missing_total", &[("source", "attio")]).await, 0.0);
}

#[tokio::test]
async fn an_event_id_in_the_body_comes_first() {
    let longest = "e".repeat(128);
    let too_long = "e".repeat(129);
    let table = [
        ("\"e\"", Some("e")),
        ("\"A.b_c:d-9\"", Some("A.b_c:d-9")),
        ("\"\\u0065\"", Some("e")),
        (&*format!("\"{longest}\""), Some(&*longest)),
        (&*format!("\"{too_long}\""), None),
        ("\"\"", None),
        ("\"a b\"", None),
        ("\"é\"", None),
        ("\"a\\nb\"", None),
        ("7", None),
        ("null", None),
        ("{}", None),
    ];
    for (event_id, expected) in table {
        let event = format!(r#"{{"event_type":"x.y","id":{{"event_id":{event_id}}}}}"#);
        let id = expected.map_or_else(|| formula("", "k", 0, &event), str::to_owned);
        check(&Request::keyed("k", &event), &[id]).await;
    }
}

#[tokio::test]
async fn an_event_id_in_the_body_needs_no_idempotency_key() {
    let bridge = Bridge::start().await;
    let event = |note: &str| format!(r#"{{"event_type":"x.y","id":{{"event_id":"e"}},"note":"{note}"}}"#);
    assert_eq!(bridge.ask(&Request::signed(event("first"))).await.reason(), "accepted");
    assert_eq!(bridge.ask(&Request::signed(event("first"))).await.reason(), "duplicate");
    assert_eq!(bridge.ask(&Request::keyed("k", event("second"))).await.reason(), "duplicate");
    assert_eq!(bridge.metric("identity_missing_total", &[("source", "attio")]).await, 0.0);
}

#[tokio::test]
async fn a_replayed_body_under_another_key_suppresses_nothing() {
    let bridge = Bridge::start().await;
    let (captured, honest) = (r#"{"event_type":"x.y","a":1}"#, r#"{"event_type":"x.y","a":2}"#);
    assert_eq!(
        bridge.ask(&Request::keyed("next key", captured).without("Idempotency-Key")).await.status,
        200
    );
    assert_eq!(bridge.ask(&Request::keyed("stolen", captured)).await.reason(), "accepted");
    assert_eq!(bridge.ask(&Request::keyed("stolen", honest)).await.reason(), "accepted");
}
