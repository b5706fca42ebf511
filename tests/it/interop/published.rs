//! Every fixture, unusual JSON, repeats and poison, published once for all consumers.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use attio_bridge::delivery::SourceName;

use super::bus::{Bus, Kind};
use super::message::{Event, Message, Mode};
use crate::support::bridge::{Bridge, config};
use crate::support::fixtures;
use crate::support::load::ready;
use crate::support::nats::runtime;
use crate::support::program::lent;
use crate::support::request::Request;

/// JSON that parsers are known to change, each the members of an event of its own.
pub const UNUSUAL: [(&str, &str); 8] = [
    ("long", r#""integer":123456789012345678901234567890,"decimal":0.1234567890123456789012345"#),
    ("large", r#""integer":9007199254740993,"unsigned":18446744073709551615"#),
    ("form", r#""zeros":12.340,"negative":-0,"exponent":1e2"#),
    ("huge", r#""number":1E400"#),
    ("order", r#""object":{"z":1,"a":2,"10":3,"9":4}"#),
    ("twice", r#""member":1,"member":2"#),
    ("half", r#""half a character":"\ud800""#),
    (
        "text",
        "\"space\" : [ 1 , 2 ],\"escaped\":\"\\u00e9 \\/ \\ud83d\\ude00\",\"plain\":\"\u{e9} / \u{1f600}\"",
    ),
];

/// A record that is merged into another one, which is merged too, with events before and after each merge.
const MERGE: [&str; 5] = [
    r#""event_type":"record.updated","id":{"workspace_id":"w","object_id":"o","record_id":"duplicate","attribute_id":"a"}"#,
    r#""event_type":"record.merged","id":{"workspace_id":"w","object_id":"o","record_id":"survivor"},"duplicate_object_id":"o","duplicate_record_id":"duplicate""#,
    r#""event_type":"record.updated","id":{"workspace_id":"w","object_id":"o","record_id":"duplicate","attribute_id":"b"}"#,
    r#""event_type":"record.merged","id":{"workspace_id":"w","object_id":"o","record_id":"last"},"duplicate_object_id":"o","duplicate_record_id":"survivor""#,
    r#""event_type":"record.updated","id":{"workspace_id":"w","object_id":"o","record_id":"duplicate","attribute_id":"c"}"#,
];

/// What is no event, with the headers that name it one on each bus.
const POISON: [(&str, &[(&str, &str)], &[(&str, &str)], &str); 8] = [
    ("no JSON", &STRUCTURED_KAFKA, &STRUCTURED_NATS, "this is no event"),
    (
        "no id",
        &STRUCTURED_KAFKA,
        &STRUCTURED_NATS,
        r#"{"specversion":"1.0","source":"urn:poison","type":"com.attio.record.updated","data":{}}"#,
    ),
    (
        "id is an object",
        &STRUCTURED_KAFKA,
        &STRUCTURED_NATS,
        r#"{"specversion":"1.0","id":{},"source":"urn:poison","type":"com.attio.record.updated","data":{}}"#,
    ),
    (
        "no type",
        &STRUCTURED_KAFKA,
        &STRUCTURED_NATS,
        r#"{"specversion":"1.0","id":"1","source":"urn:poison","data":{}}"#,
    ),
    (
        "type is a number",
        &STRUCTURED_KAFKA,
        &STRUCTURED_NATS,
        r#"{"specversion":"1.0","id":"1","source":"urn:poison","type":1,"data":{}}"#,
    ),
    (
        "no source",
        &STRUCTURED_KAFKA,
        &STRUCTURED_NATS,
        r#"{"specversion":"1.0","id":"1","type":"com.attio.record.updated","data":{}}"#,
    ),
    (
        "no id in the headers",
        &[
            ("ce_specversion", "1.0"),
            ("ce_source", "urn:poison"),
            ("ce_type", "com.attio.record.updated"),
            ("content-type", "application/json"),
        ],
        &[
            ("ce-specversion", "1.0"),
            ("ce-source", "urn:poison"),
            ("ce-type", "com.attio.record.updated"),
            ("ce-datacontenttype", "application/json"),
        ],
        "{}",
    ),
    ("nothing", &[], &[], ""),
];
const STRUCTURED_KAFKA: [(&str, &str); 1] = [("content-type", "application/cloudevents+json; charset=utf-8")];
const STRUCTURED_NATS: [(&str, &str); 1] = [("Content-Type", "application/cloudevents+json; charset=utf-8")];

/// Source of the events that a consumer may handle or set aside, as long as it goes on.
pub const ODD: &str = "urn:odd";

/// What such events have in addition to the attributes that an event needs.
const ODD_MEMBERS: [&str; 5] = [
    r#""id":"no data""#,
    r#""id":"null","data":null"#,
    r#""id":"array","data":[]"#,
    r#""id":"duplicate","data":{"duplicate_record_id":{}}"#,
    r#""id":"half a character \ud800","data":{}"#,
];

/// A Kafka key and header that the bridge never writes.
const ODD_RECORDS: [(Option<&str>, Option<&[u8]>); 3] =
    [(None, Some(b"no key")), (Some("odd"), None), (Some("odd"), Some(b"no text \xff"))];

/// A bus, and what is on it.
pub struct Published {
    pub bus: Bus,
    pub messages: Vec<Message>,
}

/// What all consumers of this process read.
pub fn shared(kind: Kind) -> &'static Published {
    static KAFKA: LazyLock<Published> = LazyLock::new(|| Published::new(Kind::Kafka));
    static NATS: LazyLock<Published> = LazyLock::new(|| Published::new(Kind::Nats));
    match kind {
        Kind::Kafka => &KAFKA,
        Kind::Nats => &NATS,
    }
}

impl Published {
    fn new(kind: Kind) -> Self {
        let bus = Bus::start(kind);
        let publish = || {
            for mode in Mode::ALL {
                runtime().block_on(deliver(&bus, mode, "once"));
            }
            for (_, kafka, nats, value) in POISON {
                bus.publish_raw(if kind == Kind::Kafka { kafka } else { nats }, value);
            }
            for members in ODD_MEMBERS {
                let headers = if kind == Kind::Kafka { STRUCTURED_KAFKA } else { STRUCTURED_NATS };
                bus.publish_raw(&headers, &odd(members));
            }
            for (at, (key, header)) in ODD_RECORDS.into_iter().enumerate() {
                let [(name, value)] = STRUCTURED_KAFKA;
                let headers = [(name, Some(value.as_bytes())), ("odd", header)];
                bus.publish_record(key, &headers, &odd(&format!(r#""id":"record {at}","data":{{}}"#)));
            }
            for mode in Mode::ALL {
                runtime().block_on(deliver(&bus, mode, "again"));
            }
        };
        // The test may be inside a runtime already.
        std::thread::scope(|scope| scope.spawn(publish).join()).expect("everything is published");
        let messages = bus.messages();
        Self { bus, messages }
    }

    /// The first message of each event, by source and id.
    pub fn events(&self) -> BTreeMap<(String, String), (&Message, &Event)> {
        let mut events = BTreeMap::new();
        for message in &self.messages {
            if let Some(event) = &message.event {
                events.entry(event.source_and_id()).or_insert((message, event));
            }
        }
        events
    }

    /// Messages that are no event.
    pub fn poison(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(|message| message.event.is_none() && !message.is_odd)
    }

    /// Messages that may be handled or set aside.
    pub fn odd(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(|message| message.is_odd)
    }
}

/// Sends everything to a new bridge. Bridges of different source names share nothing that drops repeats.
async fn deliver(bus: &Bus, mode: Mode, round: &str) {
    let name = format!("{}-{round}", mode.name());
    let mut config = config(&lent(&bus.bridge(mode.name())));
    config.sources[0].name = SourceName::new(&name).expect("a good name");
    // Events of the guide's form have the same id in both modes; this tells them apart.
    config.sources[0].workspace_id = Some(mode.name().to_owned());
    let bridge = Bridge::serving(config).await;
    ready(&bridge).await;
    let mut client = bridge.connect().await;
    let merge = MERGE.into_iter().enumerate().map(|(at, members)| (format!("merge-{at}"), delivery(members)));
    for (file, body) in fixtures::deliveries().into_iter().chain(UNUSUAL.map(unusual)).chain(merge) {
        // The key becomes an attribute, with characters that the binding for NATS encodes.
        let key = format!(r#"{}/{file},"100%""#, mode.name());
        let request = Request::keyed(&key, body).path(&format!("/webhooks/{name}"));
        let answer = client.ask(&request).await;
        assert_eq!(answer.status, 200, "{file}: {answer:?}");
        assert_eq!(answer.json()["quarantined"], 0, "{file}: {answer:?}");
    }
    bridge.stop().await.expect("it drains");
}

fn unusual((name, members): (&str, &str)) -> (String, Vec<u8>) {
    let id = format!(r#"{{"workspace_id":"w","object_id":"o","record_id":"{name}","attribute_id":"a"}}"#);
    (name.to_owned(), delivery(&format!(r#""event_type":"record.updated","id":{id},{members}"#)))
}

/// A structured event with these members.
fn odd(members: &str) -> String {
    let attributes = r#""specversion":"1.0","type":"com.attio.record.merged","time":"2026-01-02T03:04:05Z""#;
    format!(r#"{{{attributes},"source":"{ODD}","partitionkey":"{ODD}",{members}}}"#)
}

/// A delivery of one event.
fn delivery(members: &str) -> Vec<u8> {
    format!(r#"{{"webhook_id":"w","events":[{{{members}}}]}}"#).into_bytes()
}
