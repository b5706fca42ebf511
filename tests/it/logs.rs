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
        check(line, &json!({"reason": reason, "left_out": 0}));
    }
    assert_eq!(lines[3]["source"], "none");
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
    eventually("suppressed lines are reported", || async { reported(&logs) > 100 }).await;
    let written = logs.deliveries().len() as u64;
    let asked =
        bridge.metric("deliveries_total", &[("source", "attio"), ("reason", "signature_missing")]).await;
    assert_eq!(written + reported(&logs), asked as u64);
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
