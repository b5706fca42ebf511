//! A JSON reader that gives the bytes of each value. Hand-written, because no crate gives spans at this cost (measured).
//!
//! Only [`is_json`] validates; the other functions skip most of the text. None recurses. For text that is not
//! JSON their result is meaningless, and harmless.

use std::borrow::Cow;
use std::collections::HashSet;

use memchr::memchr2;
use serde::de::IgnoredAny;

/// Whether a text is one JSON value.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The value of a JSON string; none for any other value, or for a string with a lone surrogate.
pub fn text(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(value).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The text without the white space around it.
pub fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

/// Whether a value is `null`.
pub fn is_null(value: &str) -> bool {
    value == "null"
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersError {
    NotAnObject,
    /// A wanted member occurs twice.
    Duplicate,
}

pub type Members<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// Reads the wanted members of an object and skips the others.
pub fn members(object: &str, wanted: impl Fn(&str) -> bool) -> Result<Members<'_>, MembersError> {
    let mut reader = Reader::within(object, b'{', usize::MAX).ok_or(MembersError::NotAnObject)?;
    let mut members: Members<'_> = Vec::with_capacity(8);
    while let Some(name) = reader.name() {
        let Some(value) = reader.value() else { break };
        let Some(name) = name.filter(|name| wanted(name)) else { continue };
        members.push((name, value));
    }
    if has_duplicates(&members) { Err(MembersError::Duplicate) } else { Ok(members) }
}

/// Up to this many names, comparing all pairs is fastest. A body may have 40,000.
const FEW: usize = 32;

fn has_duplicates(members: &[(Cow<'_, str>, &str)]) -> bool {
    let mut names = members.iter().map(|(name, _)| name.as_ref());
    if members.len() <= FEW {
        return names.enumerate().any(|(at, name)| members[..at].iter().any(|(known, _)| known == name));
    }
    let mut seen = HashSet::with_capacity(members.len());
    !names.all(|name| seen.insert(name))
}

/// Whether a JSON text nests no deeper than `limit`.
pub fn nests_within(text: &str, limit: usize) -> bool {
    match text.as_bytes().first() {
        Some(b'{' | b'[') => after_brackets(text.as_bytes(), 0, limit).is_some(),
        _ => true,
    }
}

/// The top level of an object, read in one pass.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outline<'a> {
    pub members: Members<'a>,
    /// The elements of the list member, if it is an array.
    pub elements: Option<Vec<&'a str>>,
    pub duplicate: bool,
}

/// Reads the wanted members of an object, and the elements of the one named `list`. None if the text nests deeper
/// than `limit`; an empty outline if it is not an object.
pub fn outline<'a>(
    text: &'a str,
    limit: usize,
    list: &str,
    wanted: impl Fn(&str) -> bool,
) -> Option<Outline<'a>> {
    let mut outline = Outline::default();
    let Some(mut reader) = Reader::within(text, b'{', limit) else {
        return nests_within(text, limit).then_some(outline);
    };
    while let Some(name) = reader.name() {
        let name = name.filter(|name| wanted(name));
        let is_list = name.as_deref() == Some(list);
        let value = if is_list { reader.list(&mut outline.elements) } else { reader.value() };
        let (Some(name), Some(value)) = (name, value) else { continue };
        outline.members.push((name, value));
    }
    outline.duplicate = has_duplicates(&outline.members);
    (!reader.too_deep).then_some(outline)
}

/// The end of the string whose opening quote is before `from`; the end of the text if it is not closed.
fn after_string(text: &[u8], mut from: usize) -> usize {
    loop {
        let rest = text.get(from..).unwrap_or_default();
        match memchr2(b'"', b'\\', rest) {
            None => return text.len(),
            Some(at) if rest[at] == b'"' => return from + at + 1,
            // The escaped character is part of the string, also a quote.
            Some(at) => from += at + 2,
        }
    }
}

/// The end of the object or array that begins at `from`; none if it nests deeper than `limit`.
fn after_brackets(text: &[u8], from: usize, limit: usize) -> Option<usize> {
    let (mut at, mut depth) = (from, 0usize);
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => at = after_string(text, at),
            b'{' | b'[' if depth == limit => return None,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    break;
                }
            }
            _ => {}
        }
    }
    Some(at)
}

/// Reads one object or array, value by value.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The deepest nesting of each value.
    limit: usize,
    too_deep: bool,
}

impl<'a> Reader<'a> {
    /// A reader after the opening bracket; none if the text does not begin with it.
    fn within(text: &'a str, bracket: u8, limit: usize) -> Option<Self> {
        let limit = limit.saturating_sub(1);
        (text.as_bytes().first() == Some(&bracket)).then_some(Self { text, at: 1, limit, too_deep: false })
    }

    /// The first byte of the next name or value; none at the closing bracket.
    fn next(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(is_between) {
            self.at += 1;
        }
        bytes.get(self.at).copied().filter(|byte| !matches!(byte, b'}' | b']'))
    }

