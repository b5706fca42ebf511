//! What the official SDKs for CloudEvents read from a Kafka record: Rust's in this process, Python's
//! in one of its own.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cloudevents::event::SpecVersion;
use cloudevents::message::{BinaryDeserializer, BinarySerializer, MessageAttributeValue, Result};
use cloudevents::{AttributesReader, Data, Event};
use serde_json::{Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::kafka::Record;
use super::watched::kit;

/// An event as an SDK has read it.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// Times in the bridge's own form.
    pub attributes: BTreeMap<String, String>,
    /// The data, where it is JSON.
    pub data: Option<Json>,
    /// The data, where it is bytes.
    pub bytes: Option<Vec<u8>>,
}

impl Read {
    fn new(attributes: impl Iterator<Item = (String, String)>) -> Self {
        let written = |(name, value): (String, String)| {
            let value = if name.ends_with("time") { in_our_form(&value) } else { value };
            (name, value)
        };
        Self { attributes: attributes.map(written).collect(), data: None, bytes: None }
    }
}

fn in_our_form(time: &str) -> String {
    let time = OffsetDateTime::parse(time, &Rfc3339).expect("the SDK writes RFC 3339");
    attio_bridge::cloudevent::timestamp(time).expect("a year of our time")
}

/// With the Rust SDK, by the rules of its own Kafka binding (which is built for an older client).
pub fn rust(record: &Record) -> Read {
    let structured =
        record.header("content-type").is_some_and(|kind| kind.starts_with("application/cloudevents+json"));
    let event: Event = if structured {
        serde_json::from_str(record.value()).expect("the SDK reads the envelope")
    } else {
        BinaryDeserializer::into_event(Binary(record)).expect("the SDK reads the headers")
    };
    let own = event.iter().map(|(name, value)| (name.to_owned(), value.to_string()));
    let mut read = Read::new(own);
    read.attributes.insert("specversion".into(), event.specversion().to_string());
    match event.data() {
        Some(Data::Json(json)) => read.data = Some(json.clone()),
        Some(Data::Binary(bytes)) if structured => read.bytes = Some(bytes.clone()),
        Some(Data::Binary(bytes)) => read.data = serde_json::from_slice(bytes).ok(),
        Some(Data::String(text)) => read.data = serde_json::from_str(text).ok(),
        None => {}
    }
    read
}

struct Binary<'r>(&'r Record);

impl BinaryDeserializer for Binary<'_> {
    fn deserialize_binary<R: Sized, V: BinarySerializer<R>>(self, mut visitor: V) -> Result<R> {
        let text = |name: &str| self.0.header(name).expect("the header is there").to_owned();
        let version = SpecVersion::try_from(text("ce_specversion").as_str())?;
        let known = version.attribute_names();
        visitor = visitor.set_spec_version(version)?;
        let content_type = MessageAttributeValue::String(text("content-type"));
        visitor = visitor.set_attribute("datacontenttype", content_type)?;
        for (header, _) in &self.0.headers {
            let Some(name) = header.strip_prefix("ce_").filter(|name| *name != "specversion") else {
                continue;
            };
            let value = MessageAttributeValue::String(text(header));
            visitor = if known.contains(&name) {
                visitor.set_attribute(name, value)?
            } else {
                visitor.set_extension(name, value)?
            };
        }
        visitor.end_with_data(self.0.value.clone().expect("the record has a value"))
    }
}

/// With the Python SDK, one event for each record.
pub fn python(records: &[Record]) -> Vec<Read> {
    let line = |record: &Record| {
        let value = |value: &Option<Vec<u8>>| STANDARD.encode(value.as_deref().expect("no header is null"));
        let headers: BTreeMap<_, _> =
            record.headers.iter().map(|(name, bytes)| (name.clone(), value(bytes))).collect();
        json!({ "headers": headers, "key": record.key(), "value": value(&record.value) }).to_string() + "\n"
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/read_cloudevents.py");
    let mut child = Command::new(kit("python/installed.txt").join("python/bin/python"))
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("no Python SDK to test with: run tests/install.sh once");
    let lines: String = records.iter().map(line).collect();
    let mut pipe = child.stdin.take().expect("its standard input is a pipe");
    pipe.write_all(lines.as_bytes()).expect("it reads");
    drop(pipe);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the SDK does not read it; its words are on standard error");
    let text = String::from_utf8(output.stdout).expect("it writes JSON");
    text.lines().map(|line| of_python(&serde_json::from_str(line).expect("it writes JSON"))).collect()
}

fn of_python(event: &Json) -> Read {
    let attributes = event["attributes"].as_object().expect("attributes");
    let text = |value: &Json| value.as_str().expect("every attribute is text").to_owned();
    let mut read = Read::new(attributes.iter().map(|(name, value)| (name.clone(), text(value))));
    read.data = event.get("data").cloned();
    read.bytes = event["data_base64"].as_str().map(|text| STANDARD.decode(text).expect("base64"));
    read
}
