//! Signed deliveries with hostile content: each becomes a valid CloudEvent at an address of the table, and no
//! metric label.

use std::collections::HashSet;
use std::sync::Arc;

use attio_bridge::catalog::EVENT_TYPES;
use attio_bridge::cloudevent::{CloudEvent, Data, structured};
use attio_bridge::delivery::Context;
use attio_bridge::pipeline::identify::{Facts, Identity};
use attio_bridge::pipeline::normalize::normalize;
use attio_bridge::pipeline::parse::{self, Element, Parsed};
use attio_bridge::pipeline::quarantine;
use attio_bridge::pipeline::route::{Options, Routes};
use cloudevents::AttributesReader;
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::bridge::Bridge;
use crate::support::request::Request;

/// Units of the longest texts.
const LONG: &[&str] = &["x", "é", ".", "\0"];

/// Texts that have caused trouble elsewhere, and any others.
fn text() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "*",
        ">",
        "a.*",
        "a.>",
        "$JS.API.STREAM.PURGE.ATTIO",
        "$SYS.>",
        "_INBOX.x",
        "..",
        "../../etc/passwd",
        "a b",
        " ",
        "",
        "\0",
        "\r\n",
        "x\r\nNats-Msg-Id: y",
        "\u{7f}",
        "\u{85}",
        "\u{202e}",
        "\u{feff}",
        "\u{fffe}",
        "\u{fdd0}",
        "\u{1f600}",
        "é",
        "\"",
        "\\",
        "{}",
        "null",
        "record.created",
        "attio.record",
        "f6fadfa7-e5c1-4b62-9362-da5cc13da58a",
        "A.b_c:d-9",
        "%00",
        "2026-11-23T12:00:00Z",
        "0000-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.999999999-23:59",
    ];
    prop_oneof![
        16 => prop::sample::select(KNOWN).prop_map(str::to_owned),
        8 => any::<String>(),
        8 => "[A-Za-z0-9._:-]{1,130}",
        4 => "[\\x00-\\x1f]{1,8}",
        1 => prop::sample::select(LONG).prop_map(|unit| unit.repeat(65_536 / unit.len())),
    ]
}

/// Mostly a string, sometimes another JSON value.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => text().prop_map(Value::from),
        1 => prop::sample::select(vec![json!(null), json!(7), json!(true), json!([]), json!({}), json!([["x"]])]),
    ]
}

fn event_type() -> impl Strategy<Value = Value> {
    let known: Vec<&str> = EVENT_TYPES.iter().map(|entry| entry.name).collect();
    prop_oneof![
        4 => prop::sample::select(known).prop_map(Value::from),
        2 => ("(record|note|task|list-entry)", text()).prop_map(|(category, action)| json!(format!("{category}.{action}"))),
        3 => value(),
    ]
}

