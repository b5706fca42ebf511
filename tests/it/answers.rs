//! The answer table over real sockets: the response and the metrics of each result.

use std::sync::Arc;
use std::time::Duration;

use attio_bridge::config::Config;
use attio_bridge::pipeline::outcome::Reason;
use attio_bridge::pipeline::publish::{Bus, PublishError};
use attio_bridge::pipeline::verify::Scheme;
use attio_bridge::store;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::bridge::{Bridge, config};
use crate::support::buses::Broken;
use crate::support::client::{Client, Response};
use crate::support::fixtures;
use crate::support::logs::Logs;
use crate::support::memory::Answer;
use crate::support::ports::free_address;
use crate::support::request::{Request, sign};
use crate::support::wait::eventually;

const RECORD: &str =
    r#"{"event_type":"record.created","id":{"workspace_id":"w","object_id":"o","record_id":"r"}}"#;
const EMPTY: &str = r#"{"webhook_id":"w","events":[]}"#;

/// The table of the contract: status, whether there is a Retry-After, whether the connection is closed. (The bridge
/// may close more connections than it must.)
fn expected(reason: Reason) -> (u16, bool, bool) {
    match reason {
        Reason::Accepted | Reason::Quarantined | Reason::Duplicate | Reason::Filtered | Reason::Empty => {
            (200, false, false)
        }
        Reason::SignatureMissing
        | Reason::SignatureMalformed
        | Reason::SignatureMismatch
        | Reason::TimestampMissing
        | Reason::TimestampMalformed
        | Reason::TimestampOutsideTolerance => (401, false, false),
        Reason::UnknownSource => (404, false, false),
        Reason::MethodNotAllowed => (405, false, false),
        Reason::BodyTimeout => (408, false, true),
        Reason::BodyTooLarge => (413, false, false),
        Reason::HeadersTooLarge => (431, false, false),
        Reason::UnsupportedMediaType => (415, false, false),
        Reason::BadFraming => (400, false, true),
        Reason::Overloaded => (503, true, false),
        Reason::Draining => (503, true, true),
        Reason::BrokerUnavailable | Reason::BrokerTimeout | Reason::BrokerRefused => (503, true, false),
        Reason::StoreUnavailable => (503, true, false),
        Reason::Internal => (500, false, false),
    }
}

/// Checks everything about an answer that its reason decides.
pub fn check(reason: Reason, response: &Response) {
    let (status, retry, close) = expected(reason);
    assert_eq!(response.status, status, "{reason:?}: {response:?}");
    let slug = match status {
        401 => "unauthorized",
        _ => reason.slug(),
    };
    let body = response.json();
    assert_eq!(body["reason"], slug, "{reason:?}");
    if status == 200 {
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(body["received"], true);
    } else {
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        assert_eq!(body["type"], "about:blank");
        assert_eq!(body["status"], status);
        assert!(!body["title"].as_str().unwrap().is_empty());
        assert!(!body["error"].as_str().unwrap().is_empty());
        assert_eq!(body.as_object().unwrap().len(), 5, "{body}");
    }
    if status == 401 {
        assert_eq!(body["error"], "Invalid signature", "every 401 has the same text");
    }
    assert_eq!(response.header("www-authenticate"), (status == 401).then_some("Attio-Signature"));
    assert_eq!(response.header("allow"), (status == 405).then_some("POST"));
    match response.header("retry-after") {
        None => assert!(!retry, "{reason:?} has a Retry-After"),
        Some(seconds) => {
            assert!(retry, "{reason:?} must have no Retry-After");
            assert!((1..=30).contains(&seconds.parse::<u32>().unwrap()), "{reason:?}: {seconds}");
            assert!(seconds.bytes().all(|byte| byte.is_ascii_digit()));
        }
    }
    if close {
        assert!(response.closes(), "{reason:?} closes the connection: {response:?}");
    }
}

