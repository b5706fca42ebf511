//! The types of keys: each parses a raw value, names the range that its errors quote, and describes
//! itself for the reference and the JSON Schema.
//!
//! Text from the environment is read by the type of its key; a value of the file has its own type and is
//! never converted.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value as Json, json};

use super::diagnostics::{Diagnostics, nearest};
use super::secrets::usable_secret;
use super::tree::{Node, Origin, Value};
use crate::files;

pub const HIDDEN: &str = "***";

/// A value of the key's type and the JSON that shows it, or what is wrong with it.
pub type Parsed<T> = Result<(T, Json), String>;

pub trait Kind: Sync {
    type Value;
    /// Reads a raw value. Files that it names are recorded in the diagnostics.
    fn parse(&self, node: &Node, diagnostics: &Diagnostics) -> Parsed<Self::Value>;
    fn describe(&self) -> Description;
    fn secret<'v>(&self, _: &'v Self::Value) -> Option<&'v SecretString> {
        None
    }
}

/// What documents say about a type.
pub struct Description {
    pub name: &'static str,
    /// What is accepted; empty if everything of the type is.
    pub range: String,
    /// The JSON Schema of a value in the file.
    pub schema: Json,
    pub secret: bool,
}

impl Description {
    pub fn new(name: &'static str, range: impl Into<String>, schema: Json) -> Self {
        Self { name, range: range.into(), schema, secret: false }
    }
}

/// [`Kind`] without its value, so that keys of several types fit in one list.
pub trait Describe: Sync {
    fn description(&self) -> Description;
    /// The JSON of a value that is written as in the environment.
    fn json(&self, text: &str) -> Json;
}

impl<K: Kind> Describe for K {
    fn description(&self) -> Description {
        self.describe()
    }

    fn json(&self, text: &str) -> Json {
        let shown = self.parse(&declared(text), &Diagnostics::default());
        let shown = shown.map_or_else(|_| Json::from(text), |(_, json)| json);
        if self.describe().secret { Json::from(text) } else { shown }
    }
}

/// The node of a default or an example.
pub fn declared(text: &str) -> Node {
    Node::text(text, &Origin::Flag("declaration"))
}

pub struct Text;

impl Kind for Text {
    type Value = String;

    fn parse(&self, node: &Node, _: &Diagnostics) -> Parsed<String> {
        text(node)
    }

    fn describe(&self) -> Description {
        Description::new("text", "", json!({ "type": "string" }))
    }
}

fn text(node: &Node) -> Parsed<String> {
    match &node.value {
        Value::Text(text) => Ok((text.clone(), Json::from(text.as_str()))),
        other => Err(format!("expects text in quotes, not {}", other.kind())),
    }
}