    /// The next name. Inner none: a name with a lone surrogate, which is valid JSON and never wanted.
    fn name(&mut self) -> Option<Option<Cow<'a, str>>> {
        self.value().map(text)
    }

    /// The next name or value; none at the closing bracket, or if it nests too deep.
    fn value(&mut self) -> Option<&'a str> {
        let (first, start) = (self.next()?, self.at);
        let bytes = self.text.as_bytes();
        self.at = match first {
            b'"' => after_string(bytes, start + 1),
            b'{' | b'[' => match after_brackets(bytes, start, self.limit) {
                Some(end) => end,
                None => {
                    self.too_deep = true;
                    self.at = bytes.len();
                    return None;
                }
            },
            _ => {
                let ends = |byte: &u8| is_between(byte) || matches!(byte, b'}' | b']');
                let length = bytes[start..].iter().position(ends);
                length.map_or(bytes.len(), |length| start + length)
            }
        };
        self.text.get(start..self.at)
    }

    /// The next value; also its elements if it is an array.
    fn list(&mut self, elements: &mut Option<Vec<&'a str>>) -> Option<&'a str> {
        if self.next()? != b'[' || self.limit == 0 {
            return self.value();
        }
        let (start, limit) = (self.at, self.limit);
        self.at += 1;
        self.limit = limit.saturating_sub(1);
        *elements = Some(std::iter::from_fn(|| self.value()).collect());
        self.limit = limit;
        self.at += 1;
        self.text.get(start..self.at)
    }
}

/// Between values: white space (RFC 8259 section 2), commas and colons.
fn is_between(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn members_are_read_with_any_white_space() {
        let object = " { \"a\" : { \"}\" : [\"]\\\"\"] } , \"b\\u0063\":-1.5e3 ,\n\"c\":\"\\\\\" ,\"\\ud800\":0, \"d\":null } ";
        assert!(is_json(object));
        let members = members(trim(object), |_| true).unwrap();
        let members: Vec<_> = members.iter().map(|(name, value)| (name.as_ref(), *value)).collect();
        let expected = [("a", "{ \"}\" : [\"]\\\"\"] }"), ("bc", "-1.5e3"), ("c", "\"\\\\\""), ("d", "null")];
        assert_eq!(members, expected);
    }

    #[test]
    fn a_wanted_member_that_occurs_twice_is_an_error() {
        let object = r#"{"a":1,"b":2,"\u0061":3}"#;
        assert_eq!(members(object, |name| name == "a"), Err(MembersError::Duplicate));
        assert_eq!(members(object, |name| name == "b").unwrap(), [("b".into(), "2")]);
        assert_eq!(members("[]", |_| true), Err(MembersError::NotAnObject));
        let many = (0..=FEW).map(|at| format!("\"a{at}\":0")).collect::<Vec<_>>().join(",");
        assert_eq!(members(&format!("{{{many}}}"), |_| true).unwrap().len(), FEW + 1);
        let twins = format!("{{{many},\"\\u00617\":0}}");
        assert_eq!(members(&twins, |_| true), Err(MembersError::Duplicate));
        assert!(outline(&twins, 9, "list", |_| true).unwrap().duplicate);
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

    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(all) => 1 + all.iter().map(depth).max().unwrap_or(0),
            Value::Object(all) => 1 + all.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    proptest! {
        /// Compared with serde_json.
        #[test]
        fn values_equal_those_of_serde_json(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.unwrap();
            prop_assert!(is_json(&text));
            let judge = serde_json::from_str::<Vec<&RawValue>>(&text);
            let judge = judge.ok().map(|all| all.iter().map(|value| value.get()).collect::<Vec<_>>());
            let list = format!("{{\"a\":1,\"list\":{text}}}");
            prop_assert_eq!(outline(&list, 99, "list", |_| true).unwrap().elements, judge);
            let judge = serde_json::from_str::<std::collections::BTreeMap<String, &RawValue>>(&text);
            let judge = judge.ok().map(|all| {
                all.into_iter().map(|(name, value)| (name, value.get())).collect::<Vec<_>>()
            });
            let mut read = members(&text, |_| true).ok().map(|all| {
                all.into_iter().map(|(name, value)| (name.into_owned(), value)).collect::<Vec<_>>()
            });
            if let Some(read) = &mut read { read.sort(); }
            prop_assert_eq!(&read, &judge);
            let outline = outline(&text, 99, "no name", |_| true).unwrap();
            prop_assert!(!outline.duplicate && outline.elements.is_none());
            let mut read: Vec<_> =
                outline.members.into_iter().map(|(name, value)| (name.into_owned(), value)).collect();
            read.sort();
            prop_assert_eq!(read, judge.unwrap_or_default());
        }

        #[test]
        fn depth_is_the_deepest_nesting(value in json()) {
            let depth = depth(&value);
            let (text, list) = (value.to_string(), format!("{{\"a\":{value},\"list\":[{value}]}}"));
            for limit in 1..8 {
                prop_assert_eq!(nests_within(&text, limit), depth <= limit);
                prop_assert_eq!(outline(&text, limit, "a", |_| true).is_some(), depth <= limit);
                prop_assert_eq!(outline(&list, limit, "list", |_| true).is_some(), depth + 2 <= limit);
            }
        }

        #[test]
        fn invalid_json_does_no_harm(text in "[\\\\\"{}\\[\\],: a1é\n]{0,24}") {
            let _ = members(&text, |_| true);
            for object in [text.clone(), format!("{{\"a\":{text}"), format!("{{\"a\":[{text}")] {
                let _ = outline(&object, 3, "a", |_| true);
            }
        }
    }
}