/// Makes a bridge answer a delivery with that reason.
async fn provoke(reason: Reason) -> (Response, Bridge) {
    let bridge = Bridge::with(|config| prepare(reason, config)).await;
    let fail = |error: PublishError| bridge.bus.answer(Answer::Fail(error));
    let good = Request::keyed("k", RECORD);
    let request = match reason {
        Reason::Accepted | Reason::Filtered | Reason::StoreUnavailable => good,
        Reason::Quarantined => Request::signed("no JSON"),
        Reason::Duplicate => {
            assert_eq!(bridge.ask(&good).await.status_and_reason(), (200, "accepted".into()));
            good
        }
        Reason::Empty => Request::signed(EMPTY),
        Reason::SignatureMissing => Request::unsigned(RECORD),
        Reason::SignatureMalformed => Request::unsigned(RECORD).header("Attio-Signature", "sha256=x"),
        Reason::SignatureMismatch => Request::unsigned(RECORD).header("Attio-Signature", sign("x", &[])),
        Reason::TimestampMissing => good,
        Reason::TimestampMalformed => Request::timestamped("soon", RECORD),
        Reason::TimestampOutsideTolerance => Request::timestamped("1000000000", RECORD),
        Reason::UnknownSource => good.path("/webhooks/other"),
        Reason::MethodNotAllowed => good.method("PUT"),
        Reason::BodyTimeout => {
            let mut client = bridge.connect().await;
            client.write(&good.head()).await;
            return (client.receive().await, bridge);
        }
        Reason::BodyTooLarge => Request::signed(vec![b' '; 524_289]),
        Reason::HeadersTooLarge => good.header("X-Filler", vec![b'x'; 16_384]),
        Reason::UnsupportedMediaType => good.without("Content-Type").header("Content-Type", "text/plain"),
        Reason::BadFraming => good.header("Host", "another.test"),
        Reason::Overloaded => {
            bridge.bus.answer(Answer::Hang);
            bridge.connect().await.send(&good).await;
            eventually("the first delivery hangs", || async { bridge.bus.waiting() == 1 }).await;
            Request::keyed("other", RECORD)
        }
        Reason::Draining => {
            let mut client = waiting_client(&bridge).await;
            bridge.begin_stop();
            refused(&bridge).await;
            return (client.ask(&good).await, bridge);
        }
        Reason::BrokerUnavailable => {
            fail(PublishError::Unavailable { detail: "down".into() });
            good
        }
        Reason::BrokerTimeout => {
            fail(PublishError::Timeout { detail: "slow".into() });
            good
        }
        Reason::BrokerRefused => {
            fail(PublishError::Refused { detail: "no topic".into() });
            good
        }
        Reason::Internal => {
            fail(PublishError::Abandoned);
            good
        }
    };
    (bridge.ask(&request).await, bridge)
}

/// The configuration that a reason needs.
fn prepare(reason: Reason, config: &mut Config) {
    match reason {
        Reason::Filtered => config.sources[0].filter.exclude.types = vec!["record.*".into()],
        Reason::TimestampMissing => config.sources[0].verify.scheme = Scheme::Timestamped,
        Reason::BodyTimeout => config.http.body_timeout = Duration::from_millis(100),
        Reason::Overloaded => config.http.max_in_flight = 1,
        Reason::StoreUnavailable => config.store = store_that_is_away(),
        _ => {}
    }
}

/// A store without which nothing is to be published, where nothing listens.
fn store_that_is_away() -> Option<store::Options> {
    let url = format!("redis://{}", free_address());
    let variables = [
        ("ATTIO_BRIDGE__DEDUP__STORE", "redis"),
        ("ATTIO_BRIDGE__DEDUP__REDIS__URL", &*url),
        ("ATTIO_BRIDGE__DEDUP__ON_STORE_FAILURE", "refuse"),
    ];
    crate::support::bridge::config(&variables).store
}

/// A client whose connection was accepted and that has sent nothing.
pub async fn waiting_client<B: Bus>(bridge: &Bridge<B>) -> Client {
    let client = bridge.connect().await;
    // Connections are accepted in order: one that is served after it proves it.
    bridge.ask(&Request::unsigned("")).await;
    client
}

