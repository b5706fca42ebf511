//! Errors of Attio and of the network: retries, limits, messages.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::support::attio::{Attio, program};
use crate::support::faults::Fault;
use crate::support::ports::free_address;

const URL: &str = "https://hooks.example.com/webhooks/attio";
const CREATE: [&str; 5] = ["create", "--target-url", URL, "--event", "record.created"];

/// Applies to the POST that creates a webhook.
fn on_post(fault: Fault) -> Fault {
    Fault::Of(Method::POST, Box::new(fault))
}

#[test]
fn unknown_key_and_missing_scope_have_different_messages() {
    let attio = Attio::start();
    let wrong = [("ATTIO_API_KEY", "another-key-entirely")];
    let refused = attio.with(&wrong, &["list"]).expect(1);
    let refused = refused.mentions(&["401 unauthorized", "GET /v2/self: not active", "x-attio-execution-id"]);
    assert!(!refused.stderr.contains("another-key-entirely"));
    attio.store().scopes.remove("webhook:read-write");
    attio.webhooks(&["list"]).expect(1).mentions(&[
        "403",
        "webhook:read",
        "the key is valid",
        "object_configuration:read",
    ]);
}

#[test]
fn missing_key_exits_78() {
    program(&["webhooks", "list"], &[]).expect(78).mentions(&["ATTIO_API_KEY"]);
}

#[test]
fn key_is_not_sent_unencrypted() {
    let variables = [("ATTIO_API_KEY", "key"), ("ATTIO_BRIDGE__ATTIO__API_URL", "http://api.example.com")];
    program(&["webhooks", "list"], &variables).expect(78).mentions(&["unencrypted"]);
}

#[test]
fn unknown_id_is_reported() {
    let attio = Attio::start();
    let id = "c6a3a8a2-9d5d-4c19-8a1f-0c5b0f5a5d3e";
    for arguments in
        [&["get", id][..], &["update", id, "--event", "record.created"], &["delete", id, "--yes"]]
    {
        attio.webhooks(arguments).expect(1).mentions(&["404 not_found", id, "webhooks list"]);
    }
    attio.webhooks(&["get", "../self"]).expect(2).mentions(&["is not an id"]);
}

#[test]
fn conflict_message_says_what_must_be_unique() {
    let attio = Attio::start();
    let id = attio.add(URL, &[("record.created", Value::Null)]);
    attio.webhooks(&CREATE).expect(1).mentions(&["409 uniqueness_conflict", "webhooks list"]);
    let other = attio.add(&format!("{URL}?2"), &[("record.created", Value::Null)]);
    attio.webhooks(&["update", &other, "--target-url", URL]).expect(1).mentions(&["409 uniqueness_conflict"]);
    assert_eq!(attio.store().get(&id).unwrap().target_url, URL);
}

#[test]
fn rate_limited_request_is_retried_after_retry_after() {
    let attio = Attio::start();
    let limits = [Fault::Limited, Fault::LimitedFor("1".into()), Fault::LimitedFor("soon".into())];
    attio.faults(limits.map(on_post));
    attio.webhooks(&CREATE).expect(0).mentions(&["429 rate_limit_exceeded", "retrying in"]);
    assert_eq!(attio.asked("POST"), 4);
    attio.only();
    // The limit per second itself.
    attio.store().rate.writes = 1;
    for _ in 0..3 {
        attio.webhooks(&["update", &attio.only().webhook_id, "--event", "note.created"]).expect(0);
    }
}

#[test]
fn idempotent_requests_are_retried_after_5xx() {
    let attio = Attio::start();
    let id = attio.add(URL, &[("record.created", Value::Null)]);
    attio.faults([Fault::Status(502), Fault::Status(503)]);
    attio.webhooks(&["list"]).expect(0).mentions(&["answered 502"]);
    attio.faults([Fault::Of(Method::PATCH, Box::new(Fault::StatusAfter(504)))]);
    attio.webhooks(&["update", &id, "--event", "note.created"]).expect(0);
    assert_eq!(attio.asked("PATCH"), 2);
    // The first attempt deleted it; the second gets 404, which is a success.
    attio.faults([Fault::Of(Method::DELETE, Box::new(Fault::StatusAfter(502)))]);
    attio.webhooks(&["delete", &id, "--yes"]).expect(0);
    assert_eq!(attio.asked("DELETE"), 2);
}

#[test]
fn timeout_of_a_get_is_retried() {
    let attio = Attio::start();
    attio.faults([Fault::Hang(Duration::from_secs(600))]);
    let hasty = [("ATTIO_BRIDGE__ATTIO__TIMEOUT", "2s")];
    attio.with(&hasty, &["list"]).expect(0).mentions(&["no answer within 2s"]);
}

#[test]
fn request_fails_after_six_attempts() {
    let attio = Attio::start();
    attio.faults(std::iter::repeat_n(Fault::Status(503), 20));
    attio.webhooks(&["list"]).expect(1).mentions(&["answered 503", "attempt 6"]);
    assert_eq!(attio.asked("GET"), 6);
}

#[test]
fn create_with_unknown_outcome_is_not_retried() {
    let attio = Attio::start();
    attio.faults([on_post(Fault::StatusAfter(502))]);
    attio.faults((0..6).map(|_| Fault::Of(Method::DELETE, Box::new(Fault::Status(503)))));
    attio.webhooks(&CREATE).expect(1).mentions(&["answered 502", "it is unknown whether Attio did it"]);
    assert_eq!(attio.asked("POST"), 1);
    attio.only();
}

#[test]
fn webhook_of_an_unconfirmed_create_is_deleted_again() {
    let attio = Attio::start();
    for fault in [Fault::StatusAfter(502), Fault::StatusAfter(408), Fault::Late(Duration::from_secs(600))] {
        attio.faults([on_post(fault)]);
        let hasty = [("ATTIO_BRIDGE__ATTIO__TIMEOUT", "2s")];
        let ran = attio.with(&hasty, &CREATE).expect(1).mentions(&["anyway; it was deleted"]);
        assert!(!ran.stderr.contains("unknown whether"), "{}", ran.stderr);
        assert!(attio.store().webhooks.is_empty());
    }
    assert_eq!((attio.asked("POST"), attio.asked("DELETE")), (3, 3));
}

#[test]
fn older_webhook_is_kept_after_an_unconfirmed_create() {
    let attio = Attio::start();
    attio.add(URL, &[("record.created", Value::Null)]);
    attio.faults([on_post(Fault::StatusAfter(502))]);
    attio.webhooks(&CREATE).expect(1).mentions(&["it is unknown whether Attio did it"]);
    attio.only();
}

#[test]
fn long_retry_after_is_reported() {
    let attio = Attio::start();
    attio.faults([Fault::LimitedFor("3600".into())]);
    attio.webhooks(&["list"]).expect(1).mentions(&["asks to wait 3600 s"]);
}

#[test]
fn unreachable_api_url_is_named() {
    let url = format!("http://{}", free_address());
    let variables = [("ATTIO_API_KEY", "key"), ("ATTIO_BRIDGE__ATTIO__API_URL", url.as_str())];
    program(&["webhooks", "list"], &variables).expect(1).mentions(&[&url, "cannot be reached", "attempt 6"]);
}

#[test]
fn answer_that_is_not_attios_is_reported() {
    let attio = Attio::start();
    attio.faults([Fault::Status(404)]);
    attio.webhooks(&["list"]).expect(1).mentions(&["answered 404", "is attio.api_url right?"]);
}
