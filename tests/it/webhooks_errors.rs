//! How the client bears with Attio: its errors, its limits, and what is between here and there.

use std::time::Duration;

use attio_bridge::fake_attio::fault::Fault;
use hyper::Method;
use serde_json::Value;

use crate::support::attio::{Attio, program};
use crate::support::ports::free_address;

const URL: &str = "https://hooks.example.com/webhooks/attio";
const CREATE: [&str; 5] = ["create", "--target-url", URL, "--event", "record.created"];

/// Of the request that makes a webhook.
fn of_post(fault: Fault) -> Fault {
    Fault::Of(Method::POST, Box::new(fault))
}

#[test]
fn a_key_that_attio_does_not_know_is_told_apart_from_a_missing_scope() {
    let attio = Attio::start();
    let wrong = [("ATTIO_API_KEY", "another-key-entirely")];
    let refused = attio.with(&wrong, &["list"]).expect(1);
    let refused = refused.says(&["401 unauthorized", "GET /v2/self: not active", "x-attio-execution-id"]);
    assert!(!refused.stderr.contains("another-key-entirely"));
    attio.store().scopes.remove("webhook:read-write");
    attio.webhooks(&["list"]).expect(1).says(&[
        "403",
        "webhook:read",
        "the key is valid",
        "object_configuration:read",
    ]);
}

#[test]
fn without_a_key_nothing_is_asked() {
    program(&["webhooks", "list"], &[]).expect(78).says(&["ATTIO_API_KEY"]);
}

#[test]
fn the_key_is_not_sent_in_the_clear() {
    let variables = [("ATTIO_API_KEY", "key"), ("ATTIO_BRIDGE__ATTIO__API_URL", "http://api.example.com")];
    program(&["webhooks", "list"], &variables).expect(78).says(&["unencrypted"]);
}

#[test]
fn what_is_not_there_is_said() {
    let attio = Attio::start();
    let id = "c6a3a8a2-9d5d-4c19-8a1f-0c5b0f5a5d3e";
    for arguments in
        [&["get", id][..], &["update", id, "--event", "record.created"], &["delete", id, "--yes"]]
    {
        attio.webhooks(arguments).expect(1).says(&["404 not_found", id, "webhooks list"]);
    }
    attio.webhooks(&["get", "../self"]).expect(2).says(&["is not an id"]);
}

#[test]
fn a_conflict_says_what_is_unique() {
    let attio = Attio::start();
    let id = attio.add(URL, &[("record.created", Value::Null)]);
    attio.webhooks(&CREATE).expect(1).says(&["409 uniqueness_conflict", "webhooks list"]);
    let other = attio.add(&format!("{URL}?2"), &[("record.created", Value::Null)]);
    attio.webhooks(&["update", &other, "--target-url", URL]).expect(1).says(&["409 uniqueness_conflict"]);
    assert_eq!(attio.store().get(&id).unwrap().target_url, URL);
}

#[test]
fn a_limited_request_is_sent_again_when_attio_says() {
    let attio = Attio::start();
    let limits = [Fault::Limited, Fault::LimitedFor("1".into()), Fault::LimitedFor("soon".into())];
    attio.faults(limits.map(of_post));
    attio.webhooks(&CREATE).expect(0).says(&["429 rate_limit_exceeded", "retrying in"]);
    assert_eq!(attio.asked("POST"), 4);
    attio.only();
    // The budget of the second itself, not an order of the test.
    attio.store().rate.writes = 1;
    for _ in 0..3 {
        attio.webhooks(&["update", &attio.only().webhook_id, "--event", "note.created"]).expect(0);
    }
}

#[test]
fn what_may_be_repeated_is_repeated() {
    let attio = Attio::start();
    let id = attio.add(URL, &[("record.created", Value::Null)]);
    attio.faults([Fault::Status(502), Fault::Status(503)]);
    attio.webhooks(&["list"]).expect(0).says(&["answered 502"]);
    attio.faults([Fault::StatusAfter(504)]);
    attio.webhooks(&["update", &id, "--event", "note.created"]).expect(0);
    assert_eq!(attio.asked("PATCH"), 2);
    // The first try has deleted it; the second finds nothing, and that is what was asked for.
    attio.faults([Fault::StatusAfter(502)]);
    attio.webhooks(&["delete", &id, "--yes"]).expect(0);
    assert_eq!(attio.asked("DELETE"), 2);
}

#[test]
fn a_timeout_is_tried_again() {
    let attio = Attio::start();
    attio.faults([Fault::Hang(Duration::from_secs(600))]);
    let hasty = [("ATTIO_BRIDGE__ATTIO__TIMEOUT", "2s")];
    attio.with(&hasty, &["list"]).expect(0).says(&["no answer within 2s"]);
}

#[test]
fn trouble_that_stays_is_a_failure() {
    let attio = Attio::start();
    attio.faults(std::iter::repeat_n(Fault::Status(503), 20));
    attio.webhooks(&["list"]).expect(1).says(&["answered 503", "attempt 6"]);
    assert_eq!(attio.asked("GET"), 6);
}

#[test]
fn a_create_that_may_have_happened_is_not_sent_again() {
    let attio = Attio::start();
    attio.faults([of_post(Fault::StatusAfter(502))]);
    attio.faults((0..6).map(|_| Fault::Of(Method::DELETE, Box::new(Fault::Status(503)))));
    attio.webhooks(&CREATE).expect(1).says(&["answered 502", "it is unknown whether Attio did it"]);
    assert_eq!(attio.asked("POST"), 1);
    attio.only();
}

/// Nobody has the secret of what Attio made and did not say.
#[test]
fn what_was_made_unheard_is_deleted_again() {
    let attio = Attio::start();
    for fault in [Fault::StatusAfter(502), Fault::StatusAfter(408), Fault::Late(Duration::from_secs(600))] {
        attio.faults([of_post(fault)]);
        let hasty = [("ATTIO_BRIDGE__ATTIO__TIMEOUT", "2s")];
        let told = attio.with(&hasty, &CREATE).expect(1).says(&["all the same: it is deleted again"]);
        assert!(!told.stderr.contains("unknown whether"), "{}", told.stderr);
        assert!(attio.store().webhooks.is_empty());
    }
    assert_eq!((attio.asked("POST"), attio.asked("DELETE")), (3, 3));
}

/// What was there before is somebody's, though it is just what was asked for.
#[test]
fn what_was_there_before_stays_whatever_is_heard() {
    let attio = Attio::start();
    attio.add(URL, &[("record.created", Value::Null)]);
    attio.faults([of_post(Fault::StatusAfter(502))]);
    attio.webhooks(&CREATE).expect(1).says(&["it is unknown whether Attio did it"]);
    attio.only();
}

#[test]
fn how_long_attio_asks_to_wait_is_said() {
    let attio = Attio::start();
    attio.faults([Fault::LimitedFor("3600".into())]);
    attio.webhooks(&["list"]).expect(1).says(&["asks to wait 3600 s"]);
}

#[test]
fn an_address_that_nobody_listens_on_is_named() {
    let url = format!("http://{}", free_address());
    let variables = [("ATTIO_API_KEY", "key"), ("ATTIO_BRIDGE__ATTIO__API_URL", url.as_str())];
    program(&["webhooks", "list"], &variables).expect(1).says(&[&url, "cannot be reached", "attempt 6"]);
}

#[test]
fn what_is_not_attio_is_told_so() {
    let attio = Attio::start();
    attio.faults([Fault::Status(404)]);
    attio.webhooks(&["list"]).expect(1).says(&["answered 404", "is attio.api_url right?"]);
}