/// Waits until the bridge refuses connections.
pub async fn refused<B: Bus>(bridge: &Bridge<B>) {
    eventually("connections are refused", || async { TcpStream::connect(bridge.http).await.is_err() }).await;
}

#[tokio::test]
async fn every_reason_has_its_answer_and_its_counter() {
    for reason in Reason::ALL {
        let (response, bridge) = provoke(reason).await;
        check(reason, &response);
        let source = if reason == Reason::UnknownSource { "none" } else { "attio" };
        let labels = [("source", source), ("reason", reason.slug())];
        if reason == Reason::Draining {
            // The admin listener stops too; `life` tests this counter during a drain.
            continue;
        }
        let scrape = bridge.metrics().await;
        assert_eq!(scrape.get("deliveries_total", &labels), 1.0, "{reason:?}");
        assert_eq!(scrape.sum("deliveries_total", &[("reason", reason.slug())]), 1.0, "{reason:?}");
        let first = if reason == Reason::Duplicate { 1.0 } else { 0.0 };
        assert_eq!(scrape.sum("deliveries_total", &[]), 1.0 + first, "{reason:?}");
        assert!(scrape.balances(), "{reason:?}");
    }
}

#[tokio::test]
async fn signature_verifications_are_counted_by_secret_and_result() {
    for reason in Reason::ALL.into_iter().filter(|reason| reason.is_of_signature()) {
        let (_, bridge) = provoke(reason).await;
        let scrape = bridge.metrics().await;
        let labels = [("source", "attio"), ("secret", "none"), ("result", reason.slug())];
        assert_eq!(scrape.get("signature_verifications_total", &labels), 1.0, "{reason:?}");
        assert_eq!(scrape.sum("signature_verifications_total", &[]), 1.0, "{reason:?}");
        assert_eq!(scrape.sum("events_received_total", &[]), 0.0, "{reason:?}");
        assert_eq!(bridge.bus.attempts(), 0, "{reason:?} reaches no bus");
    }
    let (_, bridge) = provoke(Reason::Accepted).await;
    let labels = [("source", "attio"), ("secret", "default"), ("result", "ok")];
    assert_eq!(bridge.metric("signature_verifications_total", &labels).await, 1.0);
}

