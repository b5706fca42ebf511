//! JSON as YAML. Every text is quoted: many parsers read a plain `2026-11-24T07:47:53.667Z` as a date and a plain `on`
//! as true, which `serde_yaml_ng` does not quote.

use serde_json::Value as Json;

pub fn to_string(document: &Json) -> String {
    let mut out = String::new();
    write(&mut out, document, 0);
    out
}

/// Writes a value that begins a line, or a list item.
fn write(out: &mut String, value: &Json, depth: usize) {
    // The first entry of an item stands behind its dash.
    let indent = |out: &mut String| {
        if !out.ends_with("- ") {
            out.push_str(&"  ".repeat(depth));
        }
    };
    match value {
        Json::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                indent(out);
                out.push_str(&key(name));
                out.push(':');
                member(out, value, depth);
            }
        }
        Json::Array(items) if !items.is_empty() => {
            for item in items {
                indent(out);
                out.push_str("- ");
                write(out, item, depth + 1);
            }
        }
        scalar => {
            out.push_str(&scalar.to_string());
            out.push('\n');
        }
    }
}

fn member(out: &mut String, value: &Json, depth: usize) {
    let nested = value.as_object().is_some_and(|members| !members.is_empty())
        || value.as_array().is_some_and(|items| !items.is_empty());
    out.push(if nested { '\n' } else { ' ' });
    write(out, value, depth + 1);
}

fn key(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let word = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let is_plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(plain)
        && !word.contains(&name.to_ascii_lowercase().as_str());
    if is_plain { name.to_owned() } else { Json::from(name).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_reads_back_as_the_same_json() {
        let document = json!({
            "a": { "$ref": "#/b/c", "on": true, "empty": {}, "none": [], "x y": null },
            "list": [1, "2026-11-24T07:47:53.667Z", { "k": ["v", { "w": "é \"\\\n" }], "l": -1.5 }, [["deep"], []]],
        });
        let text = to_string(&document);
        assert_eq!(serde_yaml_ng::from_str::<Json>(&text).unwrap(), document, "{text}");
        assert!(text.contains("- k:\n      - \"v\"\n"), "{text}");
    }
}
