//! A message of the bus as the CloudEvent it is, in either content mode.
//!
//! Source: CloudEvents 1.0.2 with its JSON format, Kafka binding and NATS binding.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::bus::read::Item;
use crate::cloudevent::Data;

/// A CloudEvent as a consumer reads it. Attributes that the bridge does not write are kept too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    attributes: Vec<(String, String)>,
    data: Data,
}

/// Why a message is no CloudEvent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoEvent {
    /// Its headers say nothing of one.
    #[error("neither its content type nor its headers are those of a CloudEvent")]
    Headers,
    /// It should be a structured one.
    #[error("its payload is no JSON object: {0}")]
    Json(String),
    /// An attribute that is no text, number or truth value.
    #[error("its attribute {0} is no text")]
    Attribute(String),
    /// `data_base64` is something else.
    #[error("its data_base64 is no base64: {0}")]
    Base64(String),
}

impl Event {
    /// Reads a message in the content mode that its headers tell.
    pub fn read(item: &Item) -> Result<Self, NoEvent> {
        let content_type = header(item, "content-type");
        let structured = content_type.is_some_and(|text| text.starts_with(b"application/cloudevents+json"));
        if structured {
            return Self::structured(&item.payload);
        }
        ["ce_", "ce-"].into_iter().find_map(|prefix| Self::binary(item, prefix)).ok_or(NoEvent::Headers)
    }

    /// Reads an event in structured JSON.
    pub fn structured(json: &[u8]) -> Result<Self, NoEvent> {
        let members: Members<'_> =
            serde_json::from_slice(json).map_err(|error| NoEvent::Json(error.to_string()))?;
        let mut attributes = Vec::with_capacity(members.0.len());
        let mut data = Data::Binary(Bytes::new());
        for (name, raw) in members.0 {
            match name.as_str() {
                "data" => data = Data::Json(Bytes::copy_from_slice(raw.get().as_bytes())),
                "data_base64" => {
                    let text: String =
                        serde_json::from_str(raw.get()).map_err(|_| NoEvent::Attribute(name))?;
                    let bytes = STANDARD.decode(text).map_err(|error| NoEvent::Base64(error.to_string()))?;
                    data = Data::Binary(bytes.into());
                }
                _ => match serde_json::from_str(raw.get()) {
                    Ok(serde_json::Value::String(text)) => attributes.push((name, text)),
                    Ok(serde_json::Value::Null) => {}
                    Ok(value @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_))) => {
                        attributes.push((name, value.to_string()));
                    }
                    _ => return Err(NoEvent::Attribute(name)),
                },
            }
        }
        Ok(Self { attributes, data })
    }

    /// Reads headers with that prefix; none where there are no such.
    fn binary(item: &Item, prefix: &str) -> Option<Self> {
        let attribute = |(name, value): &(String, Bytes)| {
            let name = name.to_ascii_lowercase();
            let name = name.strip_prefix(prefix)?;
            let text = String::from_utf8_lossy(value).into_owned();
            // The binding of NATS writes what is no printable ASCII in percent form.
            Some((name.to_owned(), if prefix == "ce-" { percent_decoded(&text) } else { text }))
        };
        let mut attributes: Vec<_> = item.headers.iter().filter_map(attribute).collect();
        let get = |name: &str| attributes.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
        get("specversion")?;
        let own = get("datacontenttype").map(str::to_owned);
        let of_message = || Some(String::from_utf8_lossy(header(item, "content-type")?).into_owned());
        let media_type = own.clone().or_else(of_message);
        if let (None, Some(media_type)) = (own, &media_type) {
            attributes.push(("datacontenttype".to_owned(), media_type.clone()));
        }
        let is_json = media_type.is_none_or(|media_type| media_type.contains("json"))
            && serde_json::from_slice::<&RawValue>(&item.payload).is_ok();
        let data = item.payload.clone();
        Some(Self { attributes, data: if is_json { Data::Json(data) } else { Data::Binary(data) } })
    }

    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// What the event carries, byte for byte.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The structured form on one line: line ends in the data, only ever white space there, become
    /// spaces.
    pub fn to_json(&self) -> String {
        let mut out = String::from("{");
        for (name, value) in &self.attributes {
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

fn header<'a>(item: &'a Item, name: &str) -> Option<&'a [u8]> {
    let found = item.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_ref())
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if first == b'%' => {
                out.push(byte);
                rest = &behind[2..];
            }
            _ => {
                out.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The members of an object in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
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
    use crate::bus::read::Position;
    use crate::cloudevent::structured::CONTENT_TYPE;

    fn item(headers: &[(&str, &str)], payload: &str) -> Item {
        let header =
            |(name, value): &(&str, &str)| ((*name).to_owned(), Bytes::copy_from_slice(value.as_bytes()));
        Item {
            address: "attio.record".into(),
            key: None,
            headers: headers.iter().map(header).collect(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            stored_at: None,
            position: Position::Nats { sequence: 1 },
        }
    }

    const STRUCTURED: &str = r#"{"specversion":"1.0","id":"é","data":{ "b" : 1.50e+2 }}"#;

    #[test]
    fn both_modes_of_both_buses_are_one_event() {
        let payload = r#"{ "b" : 1.50e+2 }"#;
        let kafka = [("ce_specversion", "1.0"), ("ce_id", "é")];
        let nats = [("Ce-Specversion", "1.0"), ("ce-id", "%C3%A9"), ("Nats-Msg-Id", "x")];
        for item in
            [item(&[("content-type", CONTENT_TYPE)], STRUCTURED), item(&kafka, payload), item(&nats, payload)]
        {
            assert_eq!(Event::read(&item).unwrap().to_json(), STRUCTURED);
        }
    }

    #[test]
    fn the_media_type_of_the_message_is_that_of_the_data() {
        let event =
            Event::read(&item(&[("content-type", "application/json"), ("ce_specversion", "1.0")], "{}"));
        assert_eq!(event.unwrap().get("datacontenttype"), Some("application/json"));
    }

    #[test]
    fn data_that_is_no_json_stays_as_it_is() {
        let event = Event::read(&item(&[("ce_specversion", "1.0")], "no")).unwrap();
        assert_eq!(event.to_json(), r#"{"specversion":"1.0","data_base64":"bm8="}"#);
        assert_eq!(Event::structured(event.to_json().as_bytes()).unwrap(), event);
    }

    #[test]
    fn a_line_is_a_line() {
        let event = Event::structured(b"{\"id\":\"a\",\"data\":{\r\n\"a\":\n1}}").unwrap();
        assert_eq!(event.to_json(), "{\"id\":\"a\",\"data\":{  \"a\": 1}}");
    }

    #[test]
    fn what_is_no_event_is_named() {
        assert_eq!(Event::read(&item(&[], "{}")), Err(NoEvent::Headers));
        assert!(matches!(Event::structured(b"[]"), Err(NoEvent::Json(_))));
        assert_eq!(Event::structured(br#"{"id":[]}"#), Err(NoEvent::Attribute("id".into())));
    }
}
