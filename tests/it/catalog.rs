//! The catalog of event types, against the machine-readable list it was made from.

use attio_bridge::catalog::{EVENT_TYPES, Id, Part};
use serde_json::Value;

use crate::support::fixtures;

/// `{id.record_id}` for a member of `id`, `{thread_id}` for one of the event.
fn template(id: Id) -> String {
    if id.top_level { format!("{{{}}}", id.name) } else { format!("{{id.{}}}", id.name) }
}

fn subject(parts: &[Part]) -> String {
    let part = |part: &Part| match part {
        Part::Text(text) => (*text).to_owned(),
        Part::Id(id) => template(*id),
    };
    parts.iter().map(part).collect::<Vec<_>>().join("/")
}

#[test]
fn catalog_equals_its_fixture() {
    let list = fixtures::json("catalog.json");
    let mut listed: Vec<[String; 5]> = list["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            ["event_type", "category", "action", "subject", "partition_key"]
                .map(|member| event[member].as_str().unwrap().to_owned())
        })
        .collect();
    listed.sort();
    let table: Vec<[String; 5]> = EVENT_TYPES
        .iter()
        .map(|entry| {
            [
                entry.name.to_owned(),
                entry.category.to_string(),
                entry.action.to_owned(),
                subject(entry.subject),
                template(entry.partition_key),
            ]
        })
        .collect();
    assert_eq!(table.len(), 38);
    assert_eq!(table, listed, "the table, which must be sorted, and the list");
}

#[test]
fn required_ids_occur_in_every_example() {
    let list = fixtures::json("catalog.json");
    for entry in EVENT_TYPES {
        let listed = list["events"].as_array().unwrap().iter().find(|e| e["event_type"] == entry.name);
        for id in entry.required_ids() {
            let place = if id.top_level { "extra_fields" } else { "id_fields" };
            let members = listed.unwrap()[place].as_array().unwrap();
            assert!(members.contains(&Value::from(id.name)), "{}: {}", entry.name, id.name);
        }
    }
}
