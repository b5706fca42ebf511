//! A message as JetStream stores it: headers and payload.
//!
//! Source: CloudEvents NATS binding (main branch), sections 3.1 and 3.2; the `Nats-` headers are
//! those of JetStream.

use std::fmt::Write;
use std::str::FromStr;

use async_nats::header::{
    HeaderMap, HeaderName, HeaderValue, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID, ParseHeaderNameError,
    ParseHeaderValueError,
};
use bytes::Bytes;

use crate::bus::encoded::EncodedMessage;
use crate::cloudevent::{Attribute, CloudEvent, ContentMode, binary, structured};
use crate::pipeline::publish::Message;

/// The name of the header that holds the media type, as the binding has it.
const CONTENT_TYPE: &str = "Content-Type";

/// The parts of a message beside its subject.
#[derive(Debug)]
pub(super) struct Layout {
    pub headers: HeaderMap,
    /// The envelope, or the data.
    pub payload: Bytes,
}

/// A header that NATS does not take.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadHeader {
    #[error("a header name that NATS does not take: {0}")]
    Name(#[from] ParseHeaderNameError),
    #[error("a header value that NATS does not take: {0}")]
    Value(#[from] ParseHeaderValueError),
}

/// Lays a message out in the content mode, or structured where it must be.
pub(super) fn layout(message: &Message, mode: ContentMode, stream: &str) -> Result<Layout, BadHeader> {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, HeaderValue::from_str(&message.dedup_key)?);
    headers.insert(NATS_EXPECTED_STREAM, HeaderValue::from_str(stream)?);
    let event = &message.event;
    let payload = match mode {
        ContentMode::Binary if !message.structured_only => {
            add_attributes(&mut headers, event)?;
            binary::payload(event).clone()
        }
        _ => {
            let name = HeaderName::from_str(CONTENT_TYPE)?;
            headers.insert(name, HeaderValue::from_str(structured::CONTENT_TYPE)?);
            structured::encode(event).into()
        }
    };
    Ok(Layout { headers, payload })
}

/// A message as the stream would hold it.
pub(in crate::bus) fn encode(
    message: &Message,
    mode: ContentMode,
    stream: &str,
) -> Result<EncodedMessage, String> {
    let layout = layout(message, mode, stream).map_err(|error| error.to_string())?;
    let headers = layout
        .headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.as_str().to_owned())));
    let mut headers: Vec<_> = headers.collect();
    // The client keeps them in no order.
    headers.sort();
    Ok(EncodedMessage { headers, payload: layout.payload.into() })
}

fn add_attributes(headers: &mut HeaderMap, event: &CloudEvent) -> Result<(), BadHeader> {
    let content_type = binary::content_type(event).map(|value| (Attribute::DataContentType.name(), value));
    for (name, value) in binary::headers(event).chain(content_type) {
        let name = HeaderName::from_str(&format!("ce-{name}"))?;
        headers.insert(name, HeaderValue::from_str(&percent_encoded(value))?);
    }
    Ok(())
}

/// A value as the binding writes it: space, `"`, `%` and all that is no printable ASCII by the hex of
/// its UTF-8 bytes.
fn percent_encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'"' | b'%' => push_hex(&mut out, byte),
            0x21..=0x7e => out.push(char::from(byte)),
            _ => push_hex(&mut out, byte),
        }
    }
    out
}

fn push_hex(out: &mut String, byte: u8) {
    write!(out, "%{byte:02X}").expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::cloudevent::Data;
    use crate::pipeline::publish::Destination;

    fn message(structured_only: bool) -> Message {
        let data = Data::Json(Bytes::from_static(b"{\"a\":1}"));
        let mut event = CloudEvent::new("1", &["urn:x"], data);
        event.set(Attribute::Type, "com.attio.record.created");
        event.set(Attribute::DataContentType, "application/json");
        event.set(Attribute::PartitionKey, "50 % \"é\"");
        let destination =
            Destination { address: "attio.record".into(), subject: "attio.record.created".into() };
        Message { destination: Arc::new(destination), event, dedup_key: "0".repeat(32), structured_only }
    }

    fn headers(layout: &Layout) -> BTreeMap<String, String> {
        let text = |values: &[HeaderValue]| values.iter().map(HeaderValue::to_string).collect::<String>();
        layout.headers.iter().map(|(name, values)| (name.to_string(), text(values))).collect()
    }

    fn expected(more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let always = [("Nats-Msg-Id", "00000000000000000000000000000000"), ("Nats-Expected-Stream", "ATTIO")];
        always.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn structured_has_the_media_type_and_no_attribute() {
        let layout = layout(&message(false), ContentMode::Structured, "ATTIO").unwrap();
        let media_type = ("Content-Type", "application/cloudevents+json; charset=UTF-8");
        assert_eq!(headers(&layout), expected(&[media_type]));
        assert!(layout.payload.ends_with(b",\"data\":{\"a\":1}}"));
    }

    #[test]
    fn binary_has_the_attributes_as_headers_and_the_data_as_payload() {
        let layout = layout(&message(false), ContentMode::Binary, "ATTIO").unwrap();
        assert_eq!(layout.payload, "{\"a\":1}");
        let attributes = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "urn:x"),
            ("ce-type", "com.attio.record.created"),
            ("ce-datacontenttype", "application/json"),
            ("ce-partitionkey", "50%20%25%20%22%C3%A9%22"),
        ];
        assert_eq!(headers(&layout), expected(&attributes));
    }

    #[test]
    fn quarantine_is_structured_in_binary_mode_too() {
        let layout = layout(&message(true), ContentMode::Binary, "ATTIO").unwrap();
        assert!(layout.payload.starts_with(b"{\"specversion\":\"1.0\""));
        assert_eq!(layout.headers.len(), 3);
    }

    #[test]
    fn what_would_break_the_header_block_is_an_error_and_no_panic() {
        assert!(layout(&message(false), ContentMode::Structured, "A\r\nB").is_err());
    }
}
