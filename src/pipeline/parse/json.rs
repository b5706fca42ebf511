//! Small readings of JSON text. [`is_json`] comes first: the others find their way only in text that is
//! known to be JSON, which is why they need not look at most of it.

use std::borrow::Cow;

use memchr::memchr2;
use serde::de::IgnoredAny;

/// Whether a text is one JSON value.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The value of a JSON string; none for anything else, or for text that is not Unicode.
pub fn text(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(value).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// A JSON text without the white space around it.
pub fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

/// Whether a value is `null`.
pub fn is_null(value: &str) -> bool {
    value == "null"
}

/// Why the members of an object could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersError {
    /// The value is no object.
    NotAnObject,
    /// A wanted member occurs twice.
    Duplicate,
}

/// The members of an object whose names are wanted, in their order.
pub type Members<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// Reads the wanted members of an object; the others are skipped, whatever they are.
pub fn members(object: &str, wanted: impl Fn(&str) -> bool) -> Result<Members<'_>, MembersError> {
    let mut reader = Reader::within(object, b'{').ok_or(MembersError::NotAnObject)?;
    let mut members: Members<'_> = Vec::with_capacity(8);
    while let Some(name) = reader.value() {
        let Some(value) = reader.value() else { break };
        // A name that is not Unicode (a lone surrogate) is legal JSON, and none that is wanted.
        let Some(name) = text(name).filter(|name| wanted(name)) else { continue };
        if members.iter().any(|(known, _)| *known == name) {
            return Err(MembersError::Duplicate);
        }
        members.push((name, value));
    }
    Ok(members)
}

/// The elements of an array; none for anything else.
pub fn elements(array: &str) -> Option<Vec<&str>> {
    let mut reader = Reader::within(array, b'[')?;
    Some(std::iter::from_fn(|| reader.value()).collect())
}

/// Where a string ends whose opening quote stands before `from`; at the end of the text if it never does.
pub fn after_string(text: &[u8], mut from: usize) -> usize {
    loop {
        let rest = text.get(from..).unwrap_or_default();
        match memchr2(b'"', b'\\', rest) {
            None => return text.len(),
            Some(at) if rest[at] == b'"' => return from + at + 1,
            // Whatever is escaped, a quote too, is part of the string.
            Some(at) => from += at + 2,
        }
    }
}

/// Goes from value to value inside one object or array.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Behind the opening bracket; none where the text does not begin with it.
    fn within(text: &'a str, bracket: u8) -> Option<Self> {
        (text.as_bytes().first() == Some(&bracket)).then_some(Self { text, at: 1 })
    }

    /// The next name, value or element; none at the closing bracket.
    fn value(&mut self) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        let between = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':');
        while bytes.get(self.at).is_some_and(between) {
            self.at += 1;
        }
        let start = self.at;
        self.at = match bytes.get(start)? {
            b'}' | b']' => return None,
            b'"' => after_string(bytes, start + 1),
            b'{' | b'[' => after_brackets(bytes, start),
            _ => {
                let ends = |byte: &u8| between(byte) || matches!(byte, b'}' | b']');
                let length = bytes[start..].iter().position(ends);
                length.map_or(bytes.len(), |length| start + length)
            }
        };
        self.text.get(start..self.at)
    }
}

/// Where the object or array ends that begins at `from`.
fn after_brackets(text: &[u8], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0usize);
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => at = after_string(text, at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            _ => {}
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn members_are_read_whatever_stands_around_them() {
        let object = " { \"a\" : { \"}\" : [\"]\\\"\"] } , \"b\\u0063\":-1.5e3 ,\n\"c\":\"\\\\\" ,\"\\ud800\":0, \"d\":null } ";
        assert!(is_json(object));
        let members = members(trim(object), |_| true).unwrap();
        let members: Vec<_> = members.iter().map(|(name, value)| (name.as_ref(), *value)).collect();
        let expected = [("a", "{ \"}\" : [\"]\\\"\"] }"), ("bc", "-1.5e3"), ("c", "\"\\\\\""), ("d", "null")];
        assert_eq!(members, expected);
    }

    #[test]
    fn only_a_wanted_member_must_not_occur_twice() {
        let object = r#"{"a":1,"b":2,"\u0061":3}"#;
        assert_eq!(members(object, |name| name == "a"), Err(MembersError::Duplicate));
        assert_eq!(members(object, |name| name == "b").unwrap(), [("b".into(), "2")]);
        assert_eq!(members("[]", |_| true), Err(MembersError::NotAnObject));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            "[\\\\\"{}\\[\\],: ]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map("[a-z\\\\\" {\\]]{0,4}", inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// serde_json is the judge of where each value begins and ends.
        #[test]
        fn it_reads_what_a_whole_parser_reads(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.unwrap();
            prop_assert!(is_json(&text));
            let judge = serde_json::from_str::<Vec<&RawValue>>(&text);
            let judge = judge.ok().map(|all| all.iter().map(|value| value.get()).collect::<Vec<_>>());
            prop_assert_eq!(elements(&text), judge);
            let judge = serde_json::from_str::<std::collections::BTreeMap<String, &RawValue>>(&text);
            let judge = judge.ok().map(|all| {
                all.into_iter().map(|(name, value)| (name, value.get())).collect::<Vec<_>>()
            });
            let mut read = members(&text, |_| true).ok().map(|all| {
                all.into_iter().map(|(name, value)| (name.into_owned(), value)).collect::<Vec<_>>()
            });
            if let Some(read) = &mut read { read.sort(); }
            prop_assert_eq!(read, judge);
        }

        #[test]
        fn text_that_is_no_json_does_no_harm(text in "[\\\\\"{}\\[\\],: a1é\n]{0,24}") {
            let _ = elements(&text);
            let _ = members(&text, |_| true);
        }
    }
}
