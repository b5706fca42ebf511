//! The tree that the layers are merged in: raw values, each with its origin.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value as Json;

/// What the variables of keys begin with.
pub const PREFIX: &str = "ATTIO_BRIDGE__";

/// The variables of a process. They are passed in, never read here.
pub type Environment = BTreeMap<String, OsString>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        path: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// The character of the line, from 1.
        column: usize,
        /// What may be shown of the line.
        excerpt: Option<Arc<Excerpt>>,
    },
    Environment(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, .. } => write!(f, "file {path}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The part of a line that a message is about. The file holds secrets, so nothing of it is shown but the key,
/// and the value where its key is declared and no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The shown part of the line; `…` replaces the rest.
    pub text: String,
    /// The bytes of `text` that the message is about.
    pub mark: Range<usize>,
}

/// The environment variable of a key.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").replace('-', "_").to_uppercase())
}

/// A raw value and its origin. It may hold a secret, so it has no `Debug`.
pub struct Node {
    pub value: Value,
    pub origin: Origin,
}

pub type Table = BTreeMap<String, Node>;

/// A raw value. The environment and flags give only `Text` and `ReadFrom`.
pub enum Value {
    Text(String),
    /// The name of the file that holds the text: a variable `…_FILE`.
    ReadFrom(String),
    Integer(i64),
    Bool(bool),
    /// What no key accepts: fractions, dates, numbers that are too large.
    Other(&'static str, Json),
    List(Vec<Node>),
    Table(Table),
}

impl Value {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::ReadFrom(_) => "the name of a file",
            Self::Integer(_) => "a whole number",
            Self::Bool(_) => "true or false",
            Self::Other(kind, _) => kind,
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    pub fn as_table(&self) -> Option<&Table> {
        if let Self::Table(table) = self { Some(table) } else { None }
    }

    pub fn to_json(&self) -> Json {
        match self {
            Self::Text(text) | Self::ReadFrom(text) => Json::from(text.as_str()),
            Self::Integer(number) => Json::from(*number),
            Self::Bool(yes) => Json::from(*yes),
            Self::Other(_, json) => json.clone(),
            Self::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Table(table) => {
                table.iter().map(|(name, node)| (name.clone(), node.value.to_json())).collect()
            }
        }
    }
}

impl Node {
    /// Text of the environment or of a flag.
    pub fn text(text: impl Into<String>, origin: &Origin) -> Self {
        Self { value: Value::Text(text.into()), origin: origin.clone() }
    }

    pub fn into_text(self) -> Option<String> {
        match self.value {
            Value::Text(text) | Value::ReadFrom(text) => Some(text),
            _ => None,
        }
    }

    pub fn into_table(self) -> Option<Table> {
        match self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub fn table(origin: &Origin) -> Self {
        Self { value: Value::Table(Table::new()), origin: origin.clone() }
    }

    /// Whether it is text of the environment or of a flag, which the type of its key reads.
    pub fn is_untyped(&self) -> bool {
        matches!(self.origin, Origin::Environment(_) | Origin::Flag(_))
    }
}
