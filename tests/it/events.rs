//! Published events: every fixture against an expectation that another program made from the contract, bytes
//! that must be preserved, and quarantine.

use std::collections::BTreeMap;
use std::time::Duration;

use attio_bridge::cloudevent::{Data, structured};
use attio_bridge::pipeline::publish::Message;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::bridge::Bridge;
use crate::support::fixtures;
use crate::support::request::Request;

/// The JSON envelope of a message, member by member, each with its text.
pub fn envelope(message: &Message) -> BTreeMap<String, String> {
    let encoded = structured::encode(&message.event);
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_slice(&encoded).unwrap_or_else(|error| panic!("{error}: {message:?}"));
    members.into_iter().map(|(name, raw)| (name, raw.get().to_owned())).collect()
}

/// The attributes of a message by name, `specversion` included.
pub fn attributes(message: &Message) -> BTreeMap<String, String> {
    let mut members = envelope(message);
    members.remove("data");
    members.remove("data_base64");
    let text = |raw: String| serde_json::from_str::<String>(&raw).unwrap();
    members.into_iter().map(|(name, raw)| (name, text(raw))).collect()
}

pub fn data(message: &Message) -> &[u8] {
    match message.event.data() {
        Data::Json(bytes) | Data::Binary(bytes) => bytes,
    }
}

/// Whether a text is a time as the bridge writes it, no older than the test.
fn is_recent(text: &str) -> bool {
    let at = OffsetDateTime::parse(text, &Rfc3339).unwrap();
    text.len() == "2026-11-23T12:00:00.000Z".len()
        && text.ends_with('Z')
        && (OffsetDateTime::now_utc() - at).abs() < Duration::from_secs(60)
}

/// One message against its expectation.
fn check(name: &str, message: &Message, expected: &Value) {
    let mut attributes = attributes(message);
    for time in ["time", "recordedtime"] {
        if expected["attributes"][time] == "<received>" {
            assert!(is_recent(&attributes[time]), "{name}: {time} {}", attributes[time]);
            attributes.insert(time.into(), "<received>".into());
        }
    }
    assert_eq!(json!(attributes), expected["attributes"], "{name}");
    assert_eq!(String::from_utf8_lossy(data(message)), expected["data"].as_str().unwrap(), "{name}: data");
    assert_eq!(envelope(message)["data"], expected["data"].as_str().unwrap(), "{name}: data as published");
    assert_eq!(&*message.destination.address, expected["topic"], "{name}: topic");
    assert_eq!(&*message.destination.subject, expected["nats_subject"], "{name}: subject");
    assert_eq!(message.dedup_key, expected["message_id"], "{name}: message id");
    assert!(!message.structured_only, "{name}");
}

#[tokio::test]
async fn every_fixture_is_published_as_documented() {
    let bridge = Bridge::start().await;
    let mut client = bridge.connect().await;
    let mut seen = 0;
    for (name, body) in fixtures::deliveries() {
        let request = if name.starts_with("seed-style/") {
            let now = OffsetDateTime::now_utc().unix_timestamp().to_string();
            Request::timestamped(&now, body).header("Idempotency-Key", &name)
        } else {
            Request::keyed(&name, body)
        };
        let answer = client.ask(&request).await;
        let expected = fixtures::json(&format!("expected/{name}"));
        let expected = expected.as_array().unwrap();
        let stored = bridge.bus.stored().split_off(seen);
        seen += stored.len();
        assert_eq!(answer.status, 200, "{name}");
        assert_eq!(answer.json()["published"], expected.len(), "{name}");
        assert_eq!(stored.len(), expected.len(), "{name}");
        for (message, expected) in stored.iter().zip(expected) {
            check(&name, message, expected);
        }
    }
    assert!(seen >= 70, "{seen}");
}

