//! What people call objects and lists (`people`, `sales_pipeline`), by the ids that events name.
//!
//! The map is made elsewhere, by `slugs pull` or by hand, and read from a file: the data path asks
//! nobody. An id that is not in it has no slug.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::catalog;

/// The only form of the file there is so far.
pub const VERSION: u32 = 1;

/// A map as it stands in its file. Members that are not known here are passed over.
///
/// ```json
/// {"version": 1, "workspace_id": "14be…", "objects": {"97d0…": "people"}, "lists": {"33eb…": "sales"}}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slugs {
    version: u32,
    /// Whose objects and lists they are. Ids are unique, so nothing is looked up by it.
    pub workspace_id: String,
    /// Slugs of objects by object id.
    pub objects: BTreeMap<String, String>,
    /// Slugs of lists by list id.
    pub lists: BTreeMap<String, String>,
}

/// Why a text is no map.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or a member is missing or of another type; the message has line and column.
    #[error("is no map of slugs: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a later build.
    #[error(
        "has version {0}, and this build reads version {VERSION}: write it with `slugs pull` of this build"
    )]
    Version(u32),
    /// A text that may not enter an attribute.
    #[error("{place} has {text:?}: an id or a slug is 1 to 128 characters of A-Z, a-z, 0-9, ., _, : and -")]
    Alphabet {
        /// The member.
        place: &'static str,
        /// What stands there.
        text: String,
    },
}

impl Slugs {
    /// A map that names nothing yet.
    pub fn new(workspace_id: impl Into<String>) -> Self {
        Self { version: VERSION, workspace_id: workspace_id.into(), ..Self::default() }
    }

    /// Reads a map, and checks that each of its texts may enter an attribute.
    pub fn parse(text: &str) -> Result<Self, Error> {
        /// Asked first, because another version may have other members.
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

    /// Every text that may enter an attribute, and the member it stands in.
    fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let objects = self.objects.iter().map(|entry| ("objects", entry));
        let lists = self.lists.iter().map(|entry| ("lists", entry));
        let entries = objects.chain(lists);
        let texts = entries.flat_map(|(place, (id, slug))| [(place, id.as_str()), (place, slug.as_str())]);
        texts.chain([("workspace_id", self.workspace_id.as_str())])
    }
}

/// The ids that a slug stands for: more than one where a map holds several workspaces.
pub(super) fn ids<'a>(map: &'a BTreeMap<String, String>, slug: &'a str) -> impl Iterator<Item = &'a str> {
    map.iter().filter(move |(_, known)| *known == slug).map(|(id, _)| id.as_str())
}
