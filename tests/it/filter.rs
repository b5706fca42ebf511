//! A source's filter.

use attio_bridge::pipeline::filter::{Options, Rules};
use serde_json::json;

use crate::support::bridge::Bridge;
use crate::support::request::Request;

/// Rules from `types=a,b;lists=c`.
fn rules(text: &str) -> Rules {
    let mut rules = Rules::default();
    for rule in text.split(';').filter(|rule| !rule.is_empty()) {
        let (name, values) = rule.split_once('=').unwrap();
        let list = match name {
            "types" => &mut rules.types,
            "actor_types" => &mut rules.actor_types,
            "objects" => &mut rules.objects,
            "lists" => &mut rules.lists,
            "attributes" => &mut rules.attributes,
            other => panic!("{other}"),
        };
        list.extend(values.split(',').map(str::to_owned));
    }
    rules
}

/// Whether an event passes.
async fn check(include: &str, exclude: &str, event: &str) -> bool {
    let filter = Options { include: rules(include), exclude: rules(exclude) };
    let bridge = Bridge::with(|config| config.sources[0].filter = filter).await;
    let answer = bridge.ask(&Request::keyed("k", event)).await;
    let passes = bridge.bus.stored().len() == 1;
    assert_eq!(answer.status_and_reason(), (200, if passes { "accepted" } else { "filtered" }.into()));
    assert_eq!(answer.json()["filtered"], u8::from(!passes));
    passes
}

#[tokio::test]
async fn an_event_must_match_every_include_rule_and_no_exclude_rule() {
    let record = r#"{"event_type":"record.updated","id":{"workspace_id":"w","object_id":"o","record_id":"r","attribute_id":"a"},"actor":{"type":"system","id":null}}"#;
    let entry = r#"{"event_type":"list-entry.created","id":{"workspace_id":"w","list_id":"l","entry_id":"e"},"parent_object_id":"o","actor":{"type":null}}"#;
    let guide = r#"{"event_type":"list-entry.created","id":{"event_id":"e"},"list":{"id":{"list_id":"l"}},"object":{"id":{"object_id":"o"}}}"#;
    let content = r#"{"event_type":"note-content.updated","id":{"workspace_id":"w","note_id":"n"}}"#;
    let unknown = r#"{"event_type":"meeting.created","id":{"workspace_id":"w","meeting_id":"m"}}"#;
    let table = [
        ("", "", record, true),
        // A category is that of the topic.
        ("types=note.*", "", content, true),
        ("types=note-content.*", "", content, true),
        ("", "types=note.*", content, false),
        ("types=note.*", "", record, false),
        ("types=meeting.*", "", unknown, true),
        ("types=meet.*", "", unknown, false),
        ("types=rec*", "", record, false),
        ("types=record.updated", "", record, true),
        ("types=record.created", "", record, false),
        ("types=record.created,record.updated", "", record, true),
        ("types=record.*", "", record, true),
        ("types=list.*", "", entry, false),
        ("", "types=record.*", record, false),
        ("", "types=list.*", entry, true),
        ("types=record.*", "types=record.updated", record, false),
        ("actor_types=system", "", record, true),
        ("actor_types=system", "", entry, false),
        ("", "actor_types=system", record, false),
        ("", "actor_types=system", entry, true),
        ("objects=o", "", record, true),
        ("objects=o", "", entry, true),
        ("objects=o", "", guide, true),
        ("objects=p", "", record, false),
        ("", "objects=o", guide, false),
        ("lists=l", "", entry, true),
        ("lists=l", "", guide, true),
        ("lists=l", "", record, false),
        ("attributes=a", "", record, true),
        ("attributes=a", "", entry, false),
        ("", "attributes=a", record, false),
        ("types=record.*;objects=o;attributes=a;actor_types=system", "", record, true),
        ("types=record.*;objects=p", "", record, false),
        ("types=record.*", "objects=p;lists=l", record, true),
    ];
    for (include, exclude, event, passes) in table {
        assert_eq!(check(include, exclude, event).await, passes, "+[{include}] -[{exclude}] {event}");
    }
}

#[tokio::test]
async fn filtered_events_are_not_remembered_and_not_published() {
    let bridge = Bridge::with(|config| config.sources[0].filter.exclude = rules("types=x.y")).await;
    for _ in 0..2 {
        let answer = bridge.ask(&Request::keyed("k", r#"{"event_type":"x.y"}"#)).await;
        assert_eq!(answer.reason(), "filtered");
    }
    assert_eq!(bridge.bus.attempts(), 0);
    let scrape = bridge.metrics().await;
    assert_eq!(scrape.sum("dedup_lookups_total", &[]), 0.0);
    let labels = [("source", "attio"), ("category", "unknown"), ("result", "filtered")];
    assert_eq!(scrape.get("events_total", &labels), 2.0);
    assert!(scrape.balances());
}

#[tokio::test]
async fn unreadable_elements_are_never_filtered() {
    let bridge =
        Bridge::with(|config| config.sources[0].filter.include = rules("types=record.created")).await;
    let body = r#"{"webhook_id":"w","events":[7,{"event_type":"x.y"}]}"#;
    let answer = bridge.ask(&Request::keyed("k", body)).await.json();
    assert_eq!((&answer["quarantined"], &answer["filtered"]), (&json!(1), &json!(1)));
}
