//! `webhooks list`, `get`, `create`, `update`, `delete`, against a fake Attio over HTTP.

use serde_json::{Value, json};

use crate::support::attio::Attio;

const URL: &str = "https://hooks.example.com/webhooks/attio";

#[test]
fn list_reads_all_pages() {
    let attio = Attio::start();
    for number in 0..123 {
        attio.add(&format!("{URL}?{number}"), &[("record.created", Value::Null)]);
    }
    let listed = attio.webhooks(&["list", "--json"]).expect(0).json();
    let urls: Vec<String> =
        listed.as_array().unwrap().iter().map(|one| one["target_url"].as_str().unwrap().into()).collect();
    let expected: Vec<String> = (0..123).map(|number| format!("{URL}?{number}")).collect();
    assert_eq!(urls, expected);
    let table = attio.webhooks(&["list"]).expect(0).stdout;
    assert_eq!(table.lines().count(), 124);
    assert!(table.starts_with("WEBHOOK") && table.contains("active") && table.contains("record.created"));
}

#[test]
fn get_update_and_delete_one_webhook() {
    let attio = Attio::start();
    let id = attio.add(URL, &[("record.created", Value::Null), ("note.created", Value::Null)]);
    let secret = attio.only().secret;
    let shown = attio.webhooks(&["get", &id, "--json"]).expect(0).json();
    assert_eq!(shown["id"]["webhook_id"], id.as_str());
    assert_eq!(shown["secret"], Value::Null);
    let created_at = shown["created_at"].as_str().unwrap();
    assert_eq!(created_at.len(), "2026-05-16T01:34:05.738000000Z".len());
    assert!(attio.webhooks(&["get", &id]).expect(0).stdout.contains(URL));

    attio.webhooks(&["update", &id, "--event", "task.created"]).expect(0);
    let changed = attio.only();
    assert_eq!((changed.subscriptions.len(), &*changed.target_url), (1, URL));
    assert_eq!(changed.secret, secret);
    let other = format!("{URL}?2");
    let answer = attio.webhooks(&["update", &id, "--target-url", &other, "--json"]).expect(0).json();
    assert_eq!(answer["target_url"], other.as_str());
    assert_eq!(attio.only().subscriptions, changed.subscriptions);
    attio.webhooks(&["update", &id]).expect(2).mentions(&["nothing to change"]);

    attio.webhooks(&["delete", &id]).expect(2).mentions(&["--yes"]);
    assert_eq!(attio.store().webhooks.len(), 1);
    attio.webhooks(&["delete", &id, "--yes"]).expect(0);
    assert!(attio.store().webhooks.is_empty());
}

#[test]
fn delete_json_lists_what_was_deleted_before_a_failure() {
    let attio = Attio::start();
    let ids = [attio.add(URL, &[]), attio.add(&format!("{URL}?2"), &[])];
    let deleted = attio.webhooks(&["delete", &ids[0], "no-such-id", &ids[1], "--yes", "--json"]).expect(1);
    let outcome = deleted.json();
    assert_eq!(outcome["deleted"], json!([ids[0]]));
    assert!(outcome["error"].as_str().unwrap().contains("no-such-id"), "{outcome}");
    let outcome = attio.webhooks(&["delete", &ids[1], "--yes", "--json"]).expect(0).json();
    assert_eq!(outcome, json!({ "deleted": [ids[1]], "error": null }));
}

#[test]
fn create_prints_the_secret_to_stdout_only() {
    let attio = Attio::start();
    let arguments = ["create", "--target-url", URL, "--event", "record.created", "--event", "note.updated"];
    let created =
        attio.webhooks(&arguments).expect(0).mentions(&["created webhook", "sources.attio.secrets"]);
    let made = attio.only();
    assert_eq!(created.stdout, format!("{}\n", made.secret));
    assert!(!created.stderr.contains(&made.secret));
    let types: Vec<&str> = made.subscriptions.iter().map(|one| one.event_type.as_str()).collect();
    assert_eq!(types, ["record.created", "note.updated"]);
    assert!(made.subscriptions.iter().all(|one| one.filter.is_null()));
}

