//! Drops events on purpose, by the source's own lists.

/// What an event is compared with. An empty list says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Event types, as `record.updated` or `record.*`.
    pub types: Vec<String>,
    /// Actor types, as `workspace-member`.
    pub actor_types: Vec<String>,
    /// Object ids.
    pub objects: Vec<String>,
    /// List ids.
    pub lists: Vec<String>,
    /// Attribute ids.
    pub attributes: Vec<String>,
}

/// Which events of a source go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// An event goes on only if it is in every list that is not empty.
    pub include: Rules,
    /// An event that is in any of these lists is dropped.
    pub exclude: Rules,
}
