//! What differs between two JSON texts, in words. Numbers are compared as they are written.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object, repeated ones too, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// Adds what became of `sent`; nothing if `got` is the same bytes.
pub fn compare(sent: &[u8], got: &[u8], lost: &mut BTreeSet<String>) {
    if sent == got {
        return;
    }
    let (Ok(sent), Ok(got)) = (serde_json::from_slice(sent), serde_json::from_slice(got)) else {
        let (sent, got) = without_common_ends(sent, got);
        lost.insert(format!("`{sent}` becomes `{got}`, which is no JSON"));
        return;
    };
    lost.insert("white space and escapes of `data`".to_owned());
    values(sent, got, lost);
}

/// What stands between the bytes that both begin and end with.
fn without_common_ends<'a>(sent: &'a [u8], got: &'a [u8]) -> (Cow<'a, str>, Cow<'a, str>) {
    let same = |pair: &(&u8, &u8)| pair.0 == pair.1;
    let start = sent.iter().zip(got).take_while(same).count();
    let (sent, got) = (&sent[start..], &got[start..]);
    let end = sent.iter().rev().zip(got.iter().rev()).take_while(same).count();
    let middle = |bytes: &'a [u8]| String::from_utf8_lossy(&bytes[..bytes.len() - end]);
    (middle(sent), middle(got))
}

fn values(sent: &RawValue, got: &RawValue, lost: &mut BTreeSet<String>) {
    let (sent, got) = (sent.get(), got.get());
    let changed = || format!("`{sent}` becomes `{got}`");
    match (sent.as_bytes()[0], got.as_bytes()[0]) {
        (b'{', b'{') => {
            let (Ok(Members(sent)), Ok(Members(got))) =
                (serde_json::from_str(sent), serde_json::from_str(got))
            else {
                unreachable!("they are objects");
            };
            members(&sent, &got, lost);
        }
        (b'[', b'[') => {
            let read = |text| serde_json::from_str::<Vec<&RawValue>>(text).expect("it is an array");
            let (sent, got) = (read(sent), read(got));
            if sent.len() != got.len() {
                lost.insert(changed());
            }
            sent.into_iter().zip(got).for_each(|(sent, got)| values(sent, got, lost));
        }
        (b'"', b'"') => {
            // Half a character is no string of Rust.
            let text = |raw: &str| serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned());
            if text(sent) != text(got) {
                lost.insert(changed());
            }
        }
        _ if sent != got => {
            lost.insert(changed());
        }
        _ => {}
    }
}

fn members(sent: &[(String, &RawValue)], got: &[(String, &RawValue)], lost: &mut BTreeSet<String>) {
    let names = |members: &[(String, &RawValue)]| {
        let mut names: Vec<String> = Vec::new();
        for (name, _) in members {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    };
    let last = |of: &[(String, &RawValue)], name: &str| {
        of.iter().rfind(|(found, _)| found == name).map(|(_, raw)| raw.get().to_owned())
    };
    if sent.len() != got.len() && names(sent).len() == got.len() {
        lost.insert("all but the last of members with one name".to_owned());
    }
    let order: Vec<_> = names(got).into_iter().filter(|name| last(sent, name).is_some()).collect();
    let all: BTreeSet<_> = names(sent).into_iter().chain(names(got)).collect();
    for name in &all {
        match (last(sent, name), last(got, name)) {
            (Some(sent), Some(got)) => {
                let raw = |text| RawValue::from_string(text).expect("it was read before");
                values(&raw(sent), &raw(got), lost);
            }
            (Some(_), None) => drop(lost.insert(format!("the member `{name}`"))),
            (None, _) => drop(lost.insert(format!("a member `{name}` is added"))),
        }
    }
    if order.len() == names(sent).len() && order != names(sent) {
        lost.insert("the order of members".to_owned());
    }
}

#[test]
fn differences_are_told_in_words() {
    let told = |sent: &str, got: &str| {
        let mut lost = BTreeSet::new();
        compare(sent.as_bytes(), got.as_bytes(), &mut lost);
        lost.into_iter().collect::<Vec<_>>().join("; ")
    };
    let form = "white space and escapes of `data`";
    for (sent, got, words) in [
        (r#"{"a":1}"#, r#"{"a":1}"#, ""),
        (r#"{"a": "\u00e9"}"#, r#"{"a":"é"}"#, form),
        (r#"{"a":1.0}"#, r#"{"a":1}"#, "`1.0` becomes `1`; {}"),
        (r#"{"a":[1,"x"]}"#, r#"{"a":[2,"y"]}"#, "`\"x\"` becomes `\"y\"`; `1` becomes `2`; {}"),
        (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, "the order of members; {}"),
        (r#"{"a":1,"a":2}"#, r#"{"a":2}"#, "all but the last of members with one name; {}"),
        (r#"{"a":1,"b":2}"#, r#"{"a":1,"c":2}"#, "a member `c` is added; the member `b`; {}"),
        (r#"{"a":1E400}"#, r#"{"a":Infinity}"#, "`1E400` becomes `Infinity`, which is no JSON"),
    ] {
        assert_eq!(told(sent, got), words.replace("{}", form), "{sent} {got}");
    }
}