pub struct Form(pub &'static Pattern);

pub struct Pattern {
    /// The form in words, after "expects".
    pub expects: &'static str,
    /// About the same as a regular expression, for editors. It refuses nothing that `accepts` accepts.
    pub regex: &'static str,
    pub accepts: fn(&str) -> bool,
}

impl Kind for Form {
    type Value = String;

    fn parse(&self, node: &Node, _: &Diagnostics) -> Parsed<String> {
        let parsed = text(node)?;
        if (self.0.accepts)(&parsed.0) {
            Ok(parsed)
        } else {
            Err(format!("expects {}, not {:?}", self.0.expects, parsed.0))
        }
    }

    fn describe(&self) -> Description {
        Description::new("text", self.0.expects, json!({ "type": "string", "pattern": self.0.regex }))
    }
}

/// A whole number in a range.
pub struct Integer<T>(pub RangeInclusive<T>);

/// What [`Integer`] reads: any whole number that is not negative.
pub trait Whole: Copy + PartialOrd + Sync + TryFrom<u64> + TryInto<u64> {}

impl<T: Copy + PartialOrd + Sync + TryFrom<u64> + TryInto<u64>> Whole for T {}

impl<T: Whole> Integer<T> {
    fn bounds(&self) -> (u64, u64) {
        let bound = |bound: &T| (*bound).try_into().unwrap_or(u64::MAX);
        (bound(self.0.start()), bound(self.0.end()))
    }

    fn range(&self) -> String {
        match self.bounds() {
            (start, u64::MAX) => format!("at least {start}"),
            (start, end) => format!("{start} to {end}"),
        }
    }
}

impl<T: Whole> Kind for Integer<T> {
    type Value = T;

    fn parse(&self, node: &Node, _: &Diagnostics) -> Parsed<T> {
        let form = || format!("expects a whole number of digits only, {}", self.range());
        let number = match &node.value {
            Value::Integer(number) => u64::try_from(*number).map_err(|_| form())?,
            Value::Text(text) if node.is_untyped() => {
                text.parse().map_err(|_| format!("{}, not {text:?}{}", form(), advice(text)))?
            }
            Value::Text(text) => return Err(format!("expects a whole number, not text{}", advice(text))),
            other => return Err(format!("expects a whole number, not {}", other.kind())),
        };
        match T::try_from(number) {
            Ok(value) if self.0.contains(&value) => Ok((value, Json::from(number))),
            _ => Err(outside(&self.range(), number)),
        }
    }

    fn describe(&self) -> Description {
        let (start, end) = self.bounds();
        let mut schema = json!({ "type": "integer", "minimum": start });
        if end < u64::MAX {
            schema["maximum"] = Json::from(end);
        }
        Description::new("integer", self.range(), schema)
    }
}

/// What to write for a text that holds a number: with a unit of bytes, with separators, or in quotes.
fn advice(text: &str) -> String {
    let Some((number, power)) = quantity(text) else { return String::new() };
    match 1024_u64.pow(power).checked_mul(number) {
        Some(bytes) if power > 0 => {
            format!("; {number} {}iB are {bytes}", [' ', 'K', 'M', 'G', 'T'][power as usize])
        }
        Some(number) => format!("; write {number}"),
        None => String::new(),
    }
}

/// The number in a text, with separators or without, and the power of its unit: 1 of `16KB`; none if it is something else.
pub fn quantity(text: &str) -> Option<(u64, u32)> {
    let digits: String = text.trim().chars().filter(|c| !matches!(c, '_' | ',' | '\'')).collect();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (number, unit) = (digits[..end].parse().ok()?, digits[end..].trim().to_lowercase());
    let unit =
        unit.trim_end_matches("ytes").trim_end_matches("yte").trim_end_matches('b').trim_end_matches('i');
    let is_unit = |prefix: char| unit.strip_prefix(prefix) == Some("");
    match "kmgt".chars().zip(1..).find(|(prefix, _)| is_unit(*prefix)) {
        Some((_, power)) => Some((number, power)),
        None => unit.is_empty().then_some((number, 0)),
    }
}

fn outside(range: &str, value: impl std::fmt::Display) -> String {
    let from = if range.starts_with("at") { "" } else { "from " };
    format!("must be {from}{range}, and is {value}")
}

pub struct TimeSpan(pub RangeInclusive<Duration>);

impl TimeSpan {
    fn range(&self) -> String {
        let shown = |duration: &Duration| humantime::format_duration(*duration).to_string();
        format!("{} to {}", shown(self.0.start()), shown(self.0.end()))
    }
}

impl Kind for TimeSpan {
    type Value = Duration;

    fn parse(&self, node: &Node, _: &Diagnostics) -> Parsed<Duration> {
        const FORM: &str = "expects a duration with its unit, such as \"250ms\", \"5s\" or \"96h\"";
        let text = match &node.value {
            Value::Text(text) => text,
            Value::Integer(number) => return Err(format!("{FORM}, not {number}, which has none")),
            other => return Err(format!("{FORM}, not {}", other.kind())),
        };
        let duration = humantime::parse_duration(text.trim()).map_err(|_| format!("{FORM}, not {text:?}"))?;
        if self.0.contains(&duration) {
            Ok((duration, Json::from(text.as_str())))
        } else {
            Err(outside(&self.range(), humantime::format_duration(duration)))
        }
    }

    fn describe(&self) -> Description {
        let schema = json!({ "type": "string", "pattern": r"^\s*([0-9]+\s*[A-Za-zµ]+\s*)+$" });
        Description::new("duration", self.range(), schema)
    }
}

pub struct Boolean;

impl Kind for Boolean {
    type Value = bool;

    fn parse(&self, node: &Node, _: &Diagnostics) -> Parsed<bool> {
        const FORM: &str = "expects `true` or `false`";
        let yes = match &node.value {
            Value::Bool(yes) => *yes,
            Value::Text(text) if node.is_untyped() => {
                text.parse().map_err(|_| format!("{FORM}, not {text:?}"))?
            }
            Value::Text(text) if text.parse::<bool>().is_ok() => {
                return Err(format!("{FORM}, not text: remove the quotes"));
            }
            other => return Err(format!("{FORM}, not {}", other.kind())),
        };
        Ok((yes, Json::from(yes)))
    }

    fn describe(&self) -> Description {
        Description::new("boolean", "", json!({ "type": "boolean" }))
    }
}

/// A list of texts; one text is split at its commas.
pub struct List;

impl Kind for List {
    type Value = Vec<String>;

    fn parse(&self, node: &Node, _: &Diagnostics) -> Parsed<Vec<String>> {
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

    fn describe(&self) -> Description {
        let schema = json!({ "type": ["array", "string"], "items": { "type": "string" } });
        Description::new("list of texts", "", schema)
    }
}

/// One of a closed set of words, each with its value.
pub struct Choice<T: 'static>(pub &'static [(&'static str, T)], pub Case);

/// Which spellings of a word are accepted.
pub enum Case {
    Exact,
    /// All lower, all upper, or mixed.
    Any,
}

impl<T: Copy + Sync> Kind for Choice<T> {
    type Value = T;

    fn parse(&self, node: &Node, _: &Diagnostics) -> Parsed<T> {
        let (given, _) = text(node)?;
        let is = |word: &str| match self.1 {
            Case::Exact => word == given,
            Case::Any => word.eq_ignore_ascii_case(&given),
        };
        match self.0.iter().find(|(word, _)| is(word)) {
            Some((word, value)) => Ok((*value, Json::from(*word))),
            None => {
                let words = self.words();
                let meant = nearest(&given, words.iter().copied());
                Err(format!("expects one of {}, not {given:?}{meant}", one_of(&words)))
            }
        }
    }

    fn describe(&self) -> Description {
        let words = self.words();
        let mut schema: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        if let Case::Any = self.1 {
            schema.extend(words.iter().flat_map(|word| [word.to_lowercase(), word.to_uppercase()]));
            let mut known = std::collections::BTreeSet::new();
            schema.retain(|word| known.insert(word.clone()));
        }
        Description::new("text", one_of(&words), json!({ "enum": schema }))
    }
}

impl<T> Choice<T> {
    fn words(&self) -> Vec<&'static str> {
        self.0.iter().map(|(word, _)| *word).collect()
    }
}

/// Words that are their own values.
pub const fn words<const N: usize>(words: [&'static str; N]) -> [(&'static str, &'static str); N] {
    let mut pairs = [("", ""); N];
    let mut index = 0;
    while index < N {
        pairs[index] = (words[index], words[index]);
        index += 1;
    }
    pairs
}

fn one_of(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

pub struct FilePath;

impl Kind for FilePath {
    type Value = PathBuf;

    fn parse(&self, node: &Node, _: &Diagnostics) -> Parsed<PathBuf> {
        match text(node)? {
            (text, _) if text.is_empty() => Err("is empty; name a file, or leave the key out".into()),
            (text, json) => Ok((text.into(), json)),
        }
    }

    fn describe(&self) -> Description {
        Description::new("path", "", json!({ "type": "string", "minLength": 1 }))
    }
}

/// A secret, given as text or (from the environment) as the name of a file.
pub struct Secret;

impl Kind for Secret {
    type Value = SecretString;

    fn parse(&self, node: &Node, diagnostics: &Diagnostics) -> Parsed<SecretString> {
        let value = match &node.value {
            Value::ReadFrom(path) => {
                diagnostics.file(path.as_ref());
                files::read_secret(path.as_ref())?
            }
            _ => SecretString::from(text(node)?.0),
        };
        usable_secret(&value)?;
        Ok((value, Json::from(HIDDEN)))
    }

    fn secret<'v>(&self, value: &'v SecretString) -> Option<&'v SecretString> {
        Some(value)
    }

    fn describe(&self) -> Description {
        Description {
            secret: true,
            ..Description::new("secret", "", json!({ "type": "string", "minLength": 1 }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: Integer<u64> = Integer(0..=u64::MAX);
    const ANY_SPAN: TimeSpan = TimeSpan(Duration::ZERO..=Duration::MAX);

    fn env(text: &str) -> Node {
        Node::text(text, &Origin::Environment("X".into()))
    }

    fn file(value: Value) -> Node {
        Node { value, origin: Origin::File { path: "c".into(), line: 1, column: 1, excerpt: None } }
    }

    fn read<K: Kind>(kind: &K, node: &Node) -> Result<K::Value, String> {
        kind.parse(node, &Diagnostics::default()).map(|(value, _)| value)
    }

    #[test]
    fn text_is_never_converted() {
        for value in ["00123", "true", "1e5", "[x]", " a ", ""] {
            assert_eq!(read(&Text, &env(value)).expect("text"), value);
        }
        assert!(read(&Text, &file(Value::Integer(5))).expect_err("a number").contains("not a whole number"));
    }

    #[test]
    fn integers_are_digits_in_their_range() {
        assert_eq!(read(&COUNT, &env("42")), Ok(42));
        for bad in ["", "-1", "1e5", "1_000", "0x10", "4.2", "many", "512KB"] {
            assert!(read(&COUNT, &env(bad)).is_err(), "{bad:?}");
        }
        assert!(read(&COUNT, &file(Value::Text("42".into()))).is_err(), "the file has its own types");
        assert!(read(&COUNT, &file(Value::Integer(-1))).is_err());
        assert_eq!(read(&Integer(1..=9u64), &env("10")), Err("must be from 1 to 9, and is 10".into()));
        assert_eq!(read(&Integer(1..=u64::MAX), &env("0")), Err("must be at least 1, and is 0".into()));
    }

    #[test]
    fn durations_have_a_unit_and_a_range() {
        let table = [("5s", 5_000), ("0ms", 0), ("96h", 345_600_000), ("1m 30s", 90_000)];
        for (given, millis) in table {
            assert_eq!(read(&ANY_SPAN, &env(given)), Ok(Duration::from_millis(millis)));
        }
        for bad in ["5", "", "s", "-5s", "5 parsecs"] {
            assert!(read(&ANY_SPAN, &env(bad)).expect_err("refused").contains("\"5s\""), "{bad:?}");
        }
        let short = TimeSpan(Duration::ZERO..=Duration::from_secs(1));
        assert_eq!(read(&short, &env("2s")), Err("must be from 0s to 1s, and is 2s".into()));
    }

    #[test]
    fn lists_split_at_commas() {
        assert_eq!(read(&List, &env("a, b,,c")).expect("a list"), ["a", "b", "c"]);
        assert!(read(&List, &file(Value::List(vec![file(Value::Integer(1))]))).is_err());
    }

    #[test]
    fn booleans_are_two_words() {
        assert_eq!(read(&Boolean, &env("true")), Ok(true));
        for bad in ["1", "yes", "TRUE", ""] {
            assert!(read(&Boolean, &env(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_choice_names_its_set() {
        let set = Choice(&[("a", 1), ("b", 2)], Case::Exact);
        assert_eq!(read(&set, &env("b")), Ok(2));
        assert_eq!(read(&set, &env("c")), Err("expects one of \"a\", \"b\", not \"c\"".into()));
        assert_eq!(read(&Choice(&[("PLAIN", 1)], Case::Any), &env("plain")), Ok(1));
    }
}
