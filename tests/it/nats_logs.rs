//! Log lines of the NATS bus: one for each change, with advice.

use std::io::Write;
use std::time::Duration;

use async_nats::jetstream::stream::StorageType;
use attio_bridge::bus::nats::{Nats, Options};
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::supervise::Supervisor;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::support::bus;
use crate::support::load::ready;
use crate::support::logs::Logs;
use crate::support::nats::bench::stream_name;
use crate::support::nats::target::NatsTarget;
use crate::support::nats::{Server, shared};
use crate::support::request::Request;
use crate::support::wait::eventually;

/// The messages of the NATS adapter at a level.
fn lines(logs: &Logs, level: &str) -> Vec<String> {
    let text = logs.text();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let adapter = lines.filter(|line| {
        line["level"] == level && line["target"].as_str().unwrap().starts_with("attio_bridge::bus::nats")
    });
    adapter.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

async fn until_logged(logs: &Logs, level: &str, words: &str) {
    eventually(&format!("{words} is logged"), || async {
        lines(logs, level).iter().any(|line| line.contains(words))
    })
    .await;
}

const VERIFY: [(&str, &str); 1] = [("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "verify")];

#[tokio::test]
async fn missing_stream_is_logged_once_with_advice() {
    let (logs, server, target) = (Logs::capture(), shared(), NatsTarget::new("missing"));
    let bridge = target.bridge(&server, &VERIFY).await;
    until_logged(&logs, "ERROR", "does not exist").await;
    // The stream is queried every second.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let errors = lines(&logs, "ERROR");
    assert_eq!(errors.len(), 1, "{errors:?}");
    for words in [&target.stream, &format!("{}.record.>", target.prefix), "nats.stream.ensure"] {
        assert!(errors[0].contains(words), "{words}: {}", errors[0]);
    }
    server.create_stream(&target.stream, &[&format!("{}.>", target.prefix)], |_| {});
    ready(&bridge).await;
    until_logged(&logs, "INFO", "accepts every event").await;
}

#[tokio::test]
async fn conflicting_stream_is_logged_by_name() {
    let (logs, server, target, other) =
        (Logs::capture(), shared(), NatsTarget::new("named"), stream_name("other"));
    server.create_stream(&other, &[&format!("{}.note.>", target.prefix)], |_| {});
    let _bridge = target.bridge(&server, &[]).await;
    until_logged(&logs, "ERROR", &format!("stream {other} accepts {}.note.", target.prefix)).await;
    server.delete_stream(&other);
}

#[tokio::test]
async fn weak_and_different_settings_are_logged_and_shown_by_readyz() {
    let (logs, server, target) = (Logs::capture(), shared(), NatsTarget::new("different"));
    server.create_stream(&target.stream, &[&format!("{}.>", target.prefix)], |config| {
        config.storage = StorageType::Memory;
        config.duplicate_window = Duration::from_secs(60);
        config.max_age = Duration::from_secs(3600);
    });
    let bridge = target.bridge(&server, &VERIFY).await;
    ready(&bridge).await;
    until_logged(&logs, "WARN", "differs from the configuration").await;
    let warnings = lines(&logs, "WARN");
    let expected = ["storage is memory", "max_age to 72h", "duplicate_window is 1m"];
    assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
    for words in expected {
        assert_eq!(warnings.iter().filter(|line| line.contains(words)).count(), 1, "{words}: {warnings:?}");
    }
    assert!(warnings[2].contains("max_age is 1h"), "{warnings:?}");
    let answer = bridge.admin("/readyz").await;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 200);
    assert!(body.starts_with("ready\nwarning: ") && body.contains("storage is memory"), "{body}");
}

#[tokio::test]
async fn sequence_of_every_publish_is_logged_at_debug() {
    let (logs, server, target) = (Logs::capture(), shared(), NatsTarget::new("debug"));
    let bridge = target.bridge(&server, &[]).await;
    ready(&bridge).await;
    let body = r#"{"event_type":"task.created","id":{"task_id":"t"}}"#;
    assert_eq!(bridge.ask(&Request::keyed("k", body)).await.status, 200);
    let subject = format!("{}.task.created", target.prefix);
    let logged = |line: &Value| {
        line["level"] == "DEBUG"
            && line["subject"] == *subject
            && line["sequence"] == 1
            && line["stream"] == *target.stream
    };
    assert!(logs.lines().iter().any(logged));
}

#[tokio::test]
async fn outage_is_logged_at_its_start_and_end() {
    let (logs, server, target) = (Logs::capture(), Server::start(), NatsTarget::new("outage"));
    let bridge = target.bridge(&server, &[]).await;
    ready(&bridge).await;
    server.kill();
    until_logged(&logs, "WARN", "connection lost").await;
    until_logged(&logs, "WARN", "connection error").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let warnings = lines(&logs, "WARN");
    assert!(warnings.len() <= 3, "one line for each change, not for each attempt: {warnings:?}");
    server.restart();
    until_logged(&logs, "INFO", "reconnected").await;
}

/// More errors than the event queue of the client holds.
fn error_flood() -> Vec<u8> {
    let refusal = "-ERR 'Permissions Violation for Publish to \"x\"'\r\n";
    format!("PONG\r\n{}", refusal.repeat(500)).into_bytes()
}

#[tokio::test]
async fn connection_loss_is_logged_although_the_event_queue_overflowed() {
    let logs = Logs::capture();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = bus::metrics("nats", &[]);
    let options = Options::new([address.to_string()]);
    let _bus = Nats::start(options, vec![], ContentMode::Structured, metrics.bus(), &Supervisor::detached())
        .unwrap();

    let (mut server, _) = listener.accept().await.unwrap();
    let info = format!(
        r#"{{"server_id":"x","server_name":"x","host":"{}","port":{},"version":"2.10.0","headers":true,"max_payload":1048576,"proto":1,"client_id":1,"go":"x"}}"#,
        address.ip(),
        address.port()
    );
    server.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
    let mut server = BufReader::new(server);
    let mut line = String::new();
    while !line.starts_with("PING") {
        line.clear();
        server.read_line(&mut line).await.unwrap();
    }
    // Sends everything and closes before the task of the client runs again on this single thread.
    let mut server = server.into_inner().into_std().unwrap();
    server.set_nonblocking(false).unwrap();
    server.write_all(&error_flood()).unwrap();
    drop((server, listener));

    until_logged(&logs, "INFO", "nats: connected").await;
    until_logged(&logs, "WARN", "connection lost").await;
    assert_eq!(metrics.bus().up.get(), 0);
}
