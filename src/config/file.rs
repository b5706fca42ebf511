//! The file layer: TOML into the tree, each value with its place and with what may be shown of its line.
//! A message about the syntax names the place, and never quotes the line, which may hold a secret.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Diagnostics;
use super::sections::{is_name, is_open};
use super::tree::{Excerpt, Node, Origin, Table, Value};

const HIDDEN: &str = "…";

/// Stands for the key in problems with the file as a whole.
pub const FILE: &str = "configuration file";

pub fn parse(text: &str, path: &str, diagnostics: &Diagnostics) -> Table {
    let reader = Reader { text, path: path.into() };
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty()
        && let Some(other) = other_format(text, path)
    {
        let message = format!(
            "is {other}, and should be TOML: `[http]` on a line, below it `listen = \"0.0.0.0:8080\"`; \
             deploy/config.example.toml shows every key"
        );
        diagnostics.problem(FILE, Some(&reader.origin(0, None)), message);
        return Table::new();
    }
    let mut told = BTreeSet::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        // What follows from the first error of a line, or from a table that is there twice, is no error of its own.
        let (line, header) = (reader.line(span.start), reader.header(span.start));
        if told.insert(line) && (line == header || !told.contains(&header)) {
            let message = reader.syntax_error(error.message(), span.clone());
            diagnostics.problem(FILE, Some(&reader.origin(span.start, None)), message);
        }
    }
    let mut tree = reader.table(document.into_inner(), &mut Vec::new());
    flatten_properties(&mut tree);
    tree
}

/// The format of a file that is not TOML, by its name or its first line.
fn other_format(text: &str, path: &str) -> Option<&'static str> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let first = first.unwrap_or_default();
    let name = path.to_lowercase();
    let yaml = first == "---" || first.ends_with(':') || (first.contains(": ") && !first.contains('='));
    if name.ends_with(".json") || first.starts_with('{') {
        Some("JSON")
    } else {
        (yaml || name.ends_with(".yaml") || name.ends_with(".yml")).then_some("YAML")
    }
}

struct Reader<'t> {
    text: &'t str,
    path: Arc<str>,
}

impl Reader<'_> {
    fn origin(&self, offset: usize, excerpt: Option<Excerpt>) -> Origin {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&before[begin..]).chars().count() + 1;
        Origin::File { path: self.path.clone(), line, column, excerpt: excerpt.map(Arc::new) }
    }

    /// Where the line of an offset begins.
    fn line(&self, offset: usize) -> usize {
        self.text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1)
    }

    /// Where the line with the table of an offset begins.
    fn header(&self, offset: usize) -> usize {
        let mut line = self.line(offset);
        while line > 0 && !self.text[line..].trim_start_matches([' ', '\t']).starts_with('[') {
            line = self.line(line - 1);
        }
        line
    }

    /// The message of the parser with the key, if that is a declared one, and what to do. Nothing else of the line is
    /// shown: it may hold a secret.
    fn syntax_error(&self, message: &str, span: Range<usize>) -> String {
        let line = self.text[self.line(span.start)..].lines().next().unwrap_or_default();
        let name = line.split('=').next().unwrap_or_default().trim().trim_matches(['[', ']', '"']);
        let last = name.rsplit('.').next().unwrap_or(name);
        let at = if is_name(last) { format!(" at `{last}`") } else { String::new() };
        let value = self.text.get(span.start..).unwrap_or_default();
        let advice = match message {
            "duplicate key" => "; it is there twice: keep one of the two, or merge them",
            _ if message.starts_with("string values must be quoted")
                && value.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                "; a duration is text in quotes, \"5s\"; a size is a number of bytes without a unit, 524288"
            }
            _ if message.starts_with("string values must be quoted") => "; put the value in quotes",
            _ if message.contains("string, expected") => "; a quote that closes the text is missing",
            _ if message.starts_with("key with no value") => "; write `key = value`",
            _ if message.starts_with("unclosed table") => "; a table is `[name]` on a line of its own",
            _ => "",
        };
        format!("is not valid TOML{at}: {}{advice}", message.replace('\n', " "))
    }

    fn table(&self, table: DeTable<'_>, path: &mut Vec<String>) -> Table {
        let mut read = Table::new();
        for (name, value) in table {
            let (key, span) = (name.span(), value.span());
            let name: Cow<'_, str> = name.into_inner();
            path.push(name.clone().into_owned());
            let value = self.value(value.into_inner(), path);
            let excerpt = self.excerpt(key.clone(), span, path, &value);
            path.pop();
            read.insert(name.into_owned(), Node { value, origin: self.origin(key.start, excerpt) });
        }
        read
    }

    fn list(&self, items: Vec<Spanned<DeValue<'_>>>, path: &mut [String]) -> Vec<Node> {
        let Some((name, table)) = path.split_last() else { return Vec::new() };
        let mut path = table.to_vec();
        path.push(format!("{name}[]"));
        let mut item = |item: Spanned<DeValue<'_>>| {
            let origin = self.origin(item.span().start, None);
            Node { value: self.value(item.into_inner(), &mut path), origin }
        };
        items.into_iter().map(&mut item).collect()
    }

    fn value(&self, value: DeValue<'_>, path: &mut Vec<String>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other("a number that is too large", Json::from(number.as_str())),
            },
            DeValue::Float(number) => {
                let text = number.as_str();
                let json = text.parse::<f64>().map_or_else(|_| Json::from(text), Json::from);
                Value::Other("a fraction", json)
            }
            DeValue::Boolean(yes) => Value::Bool(yes),
            DeValue::Datetime(time) => Value::Other("a date or time", Json::from(time.to_string())),
            DeValue::Array(items) => Value::List(self.list(items.into_iter().collect(), path)),
            DeValue::Table(table) => Value::Table(self.table(table, path)),
        }
    }

    /// What may be shown of a key and its value: the key, and a plain value of a key that is declared and no
    /// secret.
    fn excerpt(
        &self,
        key: Range<usize>,
        value: Range<usize>,
        path: &[String],
        read: &Value,
    ) -> Option<Excerpt> {
        let name = self.text.get(key.clone())?;
        let begin = self.text[..key.start].rfind('\n').map_or(0, |at| at + 1);
        let before = &self.text[begin..key.start];
        let mut text = match before.trim().is_empty() {
            true => before.to_owned(),
            // As wide, so that columns are those of the file.
            false => format!("{HIDDEN}{:width$}", "", width = before.chars().count() - 1),
        };
        let mut mark = text.len()..text.len() + name.len();
        text.push_str(name);
        let sign = self.text.get(key.end..value.start).unwrap_or_default();
        if sign.trim() == "=" {
            text.push_str(sign);
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            match self.text.get(value).filter(|value| is_open(&path) && is_plain(read, value)) {
                Some(value) => {
                    mark = text.len()..text.len() + value.len();
                    text.push_str(value);
                }
                None => text.push_str(HIDDEN),
            }
        }
        Some(Excerpt { text, mark })
    }
}

