//! Small readings of raw JSON values.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The value of a JSON string; none for anything else, or for text that is not Unicode.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let quoted = raw.get().trim_matches(WHITE_SPACE);
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(quoted).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// A JSON text without the white space around it.
pub fn trim(text: &str) -> &str {
    text.trim_matches(WHITE_SPACE)
}

/// Whether a value is `null`.
pub fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// RFC 8259 section 2.
const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Why the members of an object could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersError {
    /// The value is no object.
    NotAnObject,
    /// A wanted member occurs twice, or the text is no JSON.
    Duplicate,
}

/// The members of an object whose names are wanted, in their order.
pub type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// Reads the wanted members of an object; the others are skipped, whatever they are.
pub fn members(text: &str, wanted: impl Fn(&str) -> bool) -> Result<Members<'_>, MembersError> {
    if !text.starts_with('{') {
        return Err(MembersError::NotAnObject);
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = Wanted(wanted).deserialize(&mut deserializer).map_err(|_| MembersError::Duplicate)?;
    deserializer.end().map_err(|_| MembersError::Duplicate)?;
    Ok(members)
}

struct Wanted<F>(F);

impl<'de, F: Fn(&str) -> bool> DeserializeSeed<'de> for Wanted<F> {
    type Value = Members<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for Wanted<F> {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Members<'de> = Vec::with_capacity(8);
        while let Some(name) = map.next_key::<&RawValue>()? {
            // A name that is not Unicode (a lone surrogate) is legal JSON, and none that is wanted.
            let Some(name) = text(name).filter(|name| (self.0)(name)) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if members.iter().any(|(known, _)| *known == name) {
                return Err(serde::de::Error::custom("duplicate member"));
            }
            members.push((name, map.next_value()?));
        }
        Ok(members)
    }
}
