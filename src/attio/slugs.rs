//! The map of slugs, as the bridge reads it from `route.slugs_file`.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::Builder;

use super::types::{Named, Owner};
use super::{Client, Error};
use crate::catalog;
use crate::pipeline::slugs::Slugs;

/// Everybody may read what things are called.
const MODE: u32 = 0o644;

/// Asks Attio what objects and lists are called. One without a slug, or with one that may not enter an
/// attribute, is left out.
pub async fn pull(client: &Client) -> Result<Slugs, Error> {
    let workspace_id = client.token().await?.workspace_id.unwrap_or_default();
    let known = |all: Vec<Named>| {
        let pairs = all.into_iter().filter_map(|named| Some((named.id, named.slug?)));
        pairs.filter(|(id, slug)| catalog::is_id(id) && catalog::is_id(slug)).collect()
    };
    let (objects, lists) = (client.owners(Owner::Object).await?, client.owners(Owner::List).await?);
    let mut slugs = Slugs::new(workspace_id);
    (slugs.objects, slugs.lists) = (known(objects), known(lists));
    Ok(slugs)
}

/// The map as it stands in its file.
pub fn text(slugs: &Slugs) -> String {
    format!("{:#}\n", serde_json::json!(slugs))
}

/// Writes the map at once: whoever reads the file finds the old one or the new one. Whether it was
/// another one before.
pub fn write(path: &Path, slugs: &Slugs) -> io::Result<bool> {
    let text = text(slugs);
    if std::fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(false);
    }
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mode = std::fs::Permissions::from_mode(MODE);
    let mut file = Builder::new().permissions(mode).tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(true)
}
