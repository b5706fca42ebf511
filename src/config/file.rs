//! The file layer: TOML into the tree. A message about the syntax names the place, and never quotes
//! the line, which may hold a secret.

use std::sync::Arc;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::Report;
use super::tree::{Node, Origin, Table, Value};

/// Parses the text of a file. What is wrong with it goes to the report.
pub fn parse(text: &str, path: &str, report: &Report) -> Table {
    report.text(text);
    let reader = Reader { text, path: path.into() };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = reader.origin(error.span().map_or(0, |span| span.start));
        report.problem("(syntax)", Some(&at), error.message().replace('\n', " "));
    }
    let mut tree = reader.table(document.into_inner());
    flatten_properties(&mut tree);
    tree
}

struct Reader<'t> {
    text: &'t str,
    path: Arc<str>,
}

impl Reader<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&before[begin..]).chars().count() + 1;
        Origin::File { path: self.path.clone(), line, column }
    }

    fn table(&self, table: DeTable<'_>) -> Table {
        let entry = |(name, value): (Spanned<_>, Spanned<DeValue<'_>>)| {
            let origin = self.origin(name.span().start);
            let name: std::borrow::Cow<'_, str> = name.into_inner();
            (name.into_owned(), Node { value: self.value(value.into_inner()), origin })
        };
        table.into_iter().map(entry).collect()
    }

    fn item(&self, item: Spanned<DeValue<'_>>) -> Node {
        let origin = self.origin(item.span().start);
        Node { value: self.value(item.into_inner()), origin }
    }

    fn value(&self, value: DeValue<'_>) -> Value {
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
            DeValue::Array(items) => Value::List(items.into_iter().map(|item| self.item(item)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }
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

    #[test]
    fn values_know_their_lines() {
        let report = Report::default();
        let tree = parse("a = 1\n[http]\nlisten = \"x\"\n", "c.toml", &report);
        let Value::Table(http) = &tree["http"].value else { panic!("a table") };
        assert_eq!(http["listen"].origin.to_string(), "file c.toml:3");
    }

    #[test]
    fn a_syntax_error_names_the_line_and_quotes_nothing() {
        let report = Report::default();
        parse("[sources.attio]\nsecrets = [{ value = \"canary-canary-canary }]\n", "c.toml", &report);
        let problems = report.finish().problems;
        assert!(!problems.is_empty());
        assert!(problems[0].to_string().contains("file c.toml:2"), "{}", problems[0]);
        assert!(problems.iter().all(|problem| !problem.to_string().contains("canary")));
    }

    #[test]
    fn properties_are_flat() {
        let report = Report::default();
        let tree = parse("[kafka.properties]\nsocket.keepalive.enable = true\n\"a.b\" = 1\n", "c", &report);
        let Value::Table(kafka) = &tree["kafka"].value else { panic!("a table") };
        let Value::Table(properties) = &kafka["properties"].value else { panic!("a table") };
        let names: Vec<_> = properties.keys().collect();
        assert_eq!(names, ["a.b", "socket.keepalive.enable"]);
    }
}
