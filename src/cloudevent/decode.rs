//! Decodes a message of a bus as a CloudEvent, in either content mode.
//!
//! Source: CloudEvents 1.0.2 with its JSON format, Kafka binding and NATS binding.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::percent_decode;
use serde_json::value::RawValue;

use super::Data;

/// A CloudEvent as a consumer reads it, with attributes that the bridge does not write too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedEvent {
    /// The names and the values of all attributes: one allocation instead of two dozen.
    text: String,
    /// Where each name ends, and each value, which is behind it.
    attributes: Vec<(usize, usize)>,
    data: Data,
}

/// Why a message is not a CloudEvent.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("not a CloudEvent: neither its content type nor its headers are those of one")]
    Headers,
    #[error("not a CloudEvent: its payload is not a JSON object: {0}")]
    Json(String),
    #[error("not a CloudEvent: its attribute {0} is not a string")]
    Attribute(String),
    #[error("not a CloudEvent: its data_base64 is not base64: {0}")]
    Base64(String),
}

impl DecodedEvent {
    /// Decodes a message in the content mode that its headers declare. Without a content type, as on the dead-letter
    /// topic of a Kafka share group, which copies no header, a JSON object with a `specversion` is a structured event.
    pub fn from_message(headers: &[(String, Bytes)], payload: &Bytes) -> Result<Self, DecodeError> {
        let content_type = header(headers, "content-type");
        if content_type.is_some_and(|value| value.starts_with(b"application/cloudevents+json")) {
            return Self::from_json_of(payload);
        }
        let binary = |prefix| Self::from_binary(headers, payload, prefix);
        if let Some(event) = binary("ce_").or_else(|| binary("ce-")) {
            return Ok(event);
        }
        let bare = content_type.is_none().then(|| Self::from_json_of(payload).ok()).flatten();
        bare.filter(|event| event.get("specversion").is_some()).ok_or(DecodeError::Headers)
    }

    /// Decodes an event in the JSON format.
    pub fn from_json(json: &[u8]) -> Result<Self, DecodeError> {
        Self::from_json_of(&Bytes::copy_from_slice(json))
    }

    /// The same; the event shares the bytes of its data.
    fn from_json_of(json: &Bytes) -> Result<Self, DecodeError> {
        use serde_json::Value;
        let members: Members<'_> =
            serde_json::from_slice(json).map_err(|error| DecodeError::Json(error.to_string()))?;
        let mut event = Self::with(Data::Binary(Bytes::new()));
        for (Text(name), raw) in members.0 {
            if name == "data" {
                event.data = Data::Json(json.slice_ref(raw.get().as_bytes()));
                continue;
            }
            match serde_json::from_str::<Text<'_>>(raw.get()) {
                Ok(Text(text)) if name == "data_base64" => {
                    let bytes = STANDARD
                        .decode(text.as_bytes())
                        .map_err(|error| DecodeError::Base64(error.to_string()))?;
                    event.data = Data::Binary(bytes.into());
                }
                Ok(Text(text)) => event.push(&name, &text),
                Err(_) => match serde_json::from_str(raw.get()) {
                    Ok(Value::Null) => {}
                    Ok(value @ (Value::Bool(_) | Value::Number(_))) if name != "data_base64" => {
                        event.push(&name, &value.to_string());
                    }
                    _ => return Err(DecodeError::Attribute(name.into_owned())),
                },
            }
        }
        Ok(event)
    }

    fn with(data: Data) -> Self {
        Self { text: String::with_capacity(512), attributes: Vec::with_capacity(16), data }
    }

    fn push(&mut self, name: &str, value: &str) {
        self.text.push_str(name);
        let end = self.text.len();
        self.text.push_str(value);
        self.attributes.push((end, self.text.len()));
    }

    /// Decodes binary mode: attributes are headers with this prefix. None without `specversion`.
    fn from_binary(headers: &[(String, Bytes)], payload: &Bytes, prefix: &str) -> Option<Self> {
        let attribute = |(name, value): &(String, Bytes)| {
            let name = name.to_ascii_lowercase();
            let name = name.strip_prefix(prefix)?;
            // Only the NATS binding percent-encodes values.
            let text = match prefix {
                "ce-" => percent_decode(value).decode_utf8_lossy(),
                _ => String::from_utf8_lossy(value),
            };
            Some((name.to_owned(), text.into_owned()))
        };
        let mut event = Self::with(Data::Binary(payload.clone()));
        for (name, value) in headers.iter().filter_map(attribute) {
            event.push(&name, &value);
        }
        event.get("specversion")?;
        if event.get("datacontenttype").is_none()
            && let Some(value) = header(headers, "content-type")
        {
            event.push("datacontenttype", &String::from_utf8_lossy(value));
        }
        let may_be_json = event.get("datacontenttype").is_none_or(|value| value.contains("json"));
        if may_be_json && serde_json::from_slice::<&RawValue>(payload).is_ok() {
            event.data = Data::Json(payload.clone());
        }
        Some(event)
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Every attribute, in the order of the message.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.attributes.iter().map(move |&(name, value)| {
            let begin = std::mem::replace(&mut start, value);
            (&self.text[begin..name], &self.text[name..value])
        })
    }

    /// The data, byte for byte.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The event in the JSON format, on one line: a line end in the data, which is only ever white
    /// space there, becomes a space.
    pub fn to_json(&self) -> String {
        let mut out = String::from("{");
        for (name, value) in self.attributes() {
            let comma = if out.len() > 1 { "," } else { "" };
            out += &format!("{comma}{}:{}", quoted(name), quoted(value));
        }
        match &self.data {
            Data::Json(bytes) => {
                out += ",\"data\":";
                out += &String::from_utf8_lossy(bytes).replace(['\r', '\n'], " ");
            }
            Data::Binary(bytes) if bytes.is_empty() => {}
            Data::Binary(bytes) => out += &format!(",\"data_base64\":\"{}\"", STANDARD.encode(bytes)),
        }
        out + "}"
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn header<'a>(headers: &'a [(String, Bytes)], name: &str) -> Option<&'a [u8]> {
    let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_ref())
}

