//! Both content modes on Kafka, byte for byte, and as the official SDKs read them.

use std::collections::BTreeMap;

use attio_bridge::cloudevent::timestamp;
use time::OffsetDateTime;

use crate::support::kafka::{Record, shared};
use crate::support::real_bus;
use crate::support::request::Request;
use crate::support::sdk::{self, Read};
use crate::support::unique;

/// An event with unusual white space, numbers and text; its bytes must be kept.
const EVENT: &str = "{ \"event_type\":\"record.updated\" ,\n\"id\":{\"workspace_id\":\"ws\",\"object_id\":\"o\",\
                     \"record_id\":\"r\",\"attribute_id\":\"a\",\"event_id\":\"evt-1\"},\
                     \"created_at\":\"2026-01-02T03:04:05.678901+02:00\",\
                     \"actor\":{\"type\":\"workspace-member\",\"id\":\"m\"},\
                     \"big\":12345678901234567890.0,\"text\":\"\\u00e9 é \\/\"}";

/// Not JSON, so it is quarantined.
const GARBAGE: &str = "{\"webhook_id\":\"w\",\"events\":[{]}";

/// The records of one event and of one quarantined delivery.
struct Published {
    event: Record,
    quarantined: Record,
    between: [OffsetDateTime; 2],
}

async fn publish(mode: &str) -> Published {
    let (broker, prefix) = (shared(), unique("mode"));
    let bridge = real_bus::bridge(&real_bus::kafka(&broker, &prefix, mode)).await;
    let begun = OffsetDateTime::now_utc();
    let body = format!("{{\"webhook_id\":\"w\",\"events\":[ {EVENT} ]}}");
    for body in [body.as_str(), GARBAGE] {
        assert_eq!(bridge.ask(&Request::keyed("\"the-key\"", body)).await.status, 200);
    }
    let between = [begun, OffsetDateTime::now_utc()];
    let only = |name: &str| {
        let mut records = broker.read_all(&format!("{prefix}.{name}"));
        assert_eq!(records.len(), 1, "{name}");
        records.remove(0)
    };
    Published { event: only("record"), quarantined: only("quarantine"), between }
}

/// Every attribute but `recordedtime`.
fn expected() -> BTreeMap<String, String> {
    let pairs = [
        ("specversion", "1.0"),
        ("id", "evt-1"),
        ("source", "https://attio.com/workspaces/ws"),
        ("type", "com.attio.record.updated"),
        ("subject", "objects/o/records/r"),
        ("time", "2026-01-02T01:04:05.678Z"),
        ("datacontenttype", "application/json"),
        ("partitionkey", "r"),
        ("correlationid", "the-key"),
        ("attiowebhookid", "w"),
        ("authtype", "app_user"),
        ("authid", "m"),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Checks and removes `recordedtime`.
fn without_recorded_time(
    mut attributes: BTreeMap<String, String>,
    between: [OffsetDateTime; 2],
) -> BTreeMap<String, String> {
    let received = attributes.remove("recordedtime").expect("`recordedtime` is set");
    let [begun, ended] = between.map(|time| timestamp(time).expect("a year of our time"));
    assert!(begun <= received && received <= ended, "{begun} {received} {ended}");
    attributes
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_mode_keeps_data_byte_for_byte_and_attributes_as_headers() {
    let Published { event, quarantined, between } = publish("binary").await;
    assert_eq!(event.value(), EVENT);
    assert_eq!(event.key(), "r");
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &event.headers {
        let text = String::from_utf8(value.clone().expect("no header is null")).expect("text");
        let name =
            if name == "content-type" { "datacontenttype" } else { name.strip_prefix("ce_").expect(name) };
        assert_eq!(headers.insert(name.to_owned(), text), None, "{name} is there once");
    }
    assert_eq!(without_recorded_time(headers, between), expected());
    assert_eq!(event.header("content-type"), Some("application/json"));

    assert_eq!(
        quarantined.headers.len(),
        1,
        "quarantine is structured in both modes: {:?}",
        quarantined.headers
    );
    assert_eq!(quarantined.header("content-type"), Some("application/cloudevents+json; charset=utf-8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_and_python_sdks_read_both_content_modes_alike() {
    let data: serde_json::Value = serde_json::from_str(EVENT).expect("the event is JSON");
    for mode in ["structured", "binary"] {
        let Published { event, quarantined, between } = publish(mode).await;
        let [of_event, of_quarantine]: [Read; 2] =
            sdk::python(&[event.clone(), quarantined.clone()]).try_into().expect("two events");
        for (language, read) in [("rust", sdk::rust(&event)), ("python", of_event)] {
            assert_eq!(without_recorded_time(read.attributes, between), expected(), "{mode} {language}");
            assert_eq!(read.data.as_ref(), Some(&data), "{mode} {language}");
        }
        for (language, read) in [("rust", sdk::rust(&quarantined)), ("python", of_quarantine)] {
            assert_eq!(read.attributes["type"], "dev.attio-bridge.delivery.quarantined", "{mode} {language}");
            assert_eq!(read.attributes["correlationid"], "the-key");
            assert_eq!(read.attributes["partitionkey"], quarantined.key());
            assert_eq!(read.bytes.as_deref(), Some(GARBAGE.as_bytes()), "{mode} {language}");
        }
    }
}
