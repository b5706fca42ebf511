//! Subjects, headers and payloads on NATS of signed deliveries.

use std::collections::BTreeMap;

use attio_bridge::catalog::EVENT_TYPES;

use crate::support::load::ready;
use crate::support::nats::bench::stream_name;
use crate::support::nats::target::NatsTarget;
use crate::support::nats::{Stored, shared};
use crate::support::request::Request;
use crate::support::wait::eventually;

fn event(event_type: &str, entity: &str) -> String {
    let names =
        ["workspace", "object", "record", "list", "entry", "attribute", "note", "task", "comment", "thread"];
    let more = ["workspace_member", "meeting", "call_recording", "activity", "activity_record"];
    let ids: BTreeMap<_, _> =
        names.iter().chain(&more).map(|name| (format!("{name}_id"), format!("{name}-{entity}"))).collect();
    let thread = ids["thread_id"].clone();
    serde_json::json!({
        "event_type": event_type, "id": ids, "thread_id": thread,
        "parent_object_id": "o", "parent_record_id": "r", "list_id": "l", "entry_id": "e",
        "object_id": "o", "record_id": "r",
        "duplicate_object_id": "o", "duplicate_record_id": "d",
    })
    .to_string()
}

fn delivery(events: &[String]) -> String {
    format!(r#"{{"webhook_id":"w","events":[{}]}}"#, events.join(","))
}

fn record_created(record: &str) -> String {
    delivery(&[event("record.created", record)])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_category_and_action_has_its_own_subject() {
    let (server, target) = (shared(), NatsTarget::new("subjects"));
    let bridge = target.bridge(&server, &[("ATTIO_BRIDGE__ROUTE__CATEGORIES__NOTE", "crm.notes.v1")]).await;
    ready(&bridge).await;
    let mut expected = vec![];
    let mut events = vec![];
    for entry in EVENT_TYPES {
        events.push(event(entry.name, entry.name));
        let address = match entry.category.as_str() {
            "note" => "crm.notes.v1".to_owned(),
            category => format!("{}.{category}", target.prefix),
        };
        expected.push(format!("{address}.{}", entry.action));
    }
    events.push(event("record.exploded", "x"));
    expected.push(format!("{}.record.unknown", target.prefix));
    events.push(event("planet.created", "x"));
    expected.push(format!("{}.unknown", target.prefix));
    events.push("\"no event\"".into());
    expected.push(format!("{}.quarantine", target.prefix));
    let answer = bridge.ask(&Request::keyed("all", delivery(&events))).await.json();
    assert_eq!(answer["published"], EVENT_TYPES.len() + 2, "{answer}");
    assert_eq!(answer["quarantined"], 1, "{answer}");
    let mut found: Vec<_> = target.stored(&server).into_iter().map(|message| message.subject).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_mode_puts_attributes_into_nats_headers() {
    let (server, target) = (shared(), NatsTarget::new("binary"));
    let bridge = target.bridge(&server, &[("ATTIO_BRIDGE__BUS__CONTENT_MODE", "binary")]).await;
    ready(&bridge).await;
    let data =
        r#"{ "event_type":"record.created", "id": {"workspace_id":"ws","object_id":"o","record_id":"r"} }"#;
    let body = format!(r#"{{"webhook_id":"w","events":[{data},5]}}"#);
    assert_eq!(bridge.ask(&Request::keyed("k", body)).await.status, 200);
    let stored = target.stored(&server);
    assert_eq!(stored[0].text(), data);
    let header = |name| stored[0].header(name).unwrap();
    assert_eq!(header("ce-specversion"), "1.0");
    assert_eq!(header("ce-type"), "com.attio.record.created");
    assert_eq!(header("ce-source"), "https://attio.com/workspaces/ws");
    assert_eq!(header("ce-subject"), "objects/o/records/r");
    assert_eq!(header("ce-partitionkey"), "r");
    assert_eq!(header("ce-datacontenttype"), "application/json");
    assert_eq!(header("Nats-Expected-Stream"), target.stream);
    assert_eq!(header("Nats-Msg-Id").len(), 32);
    assert_eq!(stored[0].header("Content-Type"), None);
    assert_eq!(stored[1].header("Content-Type"), Some("application/cloudevents+json; charset=utf-8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_deduplicates_after_a_restart_of_the_bridge() {
    let (server, target) = (shared(), NatsTarget::new("restarted"));
    let request = Request::keyed("one", record_created("r"));
    let first = target.bridge(&server, &[]).await;
    ready(&first).await;
    assert_eq!(first.ask(&request).await.status_and_reason(), (200, "accepted".into()));
    first.stop().await.unwrap();
    let second = target.bridge(&server, &[]).await;
    ready(&second).await;
    assert_eq!(second.ask(&request).await.status_and_reason(), (200, "duplicate".into()));
    assert_eq!(second.metrics().await.sum("events_total", &[("result", "duplicate")]), 1.0);
    assert_eq!(target.stored(&server).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_stream_answers_503_until_it_is_created() {
    let (server, target) = (shared(), NatsTarget::new("missing"));
    let bridge = target.bridge(&server, &[("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "verify")]).await;
    let request = Request::keyed("one", record_created("r"));
    eventually("the delivery is refused", || async {
        bridge.ask(&request).await.status_and_reason() == (503, "broker_refused".into())
    })
    .await;
    eventually("/readyz names the missing stream", || async {
        let answer = bridge.admin("/readyz").await;
        answer.status == 503 && String::from_utf8_lossy(&answer.body).contains(&target.stream)
    })
    .await;
    server.create_stream(&target.stream, &[&format!("{}.>", target.prefix)], |_| {});
    eventually("the delivery is accepted", || async { bridge.ask(&request).await.status == 200 }).await;
    ready(&bridge).await;
    assert_eq!(target.stored(&server).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicting_stream_answers_503_until_it_is_deleted() {
    let (server, target, other) = (shared(), NatsTarget::new("wanted"), stream_name("other"));
    server.create_stream(&other, &[&format!("{}.record.>", target.prefix)], |_| {});
    let bridge = target.bridge(&server, &[]).await;
    let request = Request::keyed("one", record_created("r"));
    eventually("the delivery is refused", || async {
        bridge.ask(&request).await.status_and_reason() == (503, "broker_refused".into())
    })
    .await;
    assert_eq!(bridge.admin("/readyz").await.status, 503);
    assert!(server.read_all(&other).is_empty(), "nothing went to the wrong stream");
    server.delete_stream(&other);
    ready(&bridge).await;
    assert_eq!(bridge.ask(&request).await.status, 200);
}

/// The size of a message as the server counts it: headers and payload.
fn size(message: &Stored) -> usize {
    let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    "NATS/1.0\r\n\r\n".len() + headers + message.payload.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn message_too_large_for_the_stream_is_quarantined() {
    let (server, target) = (shared(), NatsTarget::new("large"));
    let bridge = target.bridge(&server, &[]).await;
    ready(&bridge).await;
    // Its ids are repeated in the attributes, so its envelope is larger than its quarantine message.
    let long = "i".repeat(128);
    let large = format!(
        r#"{{"event_type":"record.created","id":{{"workspace_id":"{long}","object_id":"{long}","record_id":"{long}"}}}}"#
    );
    let small = event("record.created", "a");
    let body = |events: &[&String]| delivery(&events.iter().map(|e| (*e).clone()).collect::<Vec<_>>());
    assert_eq!(bridge.ask(&Request::keyed("1", body(&[&large]))).await.json()["published"], 1);
    let limit = size(&target.stored(&server)[0]) - 1;
    server.change_stream(&target.stream, |config| config.max_message_size = i32::try_from(limit).unwrap());
    let answer = bridge.ask(&Request::keyed("2", body(&[&large]))).await.json();
    assert_eq!((&answer["published"], &answer["quarantined"]), (&0.into(), &1.into()), "{answer}");
    let stored = target.stored(&server);
    assert_eq!(stored[1].subject, format!("{}.quarantine", target.prefix));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(stored[1].text()).unwrap()["reason"],
        "rejected_by_broker"
    );
    // An event too large for quarantine too is answered 503, so that it is not lost.
    let huge = small.replacen('{', &format!(r#"{{"x":"{}","#, "x".repeat(5000)), 1);
    let answer = bridge.ask(&Request::keyed("3", body(&[&huge]))).await;
    assert_eq!(answer.status_and_reason(), (503, "broker_refused".into()));
}