#[tokio::test]
async fn the_configured_workspace_is_used_where_the_event_names_none() {
    let bridge = Bridge::with(|config| config.sources[0].workspace_id = Some("configured".into())).await;
    for (name, source) in [
        ("seed-style/record.created", "https://attio.com/workspaces/configured"),
        ("record.created", "https://attio.com/workspaces/f6fadfa7-e5c1-4b62-9362-da5cc13da58a"),
    ] {
        bridge.ask(&Request::keyed(name, fixtures::delivery(name))).await;
        assert_eq!(attributes(bridge.bus.stored().last().unwrap())["source"], source, "{name}");
    }
    bridge.ask(&Request::signed("no JSON")).await;
    let source = "https://attio.com/workspaces/configured";
    assert_eq!(attributes(bridge.bus.stored().last().unwrap())["source"], source, "in quarantine");
}

#[tokio::test]
async fn events_are_published_to_the_addresses_of_the_configuration() {
    use attio_bridge::catalog::Category;
    let bridge = Bridge::with(|config| {
        config.route.prefix = "acme.crm".into();
        config.route.categories.insert(Category::Record, "records-v2".into());
    })
    .await;
    let table = [
        ("record.created", "records-v2", "records-v2.created"),
        ("record.archived", "records-v2", "records-v2.unknown"),
        ("note-content.updated", "acme.crm.note", "acme.crm.note.content-updated"),
        ("note.pinned", "acme.crm.note", "acme.crm.note.unknown"),
        ("note", "acme.crm.note", "acme.crm.note.unknown"),
        ("meeting.created", "acme.crm.unknown", "acme.crm.unknown"),
        ("RECORD.created", "acme.crm.unknown", "acme.crm.unknown"),
        ("record.created ", "acme.crm.unknown", "acme.crm.unknown"),
        ("", "acme.crm.unknown", "acme.crm.unknown"),
    ];
    for (event_type, address, subject) in table {
        bridge.ask(&Request::keyed("k", json!({"event_type": event_type}).to_string())).await;
        let message = bridge.bus.stored().pop().unwrap();
        assert_eq!(&*message.destination.address, address, "{event_type:?}");
        assert_eq!(&*message.destination.subject, subject, "{event_type:?}");
    }
}

/// Publishes one event inside an envelope and gives its message back.
async fn publish(bridge: &Bridge, event: &str) -> Message {
    let body = format!(" {{\"webhook_id\": \"w\",\n\"events\" :\t[ \n{event} ]\r\n}}\n");
    let answer = bridge.ask(&Request::signed(body)).await;
    assert_eq!(answer.reason(), "accepted", "{event}");
    bridge.bus.stored().pop().unwrap()
}

#[tokio::test]
async fn data_is_the_event_byte_for_byte() {
    let bridge = Bridge::start().await;
    let events = [
        r#"{"event_type":"x.y","n":123456789012345678901234567890}"#,
        r#"{"event_type":"x.y","n":0.1234567890123456789012345678901234567890}"#,
        r#"{"event_type":"x.y","n":1e400,"m":-0,"o":1E+2,"p":1.0}"#,
        r#"{"z":1,"event_type":"x.y","a":2,"m":3}"#,
        "{ \"event_type\"\t:\n\"x.y\" ,\r\n  \"a\" : [ 1 , 2 ] }",
        r#"{"event_type":"x.y","s":"\u00e9\u00E9é\/\b\f\"\\"}"#,
        r#"{"event_type":"x.y","s":"\ud83d\ude00 😀"}"#,
        r#"{"event_type":"x.y","lone":"\ud800","other":"\udc00\ud800"}"#,
        r#"{"event_type":"x.y","\ud800":"a lone surrogate as a name"}"#,
        r#"{"event_type":"x.y","id":{"\udfff":1},"actor":{"\ud800":1},"record":{"\ud800":1}}"#,
        r#"{"event_type":"x.y","":"","nul":"\u0000","del":""}"#,
        r#"{"event_type":"x.y","twice":1,"twice":2}"#,
        r#"{"event_type":"x.y","deep":{"event_type":1,"event_type":2}}"#,
        r#"{"\u0065vent_type":"x.y"}"#,
        r#"{"event_type":"\u0078.y"}"#,
        "{\"event_type\":\"x.y\",\"bidi\":\"\u{202e}\u{2028}\u{feff}\"}",
    ];
    for event in events {
        let message = publish(&bridge, event).await;
        assert_eq!(String::from_utf8_lossy(data(&message)), event);
        assert_eq!(envelope(&message)["data"], event);
        assert_eq!(attributes(&message)["type"], "com.attio.x.y", "{event}");
    }
}

