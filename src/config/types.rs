//! The types of keys: how a raw value becomes one, and what the message says where it does not.
//!
//! Each parser also gives the value as JSON, for the `config` verb. Text from the environment is
//! read by the type of its key; a value of the file has its own type and is never converted.

use std::time::Duration;

use serde_json::Value as Json;

use super::suggest;
use super::tree::{Node, Value};

/// A value of the key's type and how it is shown, or what is wrong with it.
pub type Parsed<T> = Result<(T, Json), String>;

/// Text, exactly as it is.
pub fn text(node: &Node) -> Parsed<String> {
    match &node.value {
        Value::Text(text) => Ok((text.clone(), Json::from(text.as_str()))),
        other => Err(format!("expects text in quotes, not {}", other.kind())),
    }
}

/// A whole number, not less than 0.
pub fn whole(node: &Node) -> Parsed<u64> {
    let number = match &node.value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::Text(text) if node.is_untyped() => text.parse().ok(),
        other => return Err(format!("expects a whole number, not {}", other.kind())),
    };
    let number = number.ok_or("expects a whole number, not less than 0, of digits only")?;
    Ok((number, Json::from(number)))
}

/// `true` or `false`.
pub fn boolean(node: &Node) -> Parsed<bool> {
    let yes = match &node.value {
        Value::Bool(yes) => *yes,
        Value::Text(text) if node.is_untyped() => {
            text.parse().map_err(|_| "expects `true` or `false`".to_owned())?
        }
        other => return Err(format!("expects `true` or `false`, not {}", other.kind())),
    };
    Ok((yes, Json::from(yes)))
}

/// A length of time, such as `5s`.
pub fn duration(node: &Node) -> Parsed<Duration> {
    const FORM: &str = "expects a duration with its unit, such as \"250ms\", \"5s\" or \"96h\"";
    match &node.value {
        Value::Text(text) => match humantime::parse_duration(text.trim()) {
            Ok(duration) => Ok((duration, Json::from(text.as_str()))),
            Err(_) => Err(FORM.into()),
        },
        other => Err(format!("{FORM}, not {}", other.kind())),
    }
}

/// A list of texts; one text is split at its commas.
pub fn list(node: &Node) -> Parsed<Vec<String>> {
    const FORM: &str = "expects a list of texts";
    let items: Vec<String> = match &node.value {
        Value::Text(text) => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(String::from).collect()
        }
        Value::List(items) => items
            .iter()
            .map(|item| text(item).map(|(text, _)| text))
            .collect::<Result<_, _>>()
            .map_err(|message| format!("{FORM}; one item {message}"))?,
        other => return Err(format!("{FORM}, not {}", other.kind())),
    };
    let json = Json::from(items.clone());
    Ok((items, json))
}

/// One of a closed set of words.
pub fn choice<T: Copy>(node: &Node, set: &[(&'static str, T)]) -> Parsed<T> {
    let (given, _) = text(node)?;
    match set.iter().find(|(word, _)| *word == given) {
        Some((word, value)) => Ok((*value, Json::from(*word))),
        None => {
            let words: Vec<_> = set.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let meant = suggest::nearest(&given, set.iter().map(|(word, _)| *word));
            Err(format!("expects one of {}, not {given:?}{meant}", words.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Origin;
    use super::*;

    fn env(text: &str) -> Node {
        Node::text(text, &Origin::Environment("X".into()))
    }

    fn file(value: Value) -> Node {
        Node { value, origin: Origin::File { path: "c".into(), line: 1, column: 1 } }
    }

    #[test]
    fn text_is_never_guessed_into_anything() {
        for value in ["00123", "true", "1e5", "[x]", " a ", ""] {
            assert_eq!(text(&env(value)).expect("text").0, value);
        }
        assert!(text(&file(Value::Integer(5))).expect_err("a number").contains("not a whole number"));
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!(whole(&env("42")).expect("a number").0, 42);
        for bad in ["", "-1", "1e5", "1_000", "0x10", "4.2", "many"] {
            assert!(whole(&env(bad)).is_err(), "{bad:?}");
        }
        assert!(whole(&file(Value::Text("42".into()))).is_err(), "the file has its own types");
        assert!(whole(&file(Value::Integer(-1))).is_err());
    }

    #[test]
    fn durations_have_a_unit() {
        let table = [("5s", 5_000), ("0ms", 0), ("96h", 345_600_000), ("1m 30s", 90_000)];
        for (given, millis) in table {
            assert_eq!(duration(&env(given)).expect("a duration").0, Duration::from_millis(millis));
        }
        for bad in ["5", "", "s", "-5s", "5 parsecs"] {
            assert!(duration(&env(bad)).expect_err("refused").contains("\"5s\""), "{bad:?}");
        }
    }

    #[test]
    fn lists_split_at_commas() {
        assert_eq!(list(&env("a, b,,c")).expect("a list").0, ["a", "b", "c"]);
        assert!(list(&file(Value::List(vec![file(Value::Integer(1))]))).is_err());
    }

    #[test]
    fn booleans_are_two_words() {
        assert!(boolean(&env("true")).expect("a boolean").0);
        for bad in ["1", "yes", "TRUE", ""] {
            assert!(boolean(&env(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_choice_names_its_set() {
        let set = [("a", 1), ("b", 2)];
        assert_eq!(choice(&env("b"), &set).expect("a word").0, 2);
        assert_eq!(choice(&env("c"), &set).expect_err("refused"), "expects one of \"a\", \"b\", not \"c\"");
    }
}
