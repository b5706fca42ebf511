//! Serializes JSON again the way common programs do: what a proxy or a framework sends for a body that it
//! parses. The order of members is kept.

/// Where white space goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// None at all, as `JSON.stringify` and most libraries write.
    Compact,
    /// After colons and commas, as Python's `json.dumps` writes.
    Spaced,
    /// Lines indented by so many spaces.
    Indented(usize),
}

/// What is escaped in strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escapes {
    /// What was escaped before.
    Kept,
    /// Every character outside ASCII, as Python's `json.dumps` does.
    Ascii,
    /// As little as JSON allows.
    Fewest,
}

/// Serializes JSON again; none if it is not JSON.
pub fn reformat(text: &str, style: Style, escapes: Escapes) -> Option<String> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        match c {
            '"' => {
                let (string, after) = rest.split_at(string_end(rest));
                out += &respell(string, escapes)?;
                rest = after;
                continue;
            }
            '{' | '[' => {
                out.push(c);
                let after = rest[1..].trim_start();
                if after.starts_with(['}', ']']) {
                    out.push_str(&after[..1]);
                    rest = &after[1..];
                    continue;
                }
                depth += 1;
                line(&mut out, style, depth);
            }
            '}' | ']' => {
                depth -= 1;
                line(&mut out, style, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                match style {
                    Style::Spaced => out.push(' '),
                    Style::Compact | Style::Indented(_) => line(&mut out, style, depth),
                }
            }
            ':' => out.push_str(if style == Style::Compact { ":" } else { ": " }),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

fn line(out: &mut String, style: Style, depth: usize) {
    if let Style::Indented(width) = style {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', width * depth));
    }
}

/// The length of the string at the beginning of `text`, quotes included.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn respell(string: &str, escapes: Escapes) -> Option<String> {
    if escapes == Escapes::Kept {
        return Some(string.to_owned());
    }
    let value: String = serde_json::from_str(string).ok()?;
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

    #[test]
    fn each_style_and_escape() {
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
            assert_eq!(reformat(ODD, style, escapes).as_deref(), Some(expected), "{style:?} {escapes:?}");
        }
    }

    #[test]
    fn reformatted_json_has_the_same_value_and_is_stable() {
        let before: serde_json::Value = serde_json::from_str(ODD).unwrap();
        for style in [Style::Compact, Style::Spaced, Style::Indented(4)] {
            for escapes in [Escapes::Kept, Escapes::Ascii, Escapes::Fewest] {
                let after = reformat(ODD, style, escapes).unwrap();
                assert_eq!(serde_json::from_str::<serde_json::Value>(&after).unwrap(), before);
                assert_eq!(reformat(&after, style, escapes), Some(after.clone()), "{style:?}");
            }
        }
    }

    #[test]
    fn text_that_is_not_json_is_not_reformatted() {
        for text in ["", "{", "{\"a\":}", "\"a"] {
            assert_eq!(reformat(text, Style::Compact, Escapes::Kept), None, "{text}");
        }
    }
}
