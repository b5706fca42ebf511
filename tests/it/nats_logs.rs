//! What the log says of NATS: once a change, and what to do.

use std::time::Duration;

use async_nats::jetstream::stream::StorageType;
use serde_json::Value;

use crate::support::client::eventually;
use crate::support::load::ready;
use crate::support::logs::Logs;
use crate::support::nats::bench::stream_name;
use crate::support::nats::place::Place;
use crate::support::nats::{Server, shared};

/// The adapter's own lines at a level.
fn lines(logs: &Logs, level: &str) -> Vec<String> {
    let text = logs.text();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let own = lines.filter(|line| {
        line["level"] == level && line["target"].as_str().unwrap().starts_with("attio_bridge::bus::nats")
    });
    own.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

async fn until_said(logs: &Logs, level: &str, words: &str) {
    eventually(&format!("{words} is said"), || async {
        lines(logs, level).iter().any(|line| line.contains(words))
    })
    .await;
}

const VERIFY: [(&str, &str); 1] = [("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "verify")];

#[tokio::test]
async fn a_missing_stream_is_named_once_with_what_to_do() {
    let (logs, server, place) = (Logs::capture(), shared(), Place::new("unnamed"));
    let bridge = place.bridge(&server, &VERIFY).await;
    until_said(&logs, "ERROR", "does not exist").await;
    // It is looked at every second.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let errors = lines(&logs, "ERROR");
    assert_eq!(errors.len(), 1, "{errors:?}");
    for words in [&place.stream, &format!("{}.record.>", place.prefix), "nats.stream.ensure"] {
        assert!(errors[0].contains(words), "{words}: {}", errors[0]);
    }
    server.create_stream(&place.stream, &[&format!("{}.>", place.prefix)], |_| {});
    ready(&bridge).await;
    until_said(&logs, "INFO", "takes every event").await;
}

#[tokio::test]
async fn another_stream_on_the_subjects_is_named() {
    let (logs, server, place, other) = (Logs::capture(), shared(), Place::new("named"), stream_name("other"));
    server.create_stream(&other, &[&format!("{}.note.>", place.prefix)], |_| {});
    let _bridge = place.bridge(&server, &[]).await;
    until_said(&logs, "ERROR", &format!("stream {other} takes {}.note.", place.prefix)).await;
    server.delete_stream(&other);
}

#[tokio::test]
async fn every_difference_of_the_stream_is_in_one_line() {
    let (logs, server, place) = (Logs::capture(), shared(), Place::new("different"));
    server.create_stream(&place.stream, &[&format!("{}.>", place.prefix)], |config| {
        config.storage = StorageType::Memory;
        config.duplicate_window = Duration::from_secs(60);
        config.max_age = Duration::from_secs(3600);
    });
    let bridge = place.bridge(&server, &VERIFY).await;
    ready(&bridge).await;
    until_said(&logs, "WARN", "not as configured").await;
    let warnings = lines(&logs, "WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for words in ["storage is memory", "duplicate_window is 1m", "max_age is 1h"] {
        assert!(warnings[0].contains(words), "{words}: {}", warnings[0]);
    }
}

#[tokio::test]
async fn an_outage_is_told_at_its_beginning_and_its_end() {
    let (logs, server, place) = (Logs::capture(), Server::start(), Place::new("outage"));
    let bridge = place.bridge(&server, &[]).await;
    ready(&bridge).await;
    server.kill();
    until_said(&logs, "WARN", "connection lost").await;
    until_said(&logs, "WARN", "trouble with a server").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let warnings = lines(&logs, "WARN");
    assert!(warnings.len() <= 3, "a line a change, not a line a try: {warnings:?}");
    server.restart();
    until_said(&logs, "INFO", "connected again").await;
}
