//! One table while it is read. Reading a key records it with its value and origin; keys that are left when
//! the section is dropped are unknown.
//!
//! A value that is refused is replaced by its default, so that reading continues and finds every problem; the
//! problem itself keeps the configuration from being used.

use serde_json::Value as Json;

use super::diagnostics::Diagnostics;
use super::kinds::{Describe, Description, Kind, declared};
use super::tree::{Node, Origin, Table, Value, variable};

pub struct Section<'d> {
    diagnostics: &'d Diagnostics,
    path: String,
    table: Table,
    /// Where it begins; none for a table that is absent.
    origin: Option<Origin>,
    /// Whether its keys are settings, for `config` to print.
    listed: bool,
}

impl<'d> Section<'d> {
    pub fn root(diagnostics: &'d Diagnostics, table: Table) -> Self {
        Self::new(diagnostics, String::new(), table, None)
    }

    fn new(diagnostics: &'d Diagnostics, path: String, table: Table, origin: Option<Origin>) -> Self {
        Self { diagnostics, path, table, origin, listed: true }
    }

    /// The table of that name; an empty one if it is absent.
    pub fn section(&mut self, name: &str) -> Self {
        match self.take(name) {
            Some(node) => self.child(name, node),
            None => Self::new(self.diagnostics, self.key(name), Table::new(), None),
        }
    }

    pub fn child(&self, name: &str, node: Node) -> Self {
        let (path, origin) = (self.key(name), node.origin.clone());
        let table = self.as_table(&path, node).unwrap_or_default();
        Self::new(self.diagnostics, path, table, Some(origin))
    }

    fn as_table(&self, path: &str, node: Node) -> Option<Table> {
        match node.value {
            Value::Table(table) => Some(table),
            other => {
                let message = format!("expects a table, not {}", other.kind());
                self.diagnostics.problem(path, Some(&node.origin), message);
                None
            }
        }
    }

    pub fn unlisted(mut self) -> Self {
        self.listed = false;
        self
    }

    /// Everything in a table whose names are the operator's own.
    pub fn entries(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    pub fn names(&self) -> Vec<String> {
        self.table.keys().cloned().collect()
    }

    /// The tables of a list of tables; what is no table is left out, with a problem.
    pub fn tables(&mut self, name: &str) -> Vec<Self> {
        let Some(node) = self.take(name) else { return Vec::new() };
        let key = self.key(name);
        let items = match node.value {
            Value::List(items) => items,
            Value::Table(table) if is_numbered(&table) => by_number(table),
            other => {
                let message = format!("expects a list of tables, not {}", other.kind());
                self.diagnostics.problem(&key, Some(&node.origin), message);
                return Vec::new();
            }
        };
        let item = |(index, node): (usize, Node)| {
            let (path, origin) = (format!("{key}[{index}]"), node.origin.clone());
            let table = self.as_table(&path, node)?;
            Some(Self::new(self.diagnostics, path, table, Some(origin)))
        };
        items.into_iter().enumerate().filter_map(item).collect()
    }

    /// The full path of a key of this table.
    pub fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where this table begins; none if it is absent.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    pub fn diagnostics(&self) -> &'d Diagnostics {
        self.diagnostics
    }

    pub fn missing(&self, name: &str, message: &str) {
        self.diagnostics.required(&self.key(name), self.origin.as_ref(), message);
    }

    pub fn refuse(&self, name: &str, message: impl Into<String>) {
        self.diagnostics.refuse(&self.key(name), message);
    }

    pub fn warn(&self, name: &str, message: impl Into<String>) {
        self.diagnostics.warn(&self.key(name), message);
    }

    /// A key with a default, which also replaces a value that is refused.
    pub fn or_default<K: Kind>(&mut self, key: &Key, kind: &K, default: &str) -> K::Value {
        let standard = kind.parse(&declared(default), self.diagnostics);
        let (value, json) = standard.expect("a default is of its key's type");
        if !self.table.contains_key(key.name()) {
            let path = self.key(key.name());
            self.diagnostics.known(path.clone());
            self.record(&path, json, Some(&Origin::Default));
            return value;
        }
        let path = self.key(key.name());
        self.if_set(key, kind).unwrap_or_else(|| {
            self.diagnostics.read_from(&path, &Origin::Default);
            value
        })
    }

    /// A key without a default.
    pub fn if_set<K: Kind>(&mut self, key: &Key, kind: &K) -> Option<K::Value> {
        let path = self.key(key.name());
        let Some(node) = self.take(key.name()) else {
            if key.required {
                self.missing(key.name(), &required(key, &path));
            } else {
                self.record(&path, Json::Null, None);
            }
            return None;
        };
        match kind.parse(&node, self.diagnostics) {
            Ok((value, json)) => {
                self.record(&path, json, Some(&node.origin));
                if let Some(secret) = kind.secret(&value) {
                    self.diagnostics.secret(&path, secret.clone());
                }
                Some(value)
            }
            Err(message) => {
                self.diagnostics.problem(&path, Some(&node.origin), message);
                None
            }
        }
    }

    fn record(&self, path: &str, value: Json, origin: Option<&Origin>) {
        if self.listed {
            self.diagnostics.setting(path, value, origin);
        } else if let Some(origin) = origin {
            self.diagnostics.read_from(path, origin);
        }
    }

