//! One log line a delivery, without secrets or bodies.

use std::sync::Arc;

use attio_bridge::pipeline::publish::PublishError;
use serde_json::{Value, json};

use crate::support::bridge::{Bridge, config};
use crate::support::buses::Broken;
use crate::support::canaries::Canaries;
use crate::support::fixtures;
use crate::support::logs::Logs;
use crate::support::memory::Answer;
use crate::support::request::{Request, SECRET, sign};
use crate::support::served::Served;
use crate::support::wait::eventually;

/// The log lines of these requests, in order.
async fn lines(bridge: &Bridge, requests: &[Request]) -> Vec<Value> {
    let logs = Logs::capture();
    for request in requests {
        bridge.ask(request).await;
    }
    logs.deliveries()
}

/// The fields of a line that the table names.
fn check(line: &Value, expected: &Value) {
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&line[field], value, "{field} of {line}");
    }
    assert!(line["duration_ms"].as_f64().unwrap() >= 0.0, "{line}");
}

#[tokio::test]
async fn each_delivery_logs_one_line_with_its_result() {
    let bridge = Bridge::with(|config| config.sources[0].filter.exclude.types = vec!["list.*".into()]).await;
    let body = r#"{"webhook_id":"w","events":[7,{"event_type":"list.deleted"},{"event_type":"x.y"}]}"#;
    let request = Request::keyed("k", body);
    let lines = lines(&bridge, &[request.clone(), request]).await;
    assert_eq!(lines.len(), 2);
    let line = |reason: &str, published: u8, duplicates: u8, quarantined: u8| {
        json!({"level": "INFO", "source": "attio", "reason": reason, "status": 200, "events": 3,
               "published": published, "duplicates": duplicates, "filtered": 1, "quarantined": quarantined,
               "delivery_id": "k", "webhook_id": "w", "secret": "default", "bytes": body.len()})
    };
    check(&lines[0], &line("accepted", 1, 0, 1));
    check(&lines[1], &line("duplicate", 0, 2, 0));
}

#[tokio::test]
async fn failed_delivery_logs_a_warning_with_the_broker_error() {
    let bridge = Bridge::start().await;
    bridge.bus.answer(Answer::Fail(PublishError::Refused { detail: "no topic attio.record".into() }));
    let lines = lines(&bridge, &[Request::keyed("k", fixtures::delivery("record.created"))]).await;
    check(&lines[0], &json!({"level": "WARN", "reason": "broker_refused", "status": 503, "published": 0}));
    assert!(lines[0]["error"].as_str().unwrap().contains("no topic attio.record"));
}