/// Whether a value holds no table, stands on one line without escapes, and is no URL with a login or a query.
fn is_plain(value: &Value, text: &str) -> bool {
    let scalar = |value: &Value| !matches!(value, Value::Table(_) | Value::List(_));
    let plain = match value {
        Value::List(items) => items.iter().all(|item| scalar(&item.value)),
        other => scalar(other),
    };
    plain && !text.contains(['\n', '\\', '@', '?']) && !text.contains("\"\"\"") && !text.contains("'''")
}

/// `linger.ms` and `"linger.ms"` are one librdkafka property, though TOML nests the first.
fn flatten_properties(tree: &mut Table) {
    let Some(Node { value: Value::Table(kafka), .. }) = tree.get_mut("kafka") else { return };
    let Some(Node { value: Value::Table(properties), .. }) = kafka.get_mut("properties") else { return };
    let nested = std::mem::take(properties);
    flatten("", nested, properties);
}

fn flatten(prefix: &str, table: Table, into: &mut Table) {
    for (name, node) in table {
        let name = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match node.value {
            Value::Table(inner) => flatten(&name, inner, into),
            value => drop(into.insert(name, Node { value, origin: node.origin })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "canary";

    /// The excerpt of the key at the end of a path, and the part of it that is marked.
    fn excerpt(text: &str, path: &[&str]) -> Option<(String, String)> {
        let mut tree = parse(text, "c", &Diagnostics::default());
        let (name, tables) = path.split_last()?;
        for table in tables {
            let node = match tree.remove(*table)?.value {
                Value::List(mut items) => items.remove(0).value,
                other => other,
            };
            let Value::Table(inner) = node else { return None };
            tree = inner;
        }
        let Origin::File { excerpt, .. } = tree.remove(*name)?.origin else { return None };
        let Excerpt { text, mark } = (*excerpt?).clone();
        let marked = text[mark].to_owned();
        Some((text, marked))
    }

    fn pair(text: &str, marked: &str) -> Option<(String, String)> {
        Some((text.into(), marked.into()))
    }

    #[test]
    fn excerpt_shows_and_marks_a_plain_value() {
        let table = [
            ("listen = \"nowhere\" # why", "listen = \"nowhere\"", "\"nowhere\""),
            ("listen=5", "listen=5", "5"),
            ("  \"listen\" = 'x'", "  \"listen\" = 'x'", "'x'"),
            ("listen = [\"a\", 'b'] # c", "listen = [\"a\", 'b']", "[\"a\", 'b']"),
            ("listen = \"żółć\"", "listen = \"żółć\"", "\"żółć\""),
        ];
        for (line, text, marked) in table {
            assert_eq!(excerpt(&format!("[http]\n{line}\n"), &["http", "listen"]), pair(text, marked));
        }
        let inline = "http = { body = 1, listen = true }";
        assert_eq!(excerpt(inline, &["http", "listen"]), pair("…                  listen = true", "true"));
        let file = "[sources.a]\nsecrets = [{ file = \"/x\" }]";
        let shown = excerpt(file, &["sources", "a", "secrets", "file"]);
        assert_eq!(shown, pair("…            file = \"/x\"", "\"/x\""));
    }

    #[test]
    fn excerpt_hides_the_value_of_an_unknown_key_and_of_a_secret() {
        let file = format!("passwrod = \"{CANARY}\"");
        assert_eq!(excerpt(&file, &["passwrod"]), pair("passwrod = …", "passwrod"));
        let secret = format!("[kafka]\nsasl_password = \"{CANARY}\"");
        assert_eq!(excerpt(&secret, &["kafka", "sasl_password"]), pair("sasl_password = …", "sasl_password"));
        assert_eq!(excerpt("[htttp]", &["htttp"]), pair("…htttp", "htttp"));
    }

    #[test]
    fn excerpt_shows_no_secret() {
        let table = [
            (format!("kafka.sasl_password = \"{CANARY}\""), &["kafka", "sasl_password"] as &[&str]),
            (format!("[attio]\napi_key = \"{CANARY}\""), &["attio", "api_key"]),
            (
                format!("[kafka.properties]\n\"ssl.key.pasword\" = \"{CANARY}\""),
                &["kafka", "properties", "ssl.key.pasword"],
            ),
            (
                format!("[sources.a]\nsecrets = [{{ label = \"a\", value = \"{CANARY}\" }}]"),
                &["sources", "a", "secrets"],
            ),
            (
                format!("[sources.a]\nsecrets = [{{ value = \"{CANARY}\" }}]"),
                &["sources", "a", "secrets", "value"],
            ),
            (format!("[sources.a]\nsecrets = [\"{CANARY}\"]"), &["sources", "a", "secrets"]),
            (format!("[sources]\nattio = {{ secrets = [\"{CANARY}\"] }}"), &["sources", "attio"]),
            (format!("[nats]\nservers = \"nats://me:{CANARY}@n\""), &["nats", "servers"]),
            (format!("[[webhooks]]\ntarget_url = \"http://n/?token={CANARY}\""), &["webhooks", "target_url"]),
            (format!("[http]\nlisten = \"\"\"{CANARY}\"\"\""), &["http", "listen"]),
            (format!("[http]\nlisten = \"\\\"{CANARY}\""), &["http", "listen"]),
            (format!("[http]\nlisten = 5 # {CANARY}"), &["http", "listen"]),
            (format!("http = {{ a = \"{CANARY}\", listen = 5, b = \"{CANARY}\" }}"), &["http", "listen"]),
        ];
        for (text, path) in table {
            let (shown, _) = excerpt(&text, path).unwrap_or_else(|| panic!("{text}"));
            assert!(!shown.contains(CANARY), "{text}");
        }
    }

    #[test]
    fn values_have_their_lines() {
        let diagnostics = Diagnostics::default();
        let tree = parse("a = 1\n[http]\nlisten = \"x\"\n", "c.toml", &diagnostics);
        let Value::Table(http) = &tree["http"].value else { panic!("a table") };
        assert_eq!(http["listen"].origin.to_string(), "file c.toml:3");
    }

    #[test]
    fn syntax_error_names_the_line_and_quotes_nothing() {
        let diagnostics = Diagnostics::default();
        parse("[sources.attio]\nsecrets = [{ value = \"canary-canary-canary }]\n", "c.toml", &diagnostics);
        let problems = diagnostics.finish().problems;
        assert!(!problems.is_empty());
        assert!(problems[0].to_string().contains("file c.toml:2"), "{}", problems[0]);
        assert!(problems.iter().all(|problem| !problem.to_string().contains("canary")));
    }

    #[test]
    fn librdkafka_properties_are_flat() {
        let diagnostics = Diagnostics::default();
        let tree =
            parse("[kafka.properties]\nsocket.keepalive.enable = true\n\"a.b\" = 1\n", "c", &diagnostics);
        let Value::Table(kafka) = &tree["kafka"].value else { panic!("a table") };
        let Value::Table(properties) = &kafka["properties"].value else { panic!("a table") };
        let names: Vec<_> = properties.keys().collect();
        assert_eq!(names, ["a.b", "socket.keepalive.enable"]);
    }
}