/// An object with some of these members.
fn object(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let name = prop_oneof![9 => prop::sample::select(names).prop_map(str::to_owned), 1 => text()];
    prop::collection::vec((name, value()), 0..5)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

/// An event whose members may be anything.
fn event() -> impl Strategy<Value = Value> {
    const IDS: &[&str] = &[
        "workspace_id",
        "object_id",
        "record_id",
        "list_id",
        "entry_id",
        "note_id",
        "task_id",
        "comment_id",
        "attribute_id",
        "activity_id",
        "meeting_id",
        "call_recording_id",
        "workspace_member_id",
        "event_id",
        "x_id",
    ];
    const NESTED: &[&str] = &["record", "entry", "list", "object", "note", "task", "comment", "thread", "x"];
    let nested = (prop::sample::select(NESTED), object(IDS))
        .prop_map(|(name, id)| (name.to_owned(), json!({"id": id})));
    (
        event_type(),
        prop_oneof![9 => object(IDS), 1 => value()],
        prop_oneof![5 => object(&["type", "id"]), 1 => value()],
        prop::option::of(value()),
        prop::option::of(value()),
        prop::collection::vec(nested, 0..3),
        prop::collection::vec((text(), value()), 0..2),
    )
        .prop_map(|(event_type, id, actor, thread_id, created_at, nested, others)| {
            let mut event: Map<String, Value> = others.into_iter().chain(nested).collect();
            event.insert("event_type".into(), event_type);
            event.insert("id".into(), id);
            event.insert("actor".into(), actor);
            event.extend(thread_id.map(|id| ("thread_id".into(), id)));
            event.extend(created_at.map(|at| ("created_at".into(), at)));
            Value::Object(event)
        })
}

fn delivery() -> impl Strategy<Value = Vec<u8>> {
    let events = prop::collection::vec(prop_oneof![9 => event(), 1 => value()], 0..4);
    let envelope =
        (value(), events).prop_map(|(webhook, events)| json!({"webhook_id": webhook, "events": events}));
    let whole = prop_oneof![6 => envelope, 2 => event(), 1 => value()]
        .prop_map(|value| value.to_string().into_bytes());
    let bent = (whole, any::<prop::sample::Index>(), any::<u8>(), prop::bool::weighted(0.15));
    bent.prop_map(|(mut bytes, at, byte, bend)| {
        if bend {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

/// Whether a text is non-empty and of the CloudEvents String type.
fn is_attribute(text: &str) -> bool {
    let noncharacter = |c: char| matches!(c, '\u{fdd0}'..='\u{fdef}') || (c as u32) & 0xfffe == 0xfffe;
    !text.is_empty() && !text.chars().any(|c| c.is_control() || noncharacter(c))
}

/// Checks what must hold of any CloudEvent.
fn check(event: &CloudEvent, raw: &[u8]) {
    let mut names = HashSet::new();
    for (attribute, value) in event.attributes() {
        assert!(is_attribute(value), "{attribute:?} {value:?}");
        assert!(names.insert(attribute.name()), "{attribute:?} twice");
    }
    for required in ["id", "source", "type", "time", "recordedtime", "datacontenttype", "partitionkey"] {
        assert!(names.contains(required), "{required}");
    }
    let encoded = structured::encode(event);
    let members: std::collections::BTreeMap<String, &RawValue> = serde_json::from_slice(&encoded).unwrap();
    assert_eq!(members.len(), names.len() + 2, "specversion, the attributes and the data");
    match event.data() {
        Data::Json(bytes) => {
            assert_eq!(bytes, raw);
            assert_eq!(members["data"].get().as_bytes(), raw);
        }
        Data::Binary(bytes) => assert_eq!(bytes, raw),
    }

    let read: cloudevents::Event = serde_json::from_slice(&encoded).unwrap();
    let attribute = |name: &str| serde_json::from_str::<String>(members[name].get()).unwrap();
    assert_eq!(read.id(), attribute("id"));
    assert_eq!(read.source(), attribute("source").as_str());
    assert_eq!(read.ty(), attribute("type"));
    assert_eq!(
        read.subject().map(str::to_owned),
        members.contains_key("subject").then(|| attribute("subject"))
    );
    assert_eq!(read.extension("partitionkey").unwrap().to_string(), attribute("partitionkey"));
    for time in ["time", "recordedtime"] {
        let text = attribute(time);
        assert!(
            OffsetDateTime::parse(&text, &Rfc3339).is_ok() && text.len() == 24 && text.ends_with('Z'),
            "{text}"
        );
    }
    match (read.data().unwrap(), event.data()) {
        (cloudevents::Data::Json(value), Data::Json(_)) => {
            assert_eq!(value, &serde_json::from_slice::<Value>(raw).unwrap());
        }
        (cloudevents::Data::Binary(bytes), Data::Binary(_)) => assert_eq!(bytes, raw),
        (read, _) => panic!("the SDK reads other data: {read:?}"),
    }
}

/// Runs the stages that read what the sender wrote.
fn walk(body: &[u8], key: Option<&str>, routes: &Routes, addresses: &[Arc<str>]) {
    let body = bytes::Bytes::copy_from_slice(body);
    let received_at = OffsetDateTime::now_utc();
    let (webhook_id, elements) = match parse::parse(&body) {
        Parsed::Events { webhook_id, elements } => (webhook_id, elements),
        Parsed::Unreadable(reason) => (None, vec![Element::Unusable { raw: body.clone(), reason }]),
    };
    for (index, element) in elements.into_iter().enumerate() {
        let facts = |raw| Facts {
            source: "attio",
            webhook_id: webhook_id.as_deref().unwrap_or(""),
            idempotency_key: key,
            index,
            raw,
        };
        let context = |webhook_id| Context {
            source: "attio",
            workspace_id: None,
            received_at,
            idempotency_key: key,
            webhook_id,
        };
        match element {
            Element::Event(event) => {
                let identity = Identity::of_event(event.ids.event_id(), facts(&event.raw));
                let context = context(webhook_id.as_deref());
                check(&normalize(&event, &identity.id, context, None, None), &event.raw);
                let destination = routes.event(event.kind);
                assert!(addresses.contains(&destination.address));
                let action = destination.subject.strip_prefix(&*destination.address).unwrap();
                assert!(action.bytes().all(|b| b.is_ascii_lowercase() || b".-".contains(&b)), "{action}");
            }
            Element::Unusable { raw, reason } => {
                let identity = Identity::of_quarantined(facts(&raw));
                let context = context(Some("w"));
                let wrapped = quarantine::wrap(&identity.id, context, Some(0), raw.clone(), reason.slug());
                check(&wrapped, &raw);
                assert!(addresses.contains(&routes.quarantine().address));
            }
        }
    }
}

fn routes() -> Routes {
    Routes::new(&Options { prefix: "attio".into(), categories: Default::default() })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_signed_json_becomes_valid_cloudevents_at_known_addresses(
        body in delivery(),
        key in prop::option::of("[!-~]{1,255}"),
    ) {
        let routes = routes();
        let addresses = routes.addresses();
        walk(&body, key.as_deref(), &routes, &addresses);
    }

    #[test]
    fn any_signed_bytes_become_valid_cloudevents_at_known_addresses(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let routes = routes();
        let addresses = routes.addresses();
        walk(&body, None, &routes, &addresses);
    }
}

#[test]
fn any_member_may_hold_64_kilobytes() {
    let routes = routes();
    let addresses = routes.addresses();
    for unit in LONG {
        let long = json!(unit.repeat(65_536 / unit.len()));
        let short = json!({"event_type": "task.created", "id": {"workspace_id": "w", "task_id": "t", "event_id": "e"},
            "thread_id": "x", "created_at": "now", "actor": {"type": "app", "id": "a"}, "task": {"id": {"task_id": "t"}}});
        let places = [
            "/event_type",
            "/id",
            "/id/workspace_id",
            "/id/task_id",
            "/id/event_id",
            "/thread_id",
            "/created_at",
            "/actor",
            "/actor/type",
            "/actor/id",
            "/task",
            "/task/id",
            "/task/id/task_id",
        ];
        for place in places {
            let mut event = short.clone();
            *event.pointer_mut(place).unwrap() = long.clone();
            walk(event.to_string().as_bytes(), None, &routes, &addresses);
            let envelope = json!({"webhook_id": long, "events": [event]});
            walk(envelope.to_string().as_bytes(), None, &routes, &addresses);
        }
    }
}

#[test]
fn addresses_are_the_categories_unknown_and_quarantine() {
    let addresses: Vec<String> = routes().addresses().iter().map(ToString::to_string).collect();
    assert_eq!(addresses.len(), 15);
    assert!(addresses.iter().all(|address| address.starts_with("attio.")));
    assert!(addresses.contains(&"attio.unknown".into()) && addresses.contains(&"attio.quarantine".into()));
}

#[tokio::test]
async fn hostile_deliveries_add_no_metric_label_and_no_address() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let bridge = Bridge::with(|config| config.http.max_body_bytes = 8 << 20).await;
    let before = bridge.metrics().await.label_sets();
    let mut runner = TestRunner::deterministic();
    let (deliveries, texts) = (delivery(), text());
    let mut client = bridge.connect().await;
    for at in 0..1000 {
        let body = deliveries.new_tree(&mut runner).unwrap().current();
        let key = texts.new_tree(&mut runner).unwrap().current();
        let key: Vec<u8> = key.into_bytes().into_iter().filter(|b| !b.is_ascii_control()).take(300).collect();
        let mut request = Request::signed(&body).header("Idempotency-Key", key);
        match at % 10 {
            0 => request = Request::unsigned("{}").path(&format!("/webhooks/source{at}")),
            1 => request = Request::unsigned("{}").path(&format!("/{at}?x={at}")),
            2 => request = request.header("X-Attio-Timestamp", at.to_string()),
            _ => {}
        }
        let answer = client.ask(&request).await;
        assert!(matches!(answer.status, 200 | 401 | 404), "{answer:?}: {}", String::from_utf8_lossy(&body));
    }
    let after = bridge.metrics().await;
    assert_eq!(after.label_sets(), before);
    assert!(after.balances());
    let addresses = routes().addresses();
    for message in bridge.bus.stored() {
        assert!(addresses.contains(&message.destination.address));
        assert!(message.event.attributes().all(|(_, value)| is_attribute(value)));
    }
}