    fn take(&mut self, name: &str) -> Option<Node> {
        self.diagnostics.known(self.key(name));
        self.table.remove(name)
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        for (name, node) in std::mem::take(&mut self.table) {
            self.diagnostics.unknown(self.key(&name), node.origin);
        }
    }
}

/// The message about a required key that is missing.
fn required(key: &Key, path: &str) -> String {
    let mut message = format!("required, as in {} = {}", key.name(), key.shown());
    let range = key.description().range;
    if !range.is_empty() {
        message.push_str(&format!("; expects {range}"));
    }
    if !path.contains('[') {
        message.push_str(&format!(" (also {})", variable(path)));
    }
    message
}

/// Whether a table is a list whose items are named by number, as only the environment does.
fn is_numbered(table: &Table) -> bool {
    table.keys().all(|name| name.parse::<u16>().is_ok())
}

fn by_number(table: Table) -> Vec<Node> {
    let mut items: Vec<_> = table.into_iter().collect();
    items.sort_by_key(|(name, _)| name.parse::<u16>().ok());
    items.into_iter().map(|(_, node)| node).collect()
}

pub struct Key {
    /// Its name, as [`name`](Self::name) cleans it.
    pub name: &'static str,
    pub kind: &'static dyn Describe,
    /// Its default value, written as in the environment.
    pub default: Option<&'static str>,
    /// A value to show if there is no default.
    pub example: Option<&'static str>,
    /// Whether its table is not good without it.
    pub required: bool,
    /// Lines of text, each with the space of its doc comment.
    pub doc: &'static str,
}

impl Key {
    pub fn name(&self) -> &'static str {
        // `type` is a word of Rust.
        self.name.trim_start_matches("r#")
    }

    pub fn description(&self) -> Description {
        self.kind.description()
    }

    /// Its default, else its example, as the file has it: JSON of these types is TOML.
    pub fn shown(&self) -> String {
        self.kind.json(self.default.or(self.example).unwrap_or_default()).to_string()
    }

    /// What it does; one line of the declaration a line.
    pub fn doc(&self) -> impl Iterator<Item = &'static str> {
        self.doc.lines().map(|line| line.strip_prefix(' ').unwrap_or(line))
    }
}

/// Declares the keys of a table, in the order in which they are read and documented. `Keys { … }` reads them into
/// a struct of that name, `Keys => Target { … }` into the target.
///
/// * `name: Kind = "default";` is read as its value, here and below written as in the environment;
/// * `name: Kind like "example";` has no default and is read as an option;
/// * `name: Kind required "example";` is a problem if it is missing, and an option too.
macro_rules! keys {
    (
        $Keys:ident $(=> $Target:ty)? {
            $(
                $(#[doc = $doc:literal])+
                $name:ident: $kind:ident $(<$of:ty>)? $(($($range:tt)*))?
                $(= $default:literal)? $(like $example:literal)? $(required $needed:literal)?;
            )*
        }
    ) => {
        $crate::config::section::declare! {
            $Keys $(=> $Target)? {
                $($name: $crate::config::section::field!($kind $(<$of>)?, $($default)?),)*
            }
        }

        impl $Keys {
            pub const KEYS: &'static [$crate::config::section::Key] = &[$(
                $crate::config::section::Key {
                    name: stringify!($name),
                    kind: &$kind $(::<$of>)? $(($($range)*))?,
                    default: $crate::config::section::option!($($default)?),
                    example: $crate::config::section::option!($($example)? $($needed)?),
                    required: $crate::config::section::option!($($needed)?).is_some(),
                    doc: concat!($($doc, "\n"),+),
                }
            ),*];

            pub fn read(
                section: &mut $crate::config::section::Section<'_>,
            ) -> $crate::config::section::target!($Keys $(=> $Target)?) {
                type Target = $crate::config::section::target!($Keys $(=> $Target)?);
                let mut keys = Self::KEYS.iter();
                Target { $($name: {
                    let key = keys.next().expect("KEYS has one for each field");
                    $crate::config::section::read!(section, key, $kind $(::<$of>)? $(($($range)*))?, $($default)?)
                }),* }
            }
        }
    };
}

/// The struct that holds the keys, or only their declaration where another one does.
macro_rules! declare {
    ($Keys:ident { $($name:ident: $field:ty,)* }) => {
        pub struct $Keys {
            $($name: $field,)*
        }
    };
    ($Keys:ident => $Target:ty { $($fields:tt)* }) => {
        pub struct $Keys;
    };
}

/// What the keys are read into.
macro_rules! target {
    ($Keys:ident) => {
        $Keys
    };
    ($Keys:ident => $Target:ty) => {
        $Target
    };
}

/// The type of a field.
macro_rules! field {
    ($kind:ty, $default:literal) => { <$kind as $crate::config::kinds::Kind>::Value };
    ($kind:ty,) => { Option<<$kind as $crate::config::kinds::Kind>::Value> };
}

macro_rules! read {
    ($section:ident, $key:ident, $kind:expr, $default:literal) => {
        $section.or_default($key, &$kind, $default)
    };
    ($section:ident, $key:ident, $kind:expr,) => {
        $section.if_set($key, &$kind)
    };
}

/// What is there, if anything is.
macro_rules! option {
    () => {
        None::<&str>
    };
    ($text:literal) => {
        Some($text)
    };
}

pub(super) use {declare, field, keys, option, read, target};
