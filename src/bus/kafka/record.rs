//! The Kafka record of a message: key, headers, value (CloudEvents Kafka binding 1.0.2, sections 3.1 to 3.3).

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::message::{Header, Headers, OwnedHeaders};

use crate::bus::read::EncodedMessage;
use crate::cloudevent::{Attribute, ContentMode, structured};
use crate::pipeline::publish::{Destination, Message, PublishHandle};

/// The header of the media type.
const CONTENT_TYPE: &str = "content-type";

/// A record without its topic. The key is the event's `partitionkey`, byte for byte.
pub(super) struct Record<'a> {
    pub key: Option<&'a str>,
    pub headers: OwnedHeaders,
    /// The envelope, or the data.
    pub value: Bytes,
}

/// What the client keeps with an enqueued message.
pub(super) struct Pending {
    pub handle: PublishHandle,
    pub destination: Arc<Destination>,
}

/// Encodes a message in the content mode, or structured if it must be.
pub(super) fn record(message: &Message, mode: ContentMode) -> Record<'_> {
    let event = &message.event;
    let key = event.get(Attribute::PartitionKey);
    let with = |headers: OwnedHeaders, (key, value): (&str, &str)| {
        headers.insert(Header { key, value: Some(value) })
    };
    if mode == ContentMode::Structured || message.structured_only {
        let headers = with(OwnedHeaders::new_with_capacity(3), (CONTENT_TYPE, structured::CONTENT_TYPE));
        let headers = event.trace_headers().fold(headers, with);
        return Record { key, headers, value: structured::encode(event).into() };
    }
    let content_type = event.get(Attribute::DataContentType).map(|value| (CONTENT_TYPE, value));
    let plain = content_type.into_iter().chain(event.trace_headers());
    let headers = plain.fold(OwnedHeaders::new_with_capacity(16), with);
    let headers = event
        .binary_headers()
        .fold(headers, |headers, (name, value)| with(headers, (&format!("ce_{name}"), value)));
    Record { key, headers, value: event.data().bytes().clone() }
}

/// The headers and the payload of a message.
pub fn encode(message: &Message, mode: ContentMode) -> EncodedMessage {
    let Record { headers, value, .. } = record(message, mode);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers =
        headers.iter().map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default())));
    EncodedMessage { headers: headers.collect(), payload: value.into() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cloudevent::{CloudEvent, Data};
    use crate::pipeline::publish::Destination;

    fn message(structured_only: bool) -> Message {
        let data = Data::Json(Bytes::from_static(b"{\"a\":1}"));
        let mut event = CloudEvent::new("1", &["urn:x"], data);
        event.set(Attribute::Type, "com.attio.record.created");
        event.set(Attribute::DataContentType, "application/json");
        event.set(Attribute::PartitionKey, "rec-1");
        let destination =
            Destination { address: "attio.record".into(), subject: "attio.record.created".into() };
        Message { destination: Arc::new(destination), event, dedup_key: "0".repeat(32), structured_only }
    }

    fn headers(record: &Record<'_>) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        record.headers.iter().map(|header| (header.key.to_owned(), text(header.value.unwrap()))).collect()
    }

    #[test]
    fn structured_has_one_header() {
        let message = message(false);
        let record = record(&message, ContentMode::Structured);
        assert_eq!(record.key, Some("rec-1"));
        let content_type = "application/cloudevents+json; charset=utf-8";
        assert_eq!(headers(&record), [("content-type".to_owned(), content_type.to_owned())]);
        assert!(record.value.ends_with(b",\"data\":{\"a\":1}}"));
    }

    #[test]
    fn binary_has_the_attributes_as_headers_and_the_data_as_value() {
        let message = message(false);
        let record = record(&message, ContentMode::Binary);
        assert_eq!(record.value.as_ref(), b"{\"a\":1}");
        let expected = [
            ("content-type", "application/json"),
            ("ce_specversion", "1.0"),
            ("ce_id", "1"),
            ("ce_source", "urn:x"),
            ("ce_type", "com.attio.record.created"),
            ("ce_partitionkey", "rec-1"),
        ];
        assert_eq!(headers(&record), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn quarantine_is_structured_in_binary_mode_too() {
        let message = message(true);
        let record = record(&message, ContentMode::Binary);
        assert!(record.value.starts_with(b"{\"specversion\":\"1.0\""));
        assert_eq!(headers(&record).len(), 1);
    }
}
