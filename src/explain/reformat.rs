//! Serializes JSON again the way common programs do: what a proxy or a framework sends for a body that it
//! parses.

use serde_json::Value;

use crate::pipeline::parse::MAX_DEPTH;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Nowhere, as `JSON.stringify` and most libraries write.
    Compact,
    /// After colons and commas, as Python's `json.dumps` writes.
    Spaced,
    Indented(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escapes {
    Kept,
    /// Every character outside ASCII, as Python's `json.dumps` does.
    Ascii,
    /// As little as JSON allows.
    Fewest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Kept,
    /// By name, as Go's maps and many other libraries write.
    Sorted,
    Attio,
}

/// The members of Attio's bodies, in Attio's order; others are in front of `actor`.
const ATTIO: [&str; 16] = [
    "webhook_id",
    "events",
    "event_type",
    "type",
    "id",
    "event_id",
    "workspace_id",
    "object_id",
    "list_id",
    "record_id",
    "entry_id",
    "attribute_id",
    "parent_object_id",
    "parent_record_id",
    "",
    "actor",
];

/// JSON to serialize again: the texts of its strings, numbers and words, and its members in order.
#[derive(Clone, Debug)]
pub enum Json<'t> {
    Text(&'t str),
    List(Vec<Json<'t>>),
    Object(Vec<(&'t str, Json<'t>)>),
}

impl<'t> Json<'t> {
    /// None if the text is not JSON, or nests deeper than the bridge accepts.
    pub fn parse(text: &'t str) -> Option<Self> {
        serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
        Self::first(&mut text.trim(), MAX_DEPTH)
    }

    /// The first value of a text that is known to be JSON, of at most so many levels. The text then begins behind it.
    fn first(text: &mut &'t str, levels: usize) -> Option<Self> {
        let close = match text.chars().next()? {
            '[' => ']',
            '{' => '}',
            _ => return Some(Self::Text(scalar(text))),
        };
        let (mut names, mut values) = (Vec::new(), Vec::new());
        let levels = levels.checked_sub(1)?;
        *text = text[1..].trim_start();
        while !text.starts_with(close) {
            if close == '}' {
                names.push(scalar(text));
                *text = text.trim_start().strip_prefix(':')?.trim_start();
            }
            values.push(Self::first(text, levels)?);
            *text = text.trim_start();
            *text = text.strip_prefix(',').unwrap_or(text).trim_start();
        }
        *text = &text[1..];
        Some(match close {
            '}' => Self::Object(names.into_iter().zip(values).collect()),
            _ => Self::List(values),
        })
    }

    pub fn to_text(&self, style: Style, escapes: Escapes, order: Order) -> Option<String> {
        let mut out = String::new();
        self.write(&mut out, (style, escapes, order), 0)?;
        Some(out)
    }

    /// Why it does not look as Attio writes it; none if it does.
    pub fn difference(&self, text: &str) -> Option<&'static str> {
        let compact = |escapes, order| self.to_text(Style::Compact, escapes, order);
        let kept = compact(Escapes::Kept, Order::Kept)?;
        if kept != text {
            return Some("it has white space between its members");
        }
        if compact(Escapes::Kept, Order::Attio)? != kept {
            return Some("its members are in another order");
        }
        if compact(Escapes::Fewest, Order::Kept)? != kept {
            return Some("it has needless escapes in its strings");
        }
        self.has_odd_number().then_some("its numbers are written in another form")
    }

    /// Whether a number is written otherwise than `JSON.stringify` does: `1.0`, `1.50`, `1E5`.
    fn has_odd_number(&self) -> bool {
        match self {
            Self::Text(text) if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
                let value = serde_json::from_str::<Value>(text).ok().and_then(|value| value.as_f64());
                value.is_some_and(|value| (1e-6..1e15).contains(&value.abs()) && value.to_string() != *text)
            }
            Self::Text(_) => false,
            Self::List(items) => items.iter().any(Self::has_odd_number),
            Self::Object(members) => members.iter().any(|(_, value)| value.has_odd_number()),
        }
    }

    fn write(&self, out: &mut String, form: (Style, Escapes, Order), depth: usize) -> Option<()> {
        let (style, escapes, order) = form;
        let (brackets, mut entries) = match self {
            Self::Text(text) => {
                out.push_str(&respelled(text, escapes)?);
                return Some(());
            }
            Self::List(items) => ("[]", items.iter().map(|item| ("", item)).collect::<Vec<_>>()),
            Self::Object(members) => ("{}", members.iter().map(|(name, value)| (*name, value)).collect()),
        };
        let rank = |name: &str| {
            let known = ATTIO.iter().position(|known| *known == name.trim_matches('"'));
            known.unwrap_or(ATTIO.len() - 2)
        };
        match order {
            _ if brackets == "[]" => {}
            Order::Kept => {}
            Order::Sorted => entries.sort_by_key(|(name, _)| *name),
            Order::Attio => entries.sort_by_key(|(name, _)| rank(name)),
        }
        let (comma, colon) = match style {
            Style::Compact => (",", ":"),
            Style::Spaced => (", ", ": "),
            Style::Indented(_) => (",", ": "),
        };
        let line = |out: &mut String, depth: usize| {
            if let Style::Indented(width) = style {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', width * depth));
            }
        };
        out.push_str(&brackets[..1]);
        for (at, (name, value)) in entries.iter().enumerate() {
            out.push_str(if at > 0 { comma } else { "" });
            line(out, depth + 1);
            if !name.is_empty() {
                out.push_str(&respelled(name, escapes)?);
                out.push_str(colon);
            }
            value.write(out, form, depth + 1)?;
        }
        if !entries.is_empty() {
            line(out, depth);
        }
        out.push_str(&brackets[1..]);
        Some(())
    }
}

