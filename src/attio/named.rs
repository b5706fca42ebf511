//! What has an id and a slug: objects, lists, attributes; and what the key is.

use serde::Deserialize;

/// An object, a list or an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its id, by which events name it.
    pub id: String,
    /// Its slug, by which people name it. Attio lets it be absent.
    pub slug: Option<String>,
}

/// Whose attributes are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// An object's.
    Object,
    /// A list's.
    List,
}

impl Owner {
    /// Its part of a path.
    pub fn path(self) -> &'static str {
        match self {
            Self::Object => "objects",
            Self::List => "lists",
        }
    }
}

/// What the key is good for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Token {
    /// Whether Attio accepts it.
    pub active: bool,
    /// Its workspace.
    #[serde(default)]
    pub workspace_id: Option<String>,
    /// The name of the workspace.
    #[serde(default)]
    pub workspace_name: Option<String>,
    /// What it may do, separated by spaces.
    #[serde(default)]
    pub scope: Option<String>,
}