#[tokio::test]
async fn exact_reason_of_a_401_is_logged() {
    let bridge = Bridge::start().await;
    let requests = [
        Request::unsigned("{}"),
        Request::unsigned("{}").header("Attio-Signature", sign("x", &[])),
        Request::timestamped("1000000000", "{}"),
        Request::signed("{}").path("/webhooks/other"),
    ];
    let reasons =
        ["signature_missing", "signature_mismatch", "timestamp_outside_tolerance", "unknown_source"];
    let lines = lines(&bridge, &requests).await;
    assert_eq!(lines.len(), 4);
    for (line, reason) in lines.iter().zip(reasons) {
        let level = if reason == "unknown_source" { "INFO" } else { "WARN" };
        check(line, &json!({"level": level, "reason": reason, "left_out": 0}));
    }
    assert_eq!(lines[3]["source"], "none");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_is_logged_with_version_configuration_sources_bus_and_listeners() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let secret = "0123456789abcdef0123456789abcdef";
    let source = |name: &str, labels: &[&str]| {
        let secrets = labels.iter().map(|label| format!("{{ label = \"{label}\", value = \"{secret}\" }}"));
        format!("[sources.{name}]\nsecrets = [{}]\n", secrets.collect::<Vec<_>>().join(", "))
    };
    let text = format!(
        "[bus]\ntype = \"stdout\"\n[route]\nprefix = \"crm\"\n[dedup]\nwindow = \"1h\"\ncapacity = 90000\n{}{}",
        source("attio", &["a", "b"]),
        source("other", &["c"])
    );
    std::fs::write(&config, text).unwrap();
    let served = Served::start(&[("ATTIO_BRIDGE_CONFIG", config.to_str().unwrap())]);
    let lines = served.logged("starting");
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let expected = json!({
        "level": "INFO", "version": env!("CARGO_PKG_VERSION"), "config": config.to_str().unwrap(),
        "sources": "attio (2 secrets), other (1 secret)", "bus": "stdout", "prefix": "crm",
        "http": "127.0.0.1:0", "admin": "127.0.0.1:0"
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&line[field], value, "{field} of {line}");
    }
    let log = served.log().concat();
    assert!(!log.contains(secret) && !log.contains("\"WARN\""), "{log}");
    assert!(log.contains("dedup remembers every event of dedup.window"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dedup_memory_that_is_smaller_than_its_window_is_a_warning_with_figures() {
    let served = Served::start(&[("ATTIO_BRIDGE__BUS__TYPE", "stdout")]);
    let warned = served.log().into_iter().find(|line| line.contains("\"WARN\""));
    let warned = warned.expect("the default memory holds less than four days of 25 events/s");
    for part in [
        "250000 events",
        "2h 46m 40s at 25 events/s",
        "dedup.window (4days)",
        "2604 events per hour",
        "dedup.capacity to 8640000",
    ] {
        assert!(warned.contains(part), "{part}: {warned}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_logs_the_secret_label_the_dedup_result_and_the_route_of_each_event() {
    for level in ["info", "debug"] {
        let variables = [("ATTIO_BRIDGE__BUS__TYPE", "stdout"), ("ATTIO_BRIDGE__LOG__LEVEL", level)];
        let served = Served::start(&variables);
        let request = Request::keyed("k", fixtures::delivery("record.created"));
        for _ in 0..2 {
            assert_eq!(served.ask(&request).await.status, 200);
        }
        eventually("both are logged", || async { served.logged("delivery").len() == 2 }).await;
        let (verified, events) = (served.logged("signature verified"), served.logged("event"));
        if level == "info" {
            assert!(verified.is_empty() && events.is_empty());
            continue;
        }
        assert!(
            verified.len() == 2 && verified.iter().all(|line| line["secret"] == "default"),
            "{verified:?}"
        );
        let results: Vec<_> = events.iter().map(|line| line["dedup"].as_str().unwrap()).collect();
        assert_eq!(results, ["miss", "hit"]);
        for line in &events {
            assert_eq!(
                (&line["address"], &line["subject"]),
                (&json!("attio.record"), &json!("attio.record.created"))
            );
            assert_eq!(line["delivery_id"], "k");
        }
        let log = served.log().concat();
        assert!(!log.contains(SECRET) && !log.contains(&sign(SECRET, &[&request.body])), "{log}");
    }
}

#[tokio::test]
async fn log_lines_of_unauthenticated_requests_are_rate_limited_and_counted() {
    let bridge = Bridge::start().await;
    let logs = Logs::capture();
    let mut client = bridge.connect().await;
    for _ in 0..200 {
        client.ask(&Request::unsigned("{}")).await;
    }
    // Without a further request the suppressed lines are reported too.
    let reported =
        |logs: &Logs| logs.lines().iter().filter_map(|line| line["left_out"].as_u64()).sum::<u64>();
    let labels = [("source", "attio"), ("reason", "signature_missing")];
    let asked = bridge.metric("deliveries_total", &labels).await as u64;
    eventually("suppressed lines are reported", || async {
        logs.deliveries().len() as u64 + reported(&logs) == asked
    })
    .await;
    let written = logs.deliveries().len() as u64;
    for _ in 0..200 {
        client.ask(&Request::unsigned("{}")).await;
    }
    bridge.stop().await.unwrap();
    assert_eq!(
        logs.deliveries().len() as u64 + reported(&logs),
        400,
        "the last ones are reported at the stop"
    );
    assert!(written < 60, "{written} lines");
}

#[tokio::test]
async fn delivery_with_an_event_that_the_broker_rejected_is_a_warning_with_its_cause() {
    let bridge = Bridge::start().await;
    let logs = Logs::capture();
    bridge
        .bus
        .script([Answer::Fail(PublishError::Rejected { detail: "larger than the topic accepts".into() })]);
    let request = Request::keyed(
        "k",
        r#"{"webhook_id":"w","events":[{"event_type":"task.created","id":{"task_id":"t"}}]}"#,
    );
    assert_eq!(bridge.ask(&request).await.status_and_reason(), (200, "quarantined".into()));
    bridge.stop().await.unwrap();
    let line = &logs.deliveries()[0];
    assert_eq!(line["level"], "WARN", "{line}");
    assert!(
        line["error"].as_str().is_some_and(|error| error.contains("larger than the topic accepts")),
        "{line}"
    );
}

#[tokio::test]
async fn logs_metrics_and_answers_contain_no_secret_signature_or_body() {
    const CANARY: &str = "canary-3f9c80d2";
    let logs = Logs::capture();
    let body = format!(
        r#"{{"webhook_id":"w","events":[{{"event_type":"x.{CANARY}","id":{{"x_id":"{CANARY}"}},"s":"{CANARY}"}},"{CANARY}"]}}"#
    );
    let mut seen = String::new();
    let good = Bridge::start().await;
    let failing = Bridge::start().await;
    failing.bus.answer(Answer::Fail(PublishError::Rejected { detail: "too large".into() }));
    let broken = Bridge::over(Arc::new(Broken::Panics), config(&[])).await;
    let requests = [
        Request::keyed("k", &body),
        Request::keyed("k", format!("{CANARY} no JSON")),
        Request::unsigned(&body).header("Attio-Signature", CANARY),
        Request::unsigned(&body).header("Attio-Signature", sign("x", &[])),
        Request::keyed("k", &body).header("Authorization", CANARY).header("Cookie", CANARY),
        Request::keyed("k", &body).header("Content-Type", CANARY),
        Request::keyed("k", &body).path(&format!("/webhooks/{CANARY}?{CANARY}")),
        Request::timestamped(CANARY, &body),
    ];
    for request in &requests {
        for answer in [good.ask(request).await, failing.ask(request).await, broken.ask(request).await] {
            seen += &format!("{:?} {}\n", answer.headers, String::from_utf8_lossy(&answer.body));
        }
    }
    for metrics in
        [good.admin("/metrics").await, failing.admin("/metrics").await, broken.admin("/metrics").await]
    {
        seen += &String::from_utf8_lossy(&metrics.body);
    }
    // Other crates may log at TRACE what they read from a socket; the bridge may not.
    let ours =
        logs.text().lines().filter(|line| line.contains("attio_bridge")).collect::<Vec<_>>().join("\n");
    assert!(ours.contains("delivery"));
    seen += &ours;
    let signature = sign(SECRET, &[body.as_bytes()]);
    Canaries::new([CANARY, SECRET, &signature]).check("logs, metrics and answers", &seen);
}
