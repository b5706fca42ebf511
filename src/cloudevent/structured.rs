//! Structured content mode: one JSON object with the attributes and the data.
//!
//! Source: CloudEvents JSON event format 1.0.2, sections 2 and 3.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{CloudEvent, Data, SPEC_VERSION};

/// The media type of a structured event. The header is `content-type` on Kafka, `Content-Type` on NATS.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// The event as JSON. `data` is copied once and never re-serialised.
pub fn encode(event: &CloudEvent) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + data_len(event.data()));
    out.extend_from_slice(b"{\"specversion\":\"");
    out.extend_from_slice(SPEC_VERSION.as_bytes());
    out.push(b'"');
    for (attribute, value) in event.attributes() {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(attribute.name().as_bytes());
        out.extend_from_slice(b"\":");
        push_string(&mut out, value);
    }
    match event.data() {
        Data::Json(bytes) => {
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(bytes);
        }
        Data::Binary(bytes) => {
            out.extend_from_slice(b",\"data_base64\":\"");
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
    out.push(b'}');
    out
}

fn data_len(data: &Data) -> usize {
    match data {
        Data::Json(bytes) => bytes.len(),
        Data::Binary(bytes) => bytes.len().div_ceil(3) * 4,
    }
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    // Without an early exit, because that is faster (vectorised).
    let needs_escape = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
    if text.bytes().fold(false, |found, byte| found | needs_escape(byte)) {
        return serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}