#[tokio::test]
async fn answer_200_counts_events_by_result() {
    let bridge = Bridge::with(|config| {
        config.sources[0].filter.exclude.types = vec!["list.deleted".into()];
    })
    .await;
    let body = format!(
        r#"{{"webhook_id":"w","events":[{RECORD},{{"event_type":"list.deleted"}},7,{{"event_type":"task.created"}}]}}"#
    );
    let ask = || Request::keyed("k", &body);
    let first = bridge.ask(&ask()).await;
    let counts = |reason: &str, published: u32, duplicates: u32, quarantined: u32| {
        json!({"received": true, "reason": reason, "events": 4, "published": published,
               "duplicates": duplicates, "filtered": 1, "quarantined": quarantined})
    };
    assert_eq!(first.json(), counts("accepted", 2, 0, 1));
    assert_eq!(bridge.ask(&ask()).await.json(), counts("duplicate", 0, 3, 0));
    let text = String::from_utf8(first.body).unwrap();
    assert!(text.starts_with(r#"{"received":true,"reason":"accepted","events":4"#), "{text}");
}

#[tokio::test]
async fn mixed_delivery_has_the_first_success_reason_that_applies() {
    const UNUSABLE: &str = "7";
    const FILTERED: &str = r#"{"event_type":"list.deleted"}"#;
    const KNOWN: &str = r#"{"event_type":"task.created","id":{"event_id":"known"}}"#;
    let table: [(&[&str], &str); 8] = [
        (&[FILTERED, KNOWN, UNUSABLE, RECORD], "accepted"),
        (&[FILTERED, RECORD], "accepted"),
        (&[KNOWN, RECORD], "accepted"),
        (&[FILTERED, KNOWN, UNUSABLE], "quarantined"),
        (&[FILTERED, KNOWN], "duplicate"),
        (&[KNOWN], "duplicate"),
        (&[FILTERED, FILTERED], "filtered"),
        (&[], "empty"),
    ];
    for (events, reason) in table {
        let bridge = Bridge::with(|config| {
            config.sources[0].filter.exclude.types = vec!["list.deleted".into()];
        })
        .await;
        bridge.ask(&Request::signed(KNOWN)).await;
        let body = format!(r#"{{"webhook_id":"w","events":[{}]}}"#, events.join(","));
        assert_eq!(
            bridge.ask(&Request::keyed("k", body)).await.status_and_reason(),
            (200, reason.into()),
            "{events:?}"
        );
    }
}

#[tokio::test]
async fn one_failed_event_fails_the_answer_and_internal_precedes_broker_reasons() {
    let unavailable = PublishError::Unavailable { detail: "x".into() };
    let timeout = PublishError::Timeout { detail: "x".into() };
    let refused = PublishError::Refused { detail: "x".into() };
    let busy = PublishError::Busy { detail: "x".into() };
    let fail = |error: &PublishError| Answer::Fail(error.clone());
    let table = [
        (vec![Answer::Acknowledge, fail(&timeout), Answer::Acknowledge], (503, "broker_timeout")),
        (vec![fail(&timeout), fail(&unavailable), Answer::Acknowledge], (503, "broker_unavailable")),
        (vec![fail(&refused), fail(&timeout), Answer::Acknowledge], (503, "broker_timeout")),
        (vec![fail(&unavailable), fail(&PublishError::Abandoned), fail(&refused)], (500, "internal")),
        (vec![fail(&busy), Answer::Acknowledge, Answer::Acknowledge], (503, "overloaded")),
        (vec![fail(&busy), fail(&refused), Answer::Acknowledge], (503, "broker_refused")),
    ];
    for (script, (status, reason)) in table {
        let bridge = Bridge::start().await;
        bridge.bus.script(script.clone());
        let body = format!(r#"{{"webhook_id":"w","events":[{RECORD},{RECORD},{RECORD}]}}"#);
        let answer = bridge.ask(&Request::keyed("k", body)).await.status_and_reason();
        assert_eq!(answer, (status, reason.into()), "{script:?}");
        assert!(bridge.metrics().await.balances());
    }
}

#[tokio::test]
async fn bus_that_panics_or_drops_its_handle_is_500_and_the_metrics_balance() {
    for broken in [Broken::Panics, Broken::DropsItsHandle] {
        let bridge = Bridge::over(Arc::new(broken), config(&[])).await;
        let mut client = bridge.connect().await;
        for round in 1..=3u8 {
            // The same key each time: a lost in-flight entry must not block the next delivery.
            let response = client.ask(&Request::keyed("k", fixtures::delivery("edge/batch-of-three"))).await;
            check(Reason::Internal, &response);
            let scrape = bridge.metrics().await;
            let labels = [("source", "attio"), ("reason", "internal")];
            assert_eq!(scrape.get("deliveries_total", &labels), f64::from(round), "{broken:?}");
            assert_eq!(scrape.get("events_received_total", &[("source", "attio")]), 3.0 * f64::from(round));
            assert_eq!(scrape.sum("events_total", &[("result", "failed")]), 3.0 * f64::from(round));
            assert_eq!(scrape.get("events_in_flight", &[]), 0.0, "{broken:?}");
            assert_eq!(scrape.sum("publish_in_flight", &[]), 0.0, "{broken:?}");
            assert!(scrape.sum("publish_attempts_total", &[("result", "abandoned")]) > 0.0, "{broken:?}");
        }
    }
}

#[tokio::test]
async fn both_paths_reach_a_source_and_the_query_is_ignored() {
    let bridge = Bridge::start().await;
    let table = [
        ("/webhooks/attio", 200),
        ("/api/webhooks/attio", 200),
        ("/webhooks/attio?source=other&x=%00", 200),
        ("/api/webhooks/attio?", 200),
        ("/webhooks/other", 404),
        ("/webhooks/", 404),
        ("/webhooks", 404),
        ("/webhooks/attio/", 404),
        ("/webhooks/attio/more", 404),
        ("/webhooks/ATTIO", 404),
        ("/webhooks/none", 404),
        ("/webhooks//attio", 404),
        ("/api/api/webhooks/attio", 404),
        ("/", 404),
        ("/metrics", 404),
        ("/livez", 404),
        ("/readyz", 404),
    ];
    let mut unknown = 0.0;
    for (path, status) in table {
        let response = bridge.ask(&Request::signed(EMPTY).path(path)).await;
        assert_eq!(response.status, status, "{path}");
        unknown += f64::from(u8::from(status == 404));
    }
    let labels = [("source", "none"), ("reason", "unknown_source")];
    assert_eq!(bridge.metric("deliveries_total", &labels).await, unknown);
}

#[tokio::test]
async fn another_spelling_of_a_webhook_path_is_404_and_names_the_right_path() {
    let bridge = Bridge::start().await;
    let logs = Logs::capture();
    let near = [
        "/webhooks/attio/",
        "/webhooks/attio//",
        "/webhooks//attio",
        "//webhooks/attio",
        "/webhooks/attio/?x=1",
        "/webhooks/ATTIO",
        "/Webhooks/attio",
        "/webhooks/%61ttio",
        "/webhooks/attio%20",
        "/webhook/attio",
        "/attio",
        "/prefix/webhooks/attio",
        "/webhooks/attio/more",
        "/api/webhooks/attio/",
    ];
    for path in near {
        let response = bridge.ask(&Request::signed(EMPTY).path(path)).await;
        check(Reason::UnknownSource, &response);
        let error = response.json()["error"].as_str().unwrap().to_owned();
        assert!(error.ends_with("exactly /webhooks/attio"), "{path}: {error}");
    }
    let told = |line: &Value| {
        line["level"] == "WARN"
            && line["error"].as_str().is_some_and(|error| error.contains("exactly /webhooks/attio"))
    };
    assert!(logs.deliveries().iter().any(told), "{}", logs.text());
    let labels = [("source", "none"), ("reason", "unknown_source")];
    assert_eq!(bridge.metric("deliveries_total", &labels).await, near.len() as f64);
    for path in ["/webhooks/other/", "/", "/webhooks/attioo", "/wp-login.php"] {
        let response = bridge.ask(&Request::signed(EMPTY).path(path)).await;
        assert!(!String::from_utf8(response.body).unwrap().contains("attio"), "{path}");
    }
}

#[tokio::test]
async fn equal_idempotency_keys_of_one_request_are_one_and_an_empty_one_is_none() {
    let bridge = Bridge::start().await;
    let ask = async |keys: &[&str]| {
        let request = Request::signed(RECORD);
        let request = keys.iter().fold(request, |request, key| request.header("Idempotency-Key", *key));
        bridge.ask(&request).await.reason()
    };
    assert_eq!(ask(&["k"]).await, "accepted");
    for keys in [&["k", "k"][..], &["k", "\"k\""], &["k, k"], &["", "k"], &["k", "k", "k"], &["\"k\", k"]] {
        assert_eq!(ask(keys).await, "duplicate", "{keys:?}");
    }
    let labels = [("source", "attio")];
    assert_eq!(bridge.metric("identity_missing_total", &labels).await, 0.0);
    let ambiguous = [&["k", "j"][..], &["k, j"], &["k", "K"], &["k", "\u{e9}"], &[""]];
    for (count, keys) in (1u8..).zip(ambiguous) {
        assert_eq!(ask(keys).await, "accepted", "{keys:?}");
        assert_eq!(bridge.metric("identity_missing_total", &labels).await, f64::from(count), "{keys:?}");
    }
}

#[tokio::test]
async fn a_refused_head_request_has_no_body() {
    let bridge = Bridge::start().await;
    let filler = format!("HEAD /webhooks/attio HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(20_000));
    let table = [
        ("HEAD /webhooks/attio HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("HEAD /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("HEAD /webhooks/attio HTTP/1.1\r\n\r\n", 400),
        ("HEAD /webhooks/attio HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        ("HEAD /webhooks/attio HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\n", 413),
        ("HEAD  /webhooks/attio HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (&filler, 431),
    ];
    for (request, status) in table {
        let mut stream = TcpStream::connect(bridge.http).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.60}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{request:.60}: {answer}");
    }
}

#[tokio::test]
async fn a_length_up_to_and_beyond_64_bits_is_413_and_counted() {
    let bridge = Bridge::start().await;
    let lengths = [
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551613",
        "18446744073709551614",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999",
        "000018446744073709551615",
    ];
    for length in lengths {
        let mut client = bridge.connect().await;
        client.write(&Request::signed(EMPTY).header("Content-Length", length).head()).await;
        let answer = client.receive().await;
        check(Reason::BodyTooLarge, &answer);
    }
    let labels = [("source", "attio"), ("reason", "body_too_large")];
    assert_eq!(bridge.metric("deliveries_total", &labels).await, lengths.len() as f64);
}

#[tokio::test]
async fn answers_during_shutdown_delay_close_their_connections() {
    let bridge = Bridge::with(|config| config.shutdown.delay = Duration::from_secs(3600)).await;
    let mut client = bridge.connect().await;
    let answer = client.ask(&Request::keyed("a", RECORD)).await;
    assert!(!answer.closes());
    bridge.begin_stop();
    eventually("it is unready", || async { bridge.admin("/readyz").await.status == 503 }).await;
    let answer = client.ask(&Request::keyed("b", RECORD)).await;
    assert_eq!(answer.status_and_reason(), (200, "accepted".into()));
    assert!(answer.closes());
    client.closed().await;
    let others = [Request::keyed("c", RECORD), Request::unsigned(RECORD), Request::signed(RECORD).path("/x")];
    for request in others {
        let mut client = bridge.connect().await;
        assert!(client.ask(&request).await.closes());
        client.closed().await;
    }
}

#[tokio::test]
async fn the_admin_listener_lists_its_paths() {
    let with_page = Bridge::start().await;
    let without = Bridge::with(|config| config.admin.page = false).await;
    let all: &[&str] = &["/livez", "/readyz", "/metrics", "/", "/deliveries"];
    for (bridge, path, status, paths) in [
        (&with_page, "/nowhere", 404, all),
        (&without, "/nowhere", 404, &all[..3]),
        (&without, "/", 200, &all[..3]),
    ] {
        let answer = bridge.admin(path).await;
        let text = String::from_utf8(answer.body).unwrap();
        assert_eq!(answer.status, status);
        let listed: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(listed, paths, "{path}");
        // A stream has no end.
        for path in listed.into_iter().filter(|path| *path != "/deliveries") {
            assert_ne!(bridge.admin(path).await.status, 404, "{path}");
        }
    }
}

#[tokio::test]
async fn content_type_other_than_json_or_any_content_encoding_is_415() {
    let bridge = Bridge::start().await;
    let ask = |name: &'static str, values: &'static [&'static str]| {
        let mut request = Request::signed(EMPTY).without(name);
        for value in values {
            request = request.header(name, value);
        }
        let bridge = &bridge;
        async move { bridge.ask(&request).await.status }
    };
    let types: [(&[&str], u16); 21] = [
        (&[], 200),
        (&["application/json"], 200),
        (&["application/json; charset=utf-8"], 200),
        (&["APPLICATION/JSON"], 200),
        (&["application/json;charset=\"utf-8\""], 200),
        (&["application/cloudevents+json"], 200),
        (&["application/vnd.attio.v2+json; v=2"], 200),
        (&["text/plain"], 415),
        (&["application/x-www-form-urlencoded"], 415),
        (&["application/jsonp"], 415),
        (&["application/json-seq"], 415),
        (&["json"], 415),
        (&[""], 200),
        (&[" "], 200),
        (&["application/json", "application/json"], 200),
        (&["application/json, application/json"], 200),
        (&["", "application/json"], 200),
        (&["", "text/plain"], 415),
        (&["text/html, application/json"], 415),
        (&["application/json", "text/plain"], 415),
        (&["application/xml;a=application/json"], 415),
    ];
    for (values, status) in types {
        assert_eq!(ask("Content-Type", values).await, status, "{values:?}");
    }
    let encodings: [(&[&str], u16); 11] = [
        (&[], 200),
        (&[""], 200),
        (&["identity"], 200),
        (&["identity", "identity"], 200),
        (&["identity, identity"], 200),
        (&["", "gzip"], 415),
        (&["Identity"], 200),
        (&["gzip"], 415),
        (&["identity, gzip"], 415),
        (&["identity", "br"], 415),
        (&["zstd"], 415),
    ];
    for (values, status) in encodings {
        assert_eq!(ask("Content-Encoding", values).await, status, "{values:?}");
    }
}

#[tokio::test]
async fn methods_other_than_post_are_405() {
    let bridge = Bridge::start().await;
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"] {
        let response = bridge.ask(&Request::signed(EMPTY).method(method)).await;
        check(Reason::MethodNotAllowed, &response);
    }
    let mut client = bridge.connect().await;
    client.write(b"GET /webhooks/attio HTTP/1.1\r\nHost: x\r\n\r\n").await;
    check(Reason::MethodNotAllowed, &client.receive().await);
}

#[tokio::test]
async fn chunked_body_is_accepted() {
    let bridge = Bridge::start().await;
    let mut client = bridge.connect().await;
    for (at, size) in [1, 7, 100, 1 << 20].into_iter().enumerate() {
        let request = Request::keyed(&format!("k{at}"), RECORD).chunked(size);
        assert_eq!(
            client.ask(&request).await.status_and_reason(),
            (200, "accepted".into()),
            "chunks of {size}"
        );
    }
    assert!(client.ask(&Request::keyed("k0", RECORD)).await.status_and_reason() == (200, "duplicate".into()));
}

#[tokio::test]
async fn expect_100_continue_is_answered_100_only_if_the_head_is_accepted() {
    let bridge = Bridge::start().await;
    let good = Request::keyed("k", RECORD).header("Expect", "100-continue");
    let mut client = bridge.connect().await;
    client.write(&good.head()).await;
    assert_eq!(client.receive().await.status, 100);
    client.write(&good.framed_body()).await;
    assert_eq!(client.receive().await.status_and_reason(), (200, "accepted".into()));

    let unwanted = good.path("/webhooks/other");
    let mut client = bridge.connect().await;
    client.write(&unwanted.head()).await;
    assert_eq!(client.receive().await.status, 404);
}

#[tokio::test]
async fn body_of_max_body_bytes_is_accepted_and_one_byte_more_is_413() {
    let bridge = Bridge::start().await;
    let limit = 524_288;
    let body = |length: usize| {
        let mut body = EMPTY.as_bytes().to_vec();
        body.resize(length, b' ');
        body
    };
    for chunks in [None, Some(limit), Some(65_536), Some(1_000)] {
        for (length, status) in [(limit, 200), (limit + 1, 413)] {
            let mut request = Request::signed(body(length));
            request.chunk = chunks;
            let response = bridge.ask(&request).await;
            assert_eq!(response.status, status, "{length} bytes, chunks of {chunks:?}");
        }
    }
    // The length alone is refused, without waiting for the body.
    let mut client = bridge.connect().await;
    let request = Request::signed(EMPTY).header("Content-Length", "99999999999999999999999");
    client.write(&request.head()).await;
    let status = client.receive().await.status;
    assert!(matches!(status, 400 | 413), "{status}");
}

#[tokio::test]
async fn head_above_max_header_bytes_or_max_fields_is_431() {
    let bridge = Bridge::start().await;
    let base = Request::keyed("k", RECORD);
    let fields =
        |count: usize| (0..count).fold(base.clone(), |request, at| request.header(&format!("X-{at}"), "y"));
    let table = [
        ("one large field", base.clone().header("X-Filler", vec![b'x'; 15_000]), 200),
        ("one too large field", base.clone().header("X-Filler", vec![b'x'; 16_384]), 431),
        ("a long query", base.clone().path(&format!("/webhooks/attio?{}", "q".repeat(16_384))), 431),
        ("more than hyper reads", base.clone().header("X-Filler", vec![b'x'; 60_000]), 431),
        ("many fields", fields(90), 200),
        ("too many fields", fields(150), 431),
    ];
    for (what, request, status) in table {
        let mut client = bridge.connect().await;
        let response = client.ask(&request).await;
        assert_eq!(response.status, status, "{what}");
        if status == 431 {
            client.closed().await;
        }
    }
}

#[tokio::test]
async fn keep_alive_connection_serves_many_deliveries() {
    let bridge = Bridge::start().await;
    let mut client = bridge.connect().await;
    for (name, body) in fixtures::deliveries() {
        let response = client.ask(&Request::keyed(&name, body)).await;
        assert_eq!(response.status, 200, "{name}");
        assert!(!response.closes());
    }
    // Refusals keep the connection too, unless they must close it.
    for request in [
        Request::unsigned(RECORD),
        Request::signed(RECORD).path("/nowhere"),
        Request::signed(RECORD).method("PUT"),
        Request::signed(RECORD).header("Content-Encoding", "gzip"),
    ] {
        assert!((400..500).contains(&client.ask(&request).await.status));
    }
    assert_eq!(client.ask(&Request::signed(EMPTY)).await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let bridge = Bridge::start().await;
    let mut client = bridge.connect().await;
    let both = [Request::keyed("a", RECORD).bytes(), Request::signed(EMPTY).bytes()].concat();
    client.write(&both).await;
    assert_eq!(client.receive().await.reason(), "accepted");
    assert_eq!(client.receive().await.reason(), "empty");
}

#[tokio::test]
async fn refused_request_keeps_its_connection_or_sends_connection_close() {
    let bridge = Bridge::with(|config| config.http.max_in_flight = 1).await;
    bridge.bus.answer(Answer::Hang);
    bridge.connect().await.send(&Request::keyed("hangs", RECORD)).await;
    eventually("no permit is left", || async { bridge.bus.waiting() == 1 }).await;
    let mut kept = 0;
    for size in [0, 1, 1_000, 60_000, 100_000, 500_000] {
        let body = vec![b' '; size];
        for request in [
            Request::signed(&body),
            Request::signed(&body).path("/nowhere"),
            Request::signed(&body).method("PUT"),
            Request::signed(&body).header("Content-Encoding", "gzip"),
            Request::signed(&body).chunked(10_000),
        ] {
            let mut client = bridge.connect().await;
            // The body is sent separately, as many clients do.
            client.write(&request.head()).await;
            tokio::task::yield_now().await;
            client.write(&request.framed_body()).await;
            let answer = client.try_receive().await.unwrap_or_else(|| panic!("{size} bytes: no answer"));
            assert!(matches!(answer.status, 404 | 405 | 415 | 503), "{answer:?}");
            if answer.closes() {
                client.closed().await;
            } else {
                kept += 1;
                assert_eq!(
                    client.ask(&Request::unsigned("").path("/nowhere")).await.status,
                    404,
                    "{size} bytes"
                );
            }
        }
    }
    // All 20 with a small body, unless the machine is very slow.
    assert!((10..=20).contains(&kept), "{kept}");
}

#[tokio::test]
async fn refused_request_is_answered_without_its_body() {
    let bridge = Bridge::with(|config| config.http.body_timeout = Duration::from_secs(3600)).await;
    for request in [
        Request::signed(RECORD).path("/nowhere"),
        Request::signed(RECORD).header("Expect", "100-continue").method("PUT"),
        Request::signed(RECORD).header("Content-Encoding", "gzip").chunked(10),
    ] {
        let mut client = bridge.connect().await;
        client.write(&request.head()).await;
        let answer = client.receive().await;
        assert!((400..500).contains(&answer.status) && answer.closes(), "{answer:?}");
        client.closed().await;
    }
}