/// A string of a text, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members of an object, in order.
struct Members<'a>(Vec<(Text<'a>, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<(Text<'de>, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        from.deserialize_map(Visitor).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloudevent::structured::CONTENT_TYPE;

    fn decode(headers: &[(&str, &str)], payload: &str) -> Result<DecodedEvent, DecodeError> {
        let header =
            |(name, value): &(&str, &str)| ((*name).to_owned(), Bytes::copy_from_slice(value.as_bytes()));
        let headers: Vec<_> = headers.iter().map(header).collect();
        DecodedEvent::from_message(&headers, &Bytes::copy_from_slice(payload.as_bytes()))
    }

    const STRUCTURED: &str = r#"{"specversion":"1.0","id":"é","data":{ "b" : 1.50e+2 }}"#;

    #[test]
    fn both_content_modes_of_both_buses_decode_to_the_same_event() {
        let payload = r#"{ "b" : 1.50e+2 }"#;
        let structured = decode(&[("content-type", CONTENT_TYPE)], STRUCTURED);
        let kafka = decode(&[("ce_specversion", "1.0"), ("ce_id", "é")], payload);
        let nats = [("Ce-Specversion", "1.0"), ("ce-id", "%C3%A9"), ("Nats-Msg-Id", "x")];
        // Earlier builds wrote `UTF-8`.
        let former = decode(&[("Content-Type", "application/cloudevents+json; charset=UTF-8")], STRUCTURED);
        for event in [structured, former, kafka, decode(&nats, payload)] {
            assert_eq!(event.unwrap().to_json(), STRUCTURED);
        }
    }

    #[test]
    fn structured_event_without_a_content_type_is_recognised_by_its_specversion() {
        for headers in [&[][..], &[("__dlq.errors.topic", "attio.record")]] {
            assert_eq!(decode(headers, STRUCTURED).unwrap().to_json(), STRUCTURED);
        }
    }

    #[test]
    fn malformed_percent_encoding_is_kept_as_it_is() {
        let event = decode(&[("ce-specversion", "1.0"), ("ce-id", "%+5 %4 %zz %41")], "{}").unwrap();
        assert_eq!(event.get("id"), Some("%+5 %4 %zz A"));
    }

    #[test]
    fn content_type_of_a_binary_message_is_the_datacontenttype() {
        let event = decode(&[("content-type", "application/json"), ("ce_specversion", "1.0")], "{}");
        assert_eq!(event.unwrap().get("datacontenttype"), Some("application/json"));
    }

    #[test]
    fn data_that_is_not_json_round_trips_as_base64() {
        let event = decode(&[("ce_specversion", "1.0")], "no").unwrap();
        assert_eq!(event.to_json(), r#"{"specversion":"1.0","data_base64":"bm8="}"#);
        assert_eq!(DecodedEvent::from_json(event.to_json().as_bytes()).unwrap(), event);
    }

    #[test]
    fn to_json_is_one_line() {
        let event = DecodedEvent::from_json(b"{\"id\":\"a\",\"data\":{\r\n\"a\":\n1}}").unwrap();
        assert_eq!(event.to_json(), "{\"id\":\"a\",\"data\":{  \"a\": 1}}");
    }

    #[test]
    fn messages_that_are_not_events_are_errors() {
        let binary = r#"{"event_type":"record.updated"}"#;
        let typed = [("content-type", "application/json")];
        for (headers, payload) in [(&[][..], "{}"), (&[], "x"), (&[], binary), (&typed, STRUCTURED)] {
            assert_eq!(decode(headers, payload), Err(DecodeError::Headers), "{payload}");
        }
        assert!(matches!(DecodedEvent::from_json(b"[]"), Err(DecodeError::Json(_))));
        assert_eq!(DecodedEvent::from_json(br#"{"id":[]}"#), Err(DecodeError::Attribute("id".into())));
    }
}
