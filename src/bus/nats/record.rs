//! Encoding: a message as JetStream stores it.
//!
//! Source: CloudEvents NATS binding (main branch), sections 3.1 and 3.2; the `Nats-` headers are
//! those of JetStream.

use std::borrow::Cow;
use std::str::FromStr;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::bus::encoded::EncodedMessage;
use crate::cloudevent::{Attribute, CloudEvent, ContentMode, binary, structured};
use crate::pipeline::publish::Message;

/// The header of the media type in structured mode.
const CONTENT_TYPE: &str = "Content-Type";

/// Headers and payload of a message.
#[derive(Debug)]
pub(super) struct Record {
    pub headers: HeaderMap,
    /// The envelope, or the data.
    pub payload: Bytes,
}

/// Encodes a message in the content mode, or structured if it must be. The error is a header that NATS does not
/// accept.
pub(super) fn encode_record(
    message: &Message,
    mode: ContentMode,
    stream: &str,
) -> Result<Record, async_nats::Error> {
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
    Ok(Record { headers, payload })
}

/// A message as the stream would store it.
pub(in crate::bus) fn encode(
    message: &Message,
    mode: ContentMode,
    stream: &str,
) -> Result<EncodedMessage, String> {
    let record = encode_record(message, mode, stream).map_err(|error| error.to_string())?;
    let headers = record
        .headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.as_str().to_owned())));
    let mut headers: Vec<_> = headers.collect();
    // The client keeps them unordered.
    headers.sort();
    Ok(EncodedMessage { headers, payload: record.payload.into() })
}

fn add_attributes(headers: &mut HeaderMap, event: &CloudEvent) -> Result<(), async_nats::Error> {
    let content_type = binary::content_type(event).map(|value| (Attribute::DataContentType.name(), value));
    for (name, value) in binary::headers(event).chain(content_type) {
        let name = HeaderName::from_str(&format!("ce-{name}"))?;
        headers.insert(name, HeaderValue::from_str(&Cow::from(utf8_percent_encode(value, ENCODED)))?);
    }
    Ok(())
}

/// What the binding percent-encodes in a header value, in addition to everything that is not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

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

    fn headers(record: &Record) -> BTreeMap<String, String> {
        let text = |values: &[HeaderValue]| values.iter().map(HeaderValue::to_string).collect::<String>();
        record.headers.iter().map(|(name, values)| (name.to_string(), text(values))).collect()
    }

    fn expected(more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let always = [("Nats-Msg-Id", "00000000000000000000000000000000"), ("Nats-Expected-Stream", "ATTIO")];
        always.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn structured_mode_has_only_the_media_type_header() {
        let record = encode_record(&message(false), ContentMode::Structured, "ATTIO").unwrap();
        let media_type = ("Content-Type", "application/cloudevents+json; charset=UTF-8");
        assert_eq!(headers(&record), expected(&[media_type]));
        assert!(record.payload.ends_with(b",\"data\":{\"a\":1}}"));
    }

    #[test]
    fn binary_mode_has_attributes_as_headers_and_data_as_payload() {
        let record = encode_record(&message(false), ContentMode::Binary, "ATTIO").unwrap();
        assert_eq!(record.payload, "{\"a\":1}");
        let attributes = [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "urn:x"),
            ("ce-type", "com.attio.record.created"),
            ("ce-datacontenttype", "application/json"),
            ("ce-partitionkey", "50%20%25%20%22%C3%A9%22"),
        ];
        assert_eq!(headers(&record), expected(&attributes));
    }

    #[test]
    fn quarantine_is_structured_in_binary_mode() {
        let record = encode_record(&message(true), ContentMode::Binary, "ATTIO").unwrap();
        assert!(record.payload.starts_with(b"{\"specversion\":\"1.0\""));
        assert_eq!(record.headers.len(), 3);
    }

    #[test]
    fn line_break_in_a_header_value_is_an_error() {
        assert!(encode_record(&message(false), ContentMode::Structured, "A\r\nB").is_err());
    }
}
