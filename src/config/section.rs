//! One table while it is read. Every getter notes the key, its value and its origin; keys that
//! nobody has asked for when the section is dropped are unknown.
//!
//! A value that was refused is replaced by its default, so that reading goes on and finds every
//! problem; the problem itself keeps the configuration from being used.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value as Json;

use super::report::{Given, Report};
use super::secret;
use super::tree::{Node, Origin, Table, Value};
use super::types::{self, Parsed};

/// How a secret is shown.
pub const HIDDEN: &str = "***";

/// A table that is being read.
pub struct Section<'r> {
    report: &'r Report,
    key: String,
    table: Table,
    /// Where it begins, if it is anywhere.
    place: Option<Origin>,
}

impl<'r> Section<'r> {
    /// The whole tree.
    pub fn root(report: &'r Report, table: Table) -> Self {
        Self { report, key: String::new(), table, place: None }
    }

    /// The table of that name; an empty one where it is absent.
    pub fn section(&mut self, name: &str) -> Self {
        match self.take(name) {
            Some(node) => self.child(name, node),
            None => Self { report: self.report, key: self.key(name), table: Table::new(), place: None },
        }
    }

    /// Reads a node as a table below this one.
    pub fn child(&self, name: &str, node: Node) -> Self {
        Self::of(self.report, self.key(name), node)
    }

    fn of(report: &'r Report, key: String, node: Node) -> Self {
        let table = match node.value {
            Value::Table(table) => table,
            other => {
                let message = format!("expects a table, not {}", other.kind());
                report.problem(&key, Some(&node.origin), message);
                Table::new()
            }
        };
        Self { report, key, table, place: Some(node.origin) }
    }

    /// Where it begins, if it is anywhere.
    pub fn place(&self) -> Option<&Origin> {
        self.place.as_ref()
    }

    /// Says that a key of this table has to be there and is not: one table of many is known by its place.
    pub fn missing(&self, name: &str, message: &str) {
        self.report.problem(&self.key(name), self.place.as_ref(), message);
    }

