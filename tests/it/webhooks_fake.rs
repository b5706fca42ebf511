//! The fake Attio's API: it must answer what Attio documents.

use serde_json::{Value, json};

use crate::support::attio::{Attio, KEY};
use crate::support::client::{Client, Response};
use crate::support::request::Request;

const URL: &str = "https://hooks.example.com/webhooks/attio";

fn ask(attio: &Attio, method: &str, path: &str, key: &str, body: &Value) -> Response {
    let address = attio.url().strip_prefix("http://").unwrap().parse().unwrap();
    let bearer = format!("Bearer {key}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::unsigned(body).method(method).path(path).header("Authorization", bearer);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::connect(address).await;
        client.send(&request).await;
        client.try_receive().await.unwrap()
    })
}

fn wanted(url: &str) -> Value {
    json!({ "data": { "target_url": url, "subscriptions": [{ "event_type": "note.created", "filter": null }] } })
}

#[test]
fn secret_is_in_the_answer_to_create_only() {
    let attio = Attio::start();
    let made = ask(&attio, "POST", "/v2/webhooks", KEY, &wanted(URL));
    assert_eq!(made.status, 200);
    assert_eq!(made.header("content-type"), Some("application/json; charset=utf-8"));
    let data = &made.json()["data"];
    assert_eq!(data["secret"].as_str().map(str::len), Some(64));
    assert_eq!(data["status"], "active");
    let path = format!("/v2/webhooks/{}", data["id"]["webhook_id"].as_str().unwrap());
    let got = ask(&attio, "GET", &path, KEY, &Value::Null).json();
    let listed = ask(&attio, "GET", "/v2/webhooks", KEY, &Value::Null).json();
    let changed = ask(&attio, "PATCH", &path, KEY, &json!({ "data": { "target_url": URL } })).json();
    for answer in [&got["data"], &listed["data"][0], &changed["data"]] {
        assert_eq!(answer["id"], data["id"]);
        assert_eq!(answer.get("secret"), None);
    }
    let deleted = ask(&attio, "DELETE", &path, KEY, &Value::Null);
    assert_eq!((deleted.status, deleted.json()), (200, json!({})));
    assert_eq!(ask(&attio, "GET", &path, KEY, &Value::Null).status, 404);
}

#[test]
fn list_limit_is_10_by_default_and_100_at_most() {
    let attio = Attio::start();
    for number in 0..12 {
        attio.add(&format!("{URL}?{number}"), &[("note.created", Value::Null)]);
    }
    let table =
        [("", 10), ("?offset=10", 2), ("?limit=100", 12), ("?limit=11&offset=0", 11), ("?offset=99", 0)];
    for (query, expected) in table {
        let page = ask(&attio, "GET", &format!("/v2/webhooks{query}"), KEY, &Value::Null).json();
        assert_eq!(page["data"].as_array().unwrap().len(), expected, "{query}");
    }
    for query in ["?limit=9", "?limit=101", "?limit=x", "?offset=-1"] {
        let refused = ask(&attio, "GET", &format!("/v2/webhooks{query}"), KEY, &Value::Null);
        assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("validation_type")), "{query}");
    }
}

#[test]
fn errors_have_attios_format() {
    let attio = Attio::start();
    attio.add(URL, &[("note.created", Value::Null)]);
    let empty_and = json!({ "data": {
        "target_url": URL, "subscriptions": [{ "event_type": "note.created", "filter": { "$and": [] } }],
    } });
    let one = json!({ "event_type": "note.created", "filter": null });
    let twice = json!({ "data": { "target_url": format!("{URL}?2"), "subscriptions": [one, one] } });
    let no_filter =
        json!({ "data": { "target_url": URL, "subscriptions": [{ "event_type": "note.created" }] } });
    let table = [
        ("POST", "/v2/webhooks", KEY, wanted(URL), 409, "uniqueness_conflict"),
        ("POST", "/v2/webhooks", KEY, empty_and, 409, "uniqueness_conflict"),
        ("POST", "/v2/webhooks", KEY, twice, 409, "uniqueness_conflict"),
        ("POST", "/v2/webhooks", KEY, no_filter, 400, "validation_type"),
        ("POST", "/v2/webhooks", KEY, wanted("http://hooks.example.com"), 400, "validation_type"),
        ("POST", "/v2/webhooks", KEY, Value::Null, 400, "validation_type"),
        ("GET", "/v2/webhooks", "another", Value::Null, 401, "unauthorized"),
        ("GET", "/v2/zebras", KEY, Value::Null, 404, "not_found"),
        ("PUT", "/v2/webhooks", KEY, Value::Null, 404, "not_found"),
    ];
    for (method, path, key, body, status, code) in table {
        let refused = ask(&attio, method, path, key, &body);
        let problem = refused.json();
        assert_eq!((refused.status, &problem["code"]), (status, &json!(code)), "{method} {path} {body}");
        assert_eq!(problem["status_code"], status);
        assert!(problem["type"].is_string() && problem["message"].is_string());
        assert_eq!(problem.get("validation_errors").is_some(), code == "validation_type");
    }
    let token = ask(&attio, "GET", "/v2/self", "another", &Value::Null);
    assert_eq!((token.status, token.json()), (200, json!({ "active": false })));
}

#[test]
fn rate_limit_answers_429_with_retry_after() {
    let attio = Attio::start();
    attio.store().rate.reads = 0;
    let limited = ask(&attio, "GET", "/v2/webhooks", KEY, &Value::Null);
    assert_eq!((limited.status, &limited.json()["type"]), (429, &json!("rate_limit_error")));
    let date = limited.header("retry-after").unwrap();
    assert!(date.ends_with(" GMT") && date.len() == "Tue, 24 Nov 2026 10:00:00 GMT".len(), "{date}");
}