#[tokio::test]
async fn a_member_name_with_a_lone_surrogate_is_accepted() {
    let bridge = Bridge::start().await;
    for body in
        [r#"{"event_type":"x.y","\ud800":1,"\ud800":2}"#, r#"{"\ud800":1,"events":[{"event_type":"x.y"}]}"#]
    {
        assert_eq!(bridge.ask(&Request::signed(body)).await.reason(), "accepted", "{body}");
    }
}

#[tokio::test]
async fn a_bare_event_loses_only_the_white_space_around_it() {
    let bridge = Bridge::start().await;
    let event = "{ \"event_type\" : \"x.y\" }";
    bridge.ask(&Request::signed(format!(" \r\n\t{event}\n "))).await;
    assert_eq!(data(&bridge.bus.stored()[0]), event.as_bytes());
}

#[tokio::test]
async fn an_optional_attribute_with_an_unusable_value_is_left_out() {
    let bridge = Bridge::start().await;
    let long = "x".repeat(129);
    let table = [
        (r#"{"event_type":"x.y","actor":{"type":"app","id":"a b"}}"#.into(), "authid", None),
        (r#"{"event_type":"x.y","actor":{"type":"app","id":""}}"#.into(), "authid", None),
        (r#"{"event_type":"x.y","actor":{"type":"app","id":7}}"#.into(), "authid", None),
        (format!(r#"{{"event_type":"x.y","actor":{{"id":"{long}"}}}}"#), "authid", None),
        (format!(r#"{{"event_type":"x.y","actor":{{"id":"{}"}}}}"#, &long[1..]), "authid", Some(&long[1..])),
        (r#"{"event_type":"x.y","actor":{"type":"app"}}"#.into(), "authtype", Some("service_account")),
        (r#"{"event_type":"x.y","actor":{"type":"robot"}}"#.into(), "authtype", Some("unknown")),
        (r#"{"event_type":"x.y","actor":{"type":""}}"#.into(), "authtype", Some("unknown")),
        (r#"{"event_type":"x.y","actor":{"type":null}}"#.into(), "authtype", None),
        (r#"{"event_type":"x.y","actor":{"type":7}}"#.into(), "authtype", None),
        (r#"{"event_type":"x.y","actor":null}"#.into(), "authtype", None),
        (r#"{"event_type":"x.y","actor":"system"}"#.into(), "authtype", None),
        (
            r#"{"event_type":"x.y","id":{"workspace_id":"a b"}}"#.into(),
            "source",
            Some("urn:attio-bridge:attio"),
        ),
        (r#"{"event_type":"x.y","id":{"y_id":"7"}}"#.into(), "partitionkey", Some("7")),
        (r#"{"event_type":"x.y","id":{"y_id":"7","z_id":"8"}}"#.into(), "partitionkey", Some("8")),
        (r#"{"event_type":"x.y","id":{"y_id":"7","attribute_id":"8"}}"#.into(), "partitionkey", Some("7")),
        (r#"{"event_type":"x.y","id":{"y_id":"7","event_id":"8"}}"#.into(), "partitionkey", Some("7")),
        (
            r#"{"event_type":"x.y","id":{"workspace_id":"8","event_id":"9"}}"#.into(),
            "partitionkey",
            Some("9"),
        ),
        (r#"{"event_type":"x.y","id":{"y_id":"7"}}"#.into(), "subject", None),
        (r#"{"event_type":"record.archived","id":{"record_id":"7"}}"#.into(), "partitionkey", Some("7")),
        (r#"{"event_type":"record.archived","id":{"record_id":"7"}}"#.into(), "subject", None),
        (r#"{"event_type":"task.created","id":{"workspace_id":"w"}}"#.into(), "subject", None),
        (r#"{"event_type":"task.created","id":{"task_id":null}}"#.into(), "subject", None),
        (r#"{"event_type":"task.created","id":{"task_id":"t"}}"#.into(), "subject", Some("tasks/t")),
        (r#"{"event_type":"a b"}"#.into(), "type", Some("com.attio.unknown")),
        (format!(r#"{{"event_type":"{long}"}}"#), "type", Some("com.attio.unknown")),
    ];
    for (event, attribute, value) in table {
        let event: String = event;
        let message = publish(&bridge, &event).await;
        assert_eq!(attributes(&message).get(attribute).map(String::as_str), value, "{event}: {attribute}");
    }
}

#[tokio::test]
async fn ids_are_read_from_the_flat_form_then_from_the_nested_form() {
    let bridge = Bridge::start().await;
    let table = [
        (
            r#"{"event_type":"task.created","id":{"task_id":"flat"},"task":{"id":{"task_id":"nested"}}}"#,
            "flat",
        ),
        (
            r#"{"event_type":"task.created","task":{"id":{"task_id":"nested"}},"id":{"task_id":"flat"}}"#,
            "flat",
        ),
        (
            r#"{"event_type":"task.created","id":{"task_id":null},"task":{"id":{"task_id":"nested"}}}"#,
            "nested",
        ),
        (r#"{"event_type":"task.created","id":null,"task":{"id":{"task_id":"nested"}}}"#, "nested"),
        (r#"{"event_type":"task.created","task":{"id":{"task_id":"nested","x_id":"y"}}}"#, "nested"),
        (
            r#"{"event_type":"comment.created","thread_id":"flat","thread":{"id":{"thread_id":"nested"}}}"#,
            "flat",
        ),
        (r#"{"event_type":"comment.created","thread":{"id":{"thread_id":"nested"}}}"#, "nested"),
        (r#"{"event_type":"comment.created","id":{"thread_id":"misplaced","event_id":"e"}}"#, "misplaced"),
        (r#"{"event_type":"x.y","id":7,"actor":null}"#, ""),
    ];
    for (event, key) in table {
        let attributes = attributes(&publish(&bridge, event).await);
        let key = if key.is_empty() { attributes["id"].as_str() } else { key };
        assert_eq!(attributes["partitionkey"], key, "{event}");
    }
}

#[tokio::test]
async fn an_invalid_webhook_id_is_left_out() {
    let bridge = Bridge::start().await;
    for (at, webhook) in [r#""a b""#, "7", "null", r#""""#, r#"{"a":1}"#].iter().enumerate() {
        let body = format!(r#"{{"webhook_id":{webhook},"events":[{{"event_type":"x.y"}}]}}"#);
        assert_eq!(
            bridge.ask(&Request::keyed(&at.to_string(), body)).await.reason(),
            "accepted",
            "{webhook}"
        );
        let message = bridge.bus.stored().pop().unwrap();
        assert_eq!(attributes(&message).get("attiowebhookid"), None, "{webhook}");
    }
}

#[tokio::test]
async fn time_is_created_at_if_it_is_valid() {
    let bridge = Bridge::start().await;
    let table = [
        (r#""2026-11-23T12:13:31.703Z""#, Some("2026-11-23T12:13:31.703Z")),
        (r#""2026-11-23T12:13:31Z""#, Some("2026-11-23T12:13:31.000Z")),
        (r#""2026-11-23T12:13:31.703999999Z""#, Some("2026-11-23T12:13:31.703Z")),
        (r#""2026-11-23T12:13:31.7+05:30""#, Some("2026-11-23T06:43:31.700Z")),
        (r#""2026-12-31T23:30:00-01:00""#, Some("2027-01-01T00:30:00.000Z")),
        (r#""0001-01-01T00:00:00Z""#, Some("0001-01-01T00:00:00.000Z")),
        // Outside the years that the format can write, once it is UTC.
        (r#""0000-01-01T00:00:00+01:00""#, None),
        (r#""9999-12-31T23:59:59-01:00""#, None),
        (r#""2026-02-30T00:00:00Z""#, None),
        (r#""2026-11-23 noon""#, None),
        (r#""2026-11-23""#, None),
        (r#""2026-11-23T12:13:31""#, None),
        (r#""""#, None),
        ("1795435200", None),
        ("null", None),
    ];
    for (created, time) in table {
        let message = publish(&bridge, &format!(r#"{{"event_type":"x.y","created_at":{created}}}"#)).await;
        let attributes = attributes(&message);
        assert!(is_recent(&attributes["recordedtime"]), "{created}");
        match time {
            Some(time) => assert_eq!(attributes["time"], time, "{created}"),
            None => assert_eq!(attributes["time"], attributes["recordedtime"], "{created}"),
        }
    }
}

/// What quarantine reports for these bytes.
fn check_quarantine(message: &Message, reason: &str, raw: &[u8], key: Option<&str>) {
    let what = String::from_utf8_lossy(&raw[..raw.len().min(200)]).into_owned();
    let attributes = attributes(message);
    assert_eq!(attributes.get("reason").map(String::as_str), Some(reason), "{what}");
    assert_eq!(attributes["type"], "dev.attio-bridge.delivery.quarantined", "{what}");
    assert_eq!(attributes["source"], "urn:attio-bridge:attio", "{what}");
    assert_eq!(attributes.get("correlationid").map(String::as_str), key, "{what}");
    assert_eq!(attributes["attiosource"], "attio", "{what}");
    for absent in ["subject", "authtype", "authid"] {
        assert_eq!(attributes.get(absent), None, "{what}: {absent}");
    }
    assert!(!attributes["id"].is_empty() && is_recent(&attributes["time"]), "{what}");
    assert_eq!(&*message.destination.address, "attio.quarantine", "{what}");
    assert_eq!(&*message.destination.subject, "attio.quarantine", "{what}");
    assert!(message.structured_only, "{what}");
    let envelope = envelope(message);
    assert!(!envelope.contains_key("data"), "{what}");
    let base64: String = serde_json::from_str(&envelope["data_base64"]).unwrap();
    assert_eq!(STANDARD.decode(base64).unwrap(), raw, "{what}");
}

fn nested(depth: usize) -> Vec<u8> {
    // The envelope, its array and the event are three levels of their own.
    let inner = depth - 3;
    let deep = format!("{}{}", "[".repeat(inner), "]".repeat(inner));
    format!(r#"{{"webhook_id":"w","events":[{{"event_type":"x.y","deep":{deep}}}]}}"#).into_bytes()
}

#[tokio::test]
async fn an_unreadable_delivery_is_quarantined_whole() {
    let bridge = Bridge::with(|config| config.http.max_body_bytes = 4 << 20).await;
    let not_json: Vec<Vec<u8>> = [
        "",
        " ",
        "NaN",
        "{\"event_type\":NaN}",
        "hello",
        "{",
        "{\"event_type\":\"x.y\"",
        "{'event_type':'x.y'}",
        "{\"event_type\":\"x.y\",}",
        "{\"event_type\":\"x.y\"} x",
        "{\"event_type\":\"x.y\"}{}",
        "\u{feff}{}",
        "{\"event_type\":\"x.y\",\"n\":01}",
        "{\"event_type\":\"x.y\",\"s\":\"a\nb\"}",
        "{\"event_type\":\"\\x\"}",
        "event_type=x.y",
        "<xml/>",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([
        b"{\"event_type\":\"\xff\"}".to_vec(),
        b"{\"event_type\":\"\xed\xa0\x80\"}".to_vec(),
        vec![0; 100],
    ])
    .collect();
    let not_an_event = [
        "null",
        "7",
        "\"x\"",
        "[]",
        "[{\"event_type\":\"x.y\"}]",
        "{}",
        "{\"webhook_id\":\"w\"}",
        "{\"events\":{}}",
        "{\"events\":null}",
        "{\"events\":\"x\"}",
        "{\"events\":7,\"event_type\":\"x.y\"}",
        "{\"event_type\":null}",
    ];
    let duplicate = [
        r#"{"events":[],"events":[{"event_type":"x.y"}]}"#,
        r#"{"webhook_id":"a","webhook_id":"b","events":[]}"#,
        r#"{"event_type":"x.y","event_type":"x.z"}"#,
        r#"{"events":[],"\u0065vents":[]}"#,
    ];
    let of = |texts: &[&str], reason: &'static str| {
        texts.iter().map(|text| (text.as_bytes().to_vec(), reason)).collect::<Vec<_>>()
    };
    let deep = [
        nested(65),
        vec![b'['; 1_000_000],
        b"{\"a\":".repeat(200_000),
        [b"[".repeat(500_000), b"]".repeat(500_000)].concat(),
    ];
    let table = [
        not_json.into_iter().map(|raw| (raw, "not_json")).collect(),
        of(&not_an_event, "not_an_event"),
        of(&duplicate, "duplicate_member"),
        deep.into_iter().map(|raw| (raw, "too_deep")).collect(),
        vec![(format!(r#"{{"events":[{}7]}}"#, "7,".repeat(10_000)).into_bytes(), "too_many_events")],
    ];
    for (raw, reason) in table.concat() {
        let answer = bridge.ask(&Request::keyed("k", &raw)).await;
        let what = String::from_utf8_lossy(&raw[..raw.len().min(100)]).into_owned();
        assert_eq!(answer.status_and_reason(), (200, "quarantined".into()), "{what}");
        assert_eq!(answer.json()["events"], 1, "{what}");
        check_quarantine(&bridge.bus.stored().pop().unwrap(), reason, &raw, Some("k"));
    }
    let labels = [("source", "attio"), ("category", "unknown"), ("result", "quarantined")];
    assert_eq!(bridge.metric("events_total", &labels).await, bridge.bus.stored().len() as f64);
}

#[tokio::test]
async fn sixty_four_levels_of_nesting_are_accepted() {
    let bridge = Bridge::start().await;
    assert_eq!(bridge.ask(&Request::signed(nested(64))).await.reason(), "accepted");
    // Brackets in strings do not count.
    let text = format!(r#"{{"event_type":"x.y","s":"{}\"{}"}}"#, "[".repeat(1000), "{".repeat(1000));
    assert_eq!(bridge.ask(&Request::signed(text)).await.reason(), "accepted");
}

#[tokio::test]
async fn an_unusable_element_is_quarantined_alone() {
    let bridge = Bridge::start().await;
    let long = format!(r#"{{"event_type":"task.created","id":{{"task_id":"{}"}}}}"#, "x".repeat(129));
    let table = [
        ("7", "not_an_object"),
        ("null", "not_an_object"),
        ("\"x\"", "not_an_object"),
        ("[]", "not_an_object"),
        ("{}", "no_event_type"),
        (r#"{"event_type":null}"#, "no_event_type"),
        (r#"{"event_type":7}"#, "no_event_type"),
        (r#"{"event_type":["x.y"]}"#, "no_event_type"),
        (r#"{"event_type":"\ud800"}"#, "no_event_type"),
        (r#"{"event_type":"x.y","event_type":"x.y"}"#, "duplicate_member"),
        (r#"{"event_type":"x.y","id":{},"id":{}}"#, "duplicate_member"),
        (r#"{"event_type":"x.y","id":{"y_id":"1","y_id":"2"}}"#, "duplicate_member"),
        (r#"{"event_type":"x.y","id":{"y_id":"1","\u0079_id":"2"}}"#, "duplicate_member"),
        (r#"{"event_type":"x.y","thread_id":"1","thread_id":"1"}"#, "duplicate_member"),
        (r#"{"event_type":"x.y","actor":{},"actor":{}}"#, "duplicate_member"),
        (r#"{"event_type":"x.y","actor":{"id":"1","id":"2"}}"#, "duplicate_member"),
        (r#"{"event_type":"x.y","created_at":"1","created_at":"2"}"#, "duplicate_member"),
        (r#"{"event_type":"x.y","record":{"id":{"record_id":"1","record_id":"2"}}}"#, "duplicate_member"),
        (r#"{"event_type":"task.created","id":{"task_id":"a b"}}"#, "unusable_id"),
        (r#"{"event_type":"task.created","id":{"task_id":""}}"#, "unusable_id"),
        (r#"{"event_type":"task.created","id":{"task_id":7}}"#, "unusable_id"),
        (r#"{"event_type":"task.created","id":{"task_id":"a/b"}}"#, "unusable_id"),
        (r#"{"event_type":"task.created","id":{"task_id":"é"}}"#, "unusable_id"),
        (r#"{"event_type":"task.created","id":{"task_id":"*"}}"#, "unusable_id"),
        (r#"{"event_type":"task.created","id":{"task_id":"\ud800"}}"#, "unusable_id"),
        (r#"{"event_type":"task.created","id":{"task_id":"a\nb"}}"#, "unusable_id"),
        (r#"{"event_type":"task.created","id":{"task_id":"t","workspace_id":{}}}"#, "unusable_id"),
        (r#"{"event_type":"task.created","task":{"id":{"task_id":"a b"}}}"#, "unusable_id"),
        (r#"{"event_type":"comment.created","id":{"comment_id":"c"},"thread_id":">"}"#, "unusable_id"),
        (
            r#"{"event_type":"task.created","id":{"task_id":"a b"},"task":{"id":{"task_id":"t"}}}"#,
            "unusable_id",
        ),
        // No id can be read from it.
        (r#"{"event_type":"task.created","id":"t"}"#, "unusable_id"),
        (r#"{"event_type":"task.created","id":["t"]}"#, "unusable_id"),
        (&*long, "unusable_id"),
    ];
    let neighbour = |at: &str| format!(r#"{{"event_type":"x.y","at":"{at}"}}"#);
    for (at, (element, reason)) in table.iter().enumerate() {
        let (before, after) = (neighbour("before"), neighbour("after"));
        let body = format!(r#"{{"webhook_id":"w","events":[{before}, {element} ,{after}]}}"#);
        let key = format!("k{at}");
        let answer = bridge.ask(&Request::keyed(&key, body)).await;
        let counts = answer.json();
        assert_eq!(
            (&counts["reason"], &counts["published"], &counts["quarantined"]),
            (&json!("accepted"), &json!(2), &json!(1)),
            "{element}"
        );
        let stored = bridge.bus.stored().split_off(3 * at);
        assert_eq!(data(&stored[0]), before.as_bytes());
        check_quarantine(&stored[1], reason, element.as_bytes(), Some(&key));
        let quarantined = attributes(&stored[1]);
        assert_eq!((&*quarantined["attioindex"], &*quarantined["attiowebhookid"]), ("1", "w"), "{element}");
        assert_eq!(data(&stored[2]), after.as_bytes());
    }
}

#[tokio::test]
async fn an_unusable_bare_event_is_quarantined() {
    let bridge = Bridge::start().await;
    let event = r#"{"event_type":"task.created","id":{"task_id":"a b"}}"#;
    assert_eq!(bridge.ask(&Request::signed(event)).await.reason(), "quarantined");
    check_quarantine(&bridge.bus.stored()[0], "unusable_id", event.as_bytes(), None);
}

#[tokio::test]
async fn quarantined_events_have_a_deterministic_id_and_are_deduplicated() {
    let mut ids = Vec::new();
    for _restart in 0..2 {
        let bridge = Bridge::start().await;
        for body in ["no JSON", r#"{"webhook_id":"w","events":[7]}"#] {
            assert_eq!(bridge.ask(&Request::keyed("k", body)).await.reason(), "quarantined");
            assert_eq!(bridge.ask(&Request::keyed("k", body)).await.reason(), "duplicate");
            // Another delivery of the same bytes is another one.
            assert_eq!(bridge.ask(&Request::keyed("other", body)).await.reason(), "quarantined");
        }
        let of = |message: Message| (attributes(&message)["id"].clone(), message.dedup_key);
        let mine: Vec<_> = bridge.bus.stored().into_iter().map(of).collect();
        assert_eq!(mine.len(), 4);
        assert_eq!(mine.iter().collect::<std::collections::HashSet<_>>().len(), 4);
        ids.push(mine);
    }
    assert_eq!(ids[0], ids[1]);
}