#[test]
fn create_json_contains_the_secret() {
    let attio = Attio::start();
    let created = attio.webhooks(&["create", "--target-url", URL, "--event", "record.created", "--json"]);
    let created = created.expect(0).json();
    let made = attio.only();
    assert_eq!(created["secret"], made.secret.as_str());
    assert_eq!(created["id"]["webhook_id"], made.webhook_id.as_str());
    assert_eq!(created["subscriptions"], json!([{ "event_type": "record.created", "filter": null }]));
}

#[test]
fn unknown_event_type_is_sent_with_a_warning() {
    let attio = Attio::start();
    let arguments = ["create", "--target-url", URL, "--event", "record.archived"];
    let refused = attio.webhooks(&arguments).expect(1);
    refused.mentions(&[
        "warning: \"record.archived\"",
        "400 validation_type",
        "data.subscriptions.0.event_type",
    ]);
    attio.store().event_types.insert("record.archived".into());
    attio.webhooks(&arguments).expect(0).mentions(&["warning: \"record.archived\""]);
    assert_eq!(attio.only().subscriptions[0].event_type, "record.archived");
}

#[test]
fn invalid_arguments_exit_2() {
    let attio = Attio::start();
    let table: [&[&str]; 6] = [
        &["create", "--target-url", URL, "--event", "note.created", "--event", "note.created"],
        &["create", "--target-url", "http://hooks.example.com", "--event", "record.created"],
        &["create", "--target-url", URL],
        &["create", "--target-url", URL, "--event", "record.created", "--filter", "{"],
        &["create", "--target-url", URL, "--event", "record.created", "--secret-format", "kubernetes"],
        &["zebra"],
    ];
    for arguments in table {
        attio.webhooks(arguments).expect(2);
    }
    assert_eq!(attio.asked("POST"), 0);
}

#[test]
fn list_is_read_until_a_page_is_empty() {
    let attio = Attio::start();
    for number in 0..23 {
        attio.add(&format!("{URL}?{number}"), &[("record.created", Value::Null)]);
    }
    attio.store().max_page = 7;
    let listed = attio.webhooks(&["list", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 23);
}

#[test]
fn list_shows_which_events_are_filtered_and_get_takes_a_short_id() {
    let attio = Attio::start();
    let filter = json!({ "$and": [{ "field": "id.list_id", "operator": "equals", "value": "l" }] });
    let id = attio.add(URL, &[("record.created", Value::Null), ("list-entry.created", filter)]);
    let table = attio.webhooks(&["list"]).expect(0).stdout;
    assert!(table.contains("record.created list-entry.created(filtered)"), "{table}");
    let shown = attio.webhooks(&["get", &id[..8]]).expect(0).stdout;
    assert!(shown.contains(&id) && shown.contains(URL), "{shown}");
    attio.webhooks(&["get", "zebra"]).expect(1).mentions(&["no webhook has the id zebra", "webhooks list"]);
    attio.add(&format!("{URL}?2"), &[("record.created", Value::Null)]);
    attio.store().webhooks[1].webhook_id = format!("{}0000-0000-4000-8000-000000000000", &id[..4]);
    attio.webhooks(&["get", &id[..4]]).expect(1).mentions(&["several ids begin with"]);
}

#[test]
fn update_names_the_filtered_subscriptions_that_it_replaces() {
    let attio = Attio::start();
    let filter = json!({ "$and": [{ "field": "id.list_id", "operator": "equals", "value": "l" }] });
    let id = attio.add(URL, &[("record.created", Value::Null), ("list-entry.created", filter)]);
    let updated = attio.webhooks(&["update", &id, "--event", "list-entry.created"]).expect(0);
    let said = updated.mentions(&["is replaced: list-entry.created where id.list_id = l"]).stderr;
    assert!(!said.contains("record.created"), "{said}");
}