    /// Everything in a table whose names are the operator's own.
    pub fn entries(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    /// The tables of a list of tables.
    pub fn tables(&mut self, name: &str) -> Vec<Self> {
        let Some(node) = self.take(name) else { return Vec::new() };
        let key = self.key(name);
        let items = match node.value {
            Value::List(items) => items,
            Value::Table(table) if counted(&table) => by_number(table),
            other => {
                let message = format!("expects a list of tables, not {}", other.kind());
                self.report.problem(&key, Some(&node.origin), message);
                return Vec::new();
            }
        };
        let item = |(index, node)| Self::of(self.report, format!("{key}[{index}]"), node);
        items.into_iter().enumerate().map(item).collect()
    }

    /// The full path of a key of this table.
    pub fn key(&self, name: &str) -> String {
        if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) }
    }

    /// The path of this table.
    pub fn path(&self) -> &str {
        &self.key
    }

    /// Where findings go.
    pub fn report(&self) -> &'r Report {
        self.report
    }

    /// The raw value of a key.
    pub fn take(&mut self, name: &str) -> Option<Node> {
        self.report.known(self.key(name));
        self.table.remove(name)
    }

    /// A key of any type, without a default.
    pub fn optional<T>(&mut self, name: &str, parse: impl Fn(&Node) -> Parsed<T>) -> Option<Given<T>> {
        let key = self.key(name);
        let Some(node) = self.take(name) else {
            self.report.setting(&key, Json::Null, None);
            return None;
        };
        match parse(&node) {
            Ok((value, json)) => {
                self.report.setting(&key, json, Some(&node.origin));
                Some(Given { key, value, origin: node.origin })
            }
            Err(message) => {
                self.report.problem(&key, Some(&node.origin), message);
                None
            }
        }
    }

    /// A key of any type; `default` is written as it would be in the environment.
    pub fn or<T>(&mut self, name: &str, default: &str, parse: impl Fn(&Node) -> Parsed<T>) -> Given<T> {
        let standard = Node::text(default, &Origin::Flag("default"));
        let (value, json) = parse(&standard).expect("a default is of its key's type");
        if !self.table.contains_key(name) {
            let key = self.key(name);
            self.report.known(key.clone());
            self.report.setting(&key, json, Some(&Origin::Default));
            return Given { key, value, origin: Origin::Default };
        }
        let key = self.key(name);
        self.optional(name, parse).unwrap_or(Given { key, value, origin: Origin::Default })
    }

    /// Text without a default.
    pub fn text(&mut self, name: &str) -> Option<Given<String>> {
        self.optional(name, types::text)
    }

    /// Text.
    pub fn text_or(&mut self, name: &str, default: &str) -> Given<String> {
        self.or(name, default, types::text)
    }

    /// A list of texts, empty by default.
    pub fn list(&mut self, name: &str) -> Given<Vec<String>> {
        self.or(name, "", types::list)
    }

    /// A whole number in a range.
    pub fn whole_or(&mut self, name: &str, default: &str, range: RangeInclusive<u64>) -> Given<u64> {
        self.or(name, default, |node| within(types::whole(node)?, &range))
    }

    /// A whole number in a range, without a default.
    pub fn whole(&mut self, name: &str, range: RangeInclusive<u64>) -> Option<Given<u64>> {
        self.optional(name, |node| within(types::whole(node)?, &range))
    }

    /// A duration in a range.
    pub fn duration_or(
        &mut self,
        name: &str,
        default: &str,
        range: RangeInclusive<Duration>,
    ) -> Given<Duration> {
        self.or(name, default, |node| lasting(types::duration(node)?, &range))
    }

    /// A duration in a range, without a default.
    pub fn duration(&mut self, name: &str, range: RangeInclusive<Duration>) -> Option<Given<Duration>> {
        self.optional(name, |node| lasting(types::duration(node)?, &range))
    }

    /// The name of a file.
    pub fn path_of(&mut self, name: &str) -> Option<Given<PathBuf>> {
        let given = self.text(name)?;
        if given.value.is_empty() {
            self.report.refuse(&given, "is empty; name a file or leave the key out");
        }
        Some(Given { key: given.key, value: given.value.into(), origin: given.origin })
    }

    /// A secret, given as text or (from the environment) as the name of a file.
    pub fn secret(&mut self, name: &str) -> Option<Given<SecretString>> {
        let report = self.report;
        let given = self.optional(name, |node| {
            let value = match &node.value {
                Value::ReadFrom(path) => secret::read(path, report)?,
                _ => SecretString::from(types::text(node)?.0),
            };
            secret::not_empty(&value)?;
            Ok((value, Json::from(HIDDEN)))
        })?;
        report.secret(&given.key, given.value.clone());
        Some(given)
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        for (name, node) in std::mem::take(&mut self.table) {
            self.report.unknown(self.key(&name), node.origin);
        }
    }
}

/// Whether a table is a list whose items were named by number, as only the environment does.
fn counted(table: &Table) -> bool {
    table.keys().all(|name| name.parse::<u16>().is_ok())
}

fn by_number(table: Table) -> Vec<Node> {
    let mut items: Vec<_> = table.into_iter().collect();
    items.sort_by_key(|(name, _)| name.parse::<u16>().ok());
    items.into_iter().map(|(_, node)| node).collect()
}

fn within((number, json): (u64, Json), range: &RangeInclusive<u64>) -> Parsed<u64> {
    if range.contains(&number) {
        return Ok((number, json));
    }
    match *range.end() {
        u64::MAX => Err(format!("must be at least {}, and is {number}", range.start())),
        end => Err(format!("must be from {} to {end}, and is {number}", range.start())),
    }
}

fn lasting((duration, json): (Duration, Json), range: &RangeInclusive<Duration>) -> Parsed<Duration> {
    let shown = |duration: &Duration| humantime::format_duration(*duration).to_string();
    if range.contains(&duration) {
        Ok((duration, json))
    } else {
        let (start, end) = (shown(range.start()), shown(range.end()));
        Err(format!("must be from {start} to {end}, and is {}", shown(&duration)))
    }
}
