//! Slugs of objects and lists (`people`, `sales_pipeline`) by the ids in events.
//!
//! They are read from a file that `slugs pull` writes, or a person: the data path calls no API. An id that is not
//! in the file has no slug.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalog;

/// The version of the file format.
pub const VERSION: u32 = 1;

/// The slugs file. Unknown members are ignored.
///
/// ```json
/// {"version": 1, "workspace_id": "14be…", "objects": {"97d0…": "people"}, "lists": {"33eb…": "sales"}}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slugs {
    version: u32,
    /// The workspace of the objects and lists; informational.
    pub workspace_id: String,
    /// Slugs of objects by object id.
    pub objects: BTreeMap<String, String>,
    /// Slugs of lists by list id.
    pub lists: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("is not a slugs file: {0}")]
    Json(#[from] serde_json::Error),
    #[error(
        "has version {0}, and this build reads version {VERSION}: write it with `slugs pull` of this build"
    )]
    Version(u32),
    #[error("{place} has {text:?}: an id or a slug is 1 to 128 characters of A-Z, a-z, 0-9, ., _, : and -")]
    Alphabet { place: &'static str, text: String },
}

impl Slugs {
    pub fn new(workspace_id: impl Into<String>) -> Self {
        Self { version: VERSION, workspace_id: workspace_id.into(), ..Self::default() }
    }

    /// Parses a slugs file; each text must be valid in an attribute.
    pub fn parse(text: &str) -> Result<Self, Error> {
        /// Read first, because another version may have other members.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_str(text)?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let slugs: Self = serde_json::from_str(text)?;
        let unusable = slugs.texts().find(|(_, text)| !catalog::is_id(text));
        if let Some((place, text)) = unusable {
            return Err(Error::Alphabet { place, text: text.to_owned() });
        }
        Ok(slugs)
    }

    /// Every text, with its member.
    fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let objects = self.objects.iter().map(|entry| ("objects", entry));
        let lists = self.lists.iter().map(|entry| ("lists", entry));
        let entries = objects.chain(lists);
        let texts = entries.flat_map(|(place, (id, slug))| [(place, id.as_str()), (place, slug.as_str())]);
        texts.chain([("workspace_id", self.workspace_id.as_str())])
    }
}

/// The ids of a slug; more than one if the file covers several workspaces.
pub(super) fn ids<'a>(map: &'a BTreeMap<String, String>, slug: &'a str) -> impl Iterator<Item = &'a str> {
    map.iter().filter(move |(_, known)| *known == slug).map(|(id, _)| id.as_str())
}
