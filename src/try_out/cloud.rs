//! A message of the bus as a consumer reads it: a structured CloudEvent, its data byte for byte.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

/// One message.
#[derive(Clone, Debug)]
pub struct Received {
    /// Where it was read.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// What it holds, or why that cannot be read.
    pub event: Result<Cloud, String>,
}

/// A CloudEvent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cloud {
    /// Every attribute but the data.
    pub attributes: BTreeMap<String, String>,
    /// The data.
    pub data: Bytes,
}

/// The content type that says "structured".
const STRUCTURED: &[u8] = b"application/cloudevents+json; charset=UTF-8";

impl Received {
    /// An attribute of the event.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.event.as_ref().ok()?.attributes.get(name).map(String::as_str)
    }

    /// The key as text.
    pub fn key_text(&self) -> &str {
        self.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or("")
    }
}

impl Cloud {
    /// Reads a message with these headers.
    pub fn read<'a>(
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
        payload: &[u8],
    ) -> Result<Self, String> {
        let headers: Vec<_> = headers.collect();
        if headers != [("content-type", Some(STRUCTURED))] {
            let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
            return Err(format!("its headers are not those of a structured event: {}", names.join(", ")));
        }
        Self::structured(payload)
    }

    /// Reads the JSON format.
    pub fn structured(payload: &[u8]) -> Result<Self, String> {
        let members: BTreeMap<String, &RawValue> =
            serde_json::from_slice(payload).map_err(|error| format!("not a JSON object: {error}"))?;
        let mut event = Self::default();
        for (name, raw) in members {
            if name == "data" {
                event.data = Bytes::copy_from_slice(raw.get().as_bytes());
                continue;
            }
            let text: String =
                serde_json::from_str(raw.get()).map_err(|_| format!("the attribute {name} is no text"))?;
            if name == "data_base64" {
                let data = STANDARD.decode(&text).map_err(|error| format!("data_base64: {error}"))?;
                event.data = data.into();
            } else {
                event.attributes.insert(name, text);
            }
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &str) -> Result<Cloud, String> {
        Cloud::read([("content-type", Some(STRUCTURED))].into_iter(), payload.as_bytes())
    }

    #[test]
    fn data_keeps_its_bytes() {
        let event = read(r#"{"id":"a","data":{ "b" : 1.50e+2, "c":"\u00eb" }}"#).unwrap();
        assert_eq!(event.data, r#"{ "b" : 1.50e+2, "c":"\u00eb" }"#);
        assert_eq!(event.attributes["id"], "a");
        assert_eq!(read(r#"{"id":"a","data_base64":"e30="}"#).unwrap().data, "{}");
    }

    #[test]
    fn what_is_no_event_is_named() {
        assert!(read("[]").is_err());
        assert!(read(r#"{"id":1}"#).unwrap_err().contains("attribute id"));
        assert!(Cloud::read([("ce_id", None)].into_iter(), b"{}").unwrap_err().contains("ce_id"));
    }
}