/// The string, number or word at the beginning of a text, which then begins behind it.
fn scalar<'t>(text: &mut &'t str) -> &'t str {
    let end = if text.starts_with('"') {
        let mut escaped = false;
        let quote = text.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        quote.map(|at| at + 2)
    } else {
        text.find(|c: char| c.is_ascii_whitespace() || ",:]}".contains(c))
    };
    let (scalar, rest) = text.split_at(end.unwrap_or(text.len()));
    *text = rest;
    scalar
}

fn respelled(scalar: &str, escapes: Escapes) -> Option<String> {
    if escapes == Escapes::Kept || !scalar.starts_with('"') {
        return Some(scalar.to_owned());
    }
    let value: String = serde_json::from_str(scalar).ok()?;
    let plain = serde_json::to_string(&value).ok()?;
    if escapes == Escapes::Fewest {
        return Some(plain);
    }
    let mut out = String::with_capacity(plain.len());
    for c in plain.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| out += &format!("\\u{unit:04x}"));
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str =
        "{ \"b\" : [1, 2.50 ,{}],\n \"a\":\"x \\/ \\u00eb \u{1f600} \\\" , : {\" , \"e\": [ ] }";

    fn reformat(text: &str, style: Style, escapes: Escapes, order: Order) -> Option<String> {
        Json::parse(text)?.to_text(style, escapes, order)
    }

    #[test]
    fn each_style_escape_and_order() {
        let table = [
            (Style::Compact, Escapes::Kept, r#"{"b":[1,2.50,{}],"a":"x \/ \u00eb 😀 \" , : {","e":[]}"#),
            (Style::Compact, Escapes::Fewest, r#"{"b":[1,2.50,{}],"a":"x / ë 😀 \" , : {","e":[]}"#),
            (
                Style::Spaced,
                Escapes::Ascii,
                r#"{"b": [1, 2.50, {}], "a": "x / \u00eb \ud83d\ude00 \" , : {", "e": []}"#,
            ),
            (
                Style::Indented(2),
                Escapes::Fewest,
                "{\n  \"b\": [\n    1,\n    2.50,\n    {}\n  ],\n  \"a\": \"x / ë 😀 \\\" , : {\",\n  \"e\": []\n}",
            ),
        ];
        for (style, escapes, expected) in table {
            let found = reformat(ODD, style, escapes, Order::Kept);
            assert_eq!(found.as_deref(), Some(expected), "{style:?} {escapes:?}");
        }
        let event = r#"{"actor":1,"id":{"workspace_id":2,"record_id":3},"x":4,"event_type":5}"#;
        let orders = [
            (Order::Sorted, r#"{"actor":1,"event_type":5,"id":{"record_id":3,"workspace_id":2},"x":4}"#),
            (Order::Attio, r#"{"event_type":5,"id":{"workspace_id":2,"record_id":3},"x":4,"actor":1}"#),
        ];
        for (order, expected) in orders {
            let found = reformat(event, Style::Compact, Escapes::Kept, order);
            assert_eq!(found.as_deref(), Some(expected), "{order:?}");
        }
    }

    #[test]
    fn reformatted_json_has_the_same_value_and_is_stable() {
        let before: serde_json::Value = serde_json::from_str(ODD).unwrap();
        for style in [Style::Compact, Style::Spaced, Style::Indented(4)] {
            for escapes in [Escapes::Kept, Escapes::Ascii, Escapes::Fewest] {
                for order in [Order::Kept, Order::Sorted, Order::Attio] {
                    let after = reformat(ODD, style, escapes, order).unwrap();
                    assert_eq!(serde_json::from_str::<serde_json::Value>(&after).unwrap(), before);
                    assert_eq!(reformat(&after, style, escapes, order), Some(after.clone()), "{style:?}");
                }
            }
        }
    }

    #[test]
    fn text_that_is_not_json_is_not_reformatted() {
        for text in ["", "{", "{\"a\":}", "\"a"] {
            assert!(Json::parse(text).is_none(), "{text}");
        }
        assert_eq!(reformat("[1,{}]", Style::Spaced, Escapes::Kept, Order::Kept).as_deref(), Some("[1, {}]"));
    }

    #[test]
    fn json_nested_deeper_than_the_bridge_accepts_is_not_reformatted() {
        let nested = |levels: usize| ["[".repeat(levels), "]".repeat(levels)].concat();
        assert!(Json::parse(&nested(MAX_DEPTH)).is_some());
        for levels in [MAX_DEPTH + 1, 1_000_000] {
            assert!(Json::parse(&nested(levels)).is_none(), "{levels}");
        }
    }

    #[test]
    fn difference_from_what_attio_writes() {
        let table = [
            (r#"{"webhook_id":"w","events":[{"event_type":"a.b","id":{"workspace_id":"x"},"n":1.5}]}"#, None),
            (r#"{"webhook_id": "w"}"#, Some("white space")),
            (r#"{"events":[],"webhook_id":"w"}"#, Some("another order")),
            (r#"{"a":"\u00eb"}"#, Some("escapes")),
            (r#"{"a":"\/"}"#, Some("escapes")),
            (r#"{"a":1.50}"#, Some("numbers")),
            (r#"{"a":-10.0}"#, Some("numbers")),
        ];
        for (text, expected) in table {
            let found = Json::parse(text).unwrap().difference(text);
            assert_eq!(found.is_some(), expected.is_some(), "{text}: {found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{text}: {found:?}");
        }
    }
}
