//! JSON as the sender writes it: members in the order they are given, which `serde_json`'s own maps
//! do not keep.

use serde::ser::{Serialize, SerializeMap, Serializer};

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// Text.
    Text(String),
    /// Null.
    Null,
    /// An object, in order.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// An object with one member.
    pub fn single(name: impl Into<String>, value: Json) -> Self {
        Self::Object(vec![(name.into(), value)])
    }

    /// The value as compact JSON.
    pub fn write(&self) -> String {
        serde_json::to_string(self).expect("texts, nulls and objects with text keys are always JSON")
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Null => serializer.serialize_unit(),
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}
