//! The slugs of objects and lists, for `route.slugs_file`.

use std::io;
use std::path::Path;

use super::types::{Named, Resource};
use super::{Client, Error};
use crate::catalog;
use crate::files;
use crate::pipeline::slugs::Slugs;

const MODE: u32 = 0o644;

/// Reads the slugs from Attio. One that may not appear in a CloudEvents attribute is left out.
pub async fn pull(client: &Client) -> Result<Slugs, Error> {
    let usable = |all: Vec<Named>| {
        let pairs = all.into_iter().map(|Named { id, slug }| (id, slug));
        pairs.filter(|(id, slug)| catalog::is_id(id) && catalog::is_id(slug)).collect()
    };
    let mut slugs = Slugs::new(client.token().await?.workspace_id.unwrap_or_default());
    slugs.objects = usable(client.owners(Resource::Object).await?);
    slugs.lists = usable(client.owners(Resource::List).await?);
    Ok(slugs)
}

pub fn text(slugs: &Slugs) -> String {
    format!("{:#}\n", serde_json::json!(slugs))
}

/// Writes the file if its contents change. Returns whether they did.
pub fn write(path: &Path, slugs: &Slugs) -> io::Result<bool> {
    let text = text(slugs);
    if files::read_text(path, files::MAX_BYTES).is_ok_and(|current| current == text) {
        return Ok(false);
    }
    files::replace(path, MODE, text.as_bytes()).map(|()| true)
}
