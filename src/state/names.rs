//! The slugs of objects and lists, and which of them are kept.

use time::OffsetDateTime;

use super::Options;
use crate::attio::entities::{Container, EntityReader, EntityRef, Kind, ReadError};
use crate::attio::types::Resource;
use crate::catalog;

/// The workspace of the key, and the objects and lists that it may see.
#[derive(Clone, Debug)]
pub struct Names {
    /// Its id.
    pub workspace: String,
    pub objects: Vec<Container>,
    pub lists: Vec<Container>,
    /// What was created until then is among them.
    pub complete_to: OffsetDateTime,
}

impl Names {
    /// Reads them from Attio. A workspace may have no lists.
    pub async fn read(reader: &EntityReader) -> Result<Self, ReadError> {
        let workspace = reader.workspace().await?;
        Self::of(workspace, reader).await
    }

    async fn of(workspace: String, reader: &EntityReader) -> Result<Self, ReadError> {
        let objects = reader.containers(Resource::Object).await?;
        let lists = reader.containers(Resource::List).await?;
        let complete_to = objects.complete_to.min(lists.complete_to);
        Ok(Self { workspace, objects: objects.value, lists: lists.value, complete_to })
    }

    /// Reads them again. A list that the key may not see any more is still among them: what it held is gone.
    pub async fn renew(&self, reader: &EntityReader) -> Result<Self, ReadError> {
        let mut names = Self::of(self.workspace.clone(), reader).await?;
        let former = self.lists.iter().filter(|former| names.lists.iter().all(|known| known.id != former.id));
        let former: Vec<Container> = former.cloned().collect();
        names.lists.extend(former);
        Ok(names)
    }

    /// The slug of an object that is named by id or by slug.
    pub fn object<'n>(&'n self, name: &'n str) -> Option<&'n str> {
        slug(&self.objects, name)
    }

    /// The same of a list.
    pub fn list<'n>(&'n self, name: &'n str) -> Option<&'n str> {
        slug(&self.lists, name)
    }

    /// Whether the container of an entity is known; what has none is.
    pub fn knows(&self, entity: &EntityRef) -> bool {
        let Some(container) = entity.container.as_deref() else { return true };
        let known = if entity.kind == Kind::ListEntry { &self.lists } else { &self.objects };
        known.iter().any(|known| known.is(container))
    }

    /// Whether an entity is kept.
    pub fn keep(&self, options: &Options, kind: Kind, container: Option<&str>) -> bool {
        let (wanted, known) = match kind {
            Kind::Record => (&options.objects, &self.objects),
            Kind::ListEntry => (&options.lists, &self.lists),
            Kind::Note | Kind::Task | Kind::Comment => return options.kinds().any(|kept| kept == kind),
        };
        let Some(container) = container else { return wanted.is_empty() };
        let same = |name: &String| {
            name == container || known.iter().any(|known| known.is(container) && known.is(name))
        };
        wanted.is_empty() || wanted.iter().any(same)
    }
}

fn slug<'n>(known: &'n [Container], name: &str) -> Option<&'n str> {
    let found = known.iter().find(|known| known.is(name))?;
    found.slug.as_deref().filter(|slug| catalog::is_id(slug))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn objects_and_lists_are_kept_by_slug_or_id() {
        let container = |id: &str, slug: &str| Container { id: id.into(), slug: Some(slug.into()) };
        let names = Names {
            workspace: "w".into(),
            objects: vec![container("o1", "people"), container("o2", "deals")],
            lists: Vec::new(),
            complete_to: OffsetDateTime::UNIX_EPOCH,
        };
        let options = |objects: &[&str]| Options {
            prefix: "s".into(),
            objects: objects.iter().map(|name| (*name).to_owned()).collect(),
            lists: Vec::new(),
            notes: false,
            tasks: true,
            comments: false,
            group: "g".into(),
            stream: "S".into(),
            settle: Duration::ZERO,
            reads_per_second: 1,
            listen: String::new(),
        };
        for wanted in ["people", "o1"] {
            let options = options(&[wanted]);
            assert!(
                names.keep(&options, Kind::Record, Some("o1"))
                    && names.keep(&options, Kind::Record, Some("people"))
            );
            assert!(
                !names.keep(&options, Kind::Record, Some("o2"))
                    && names.keep(&options, Kind::ListEntry, Some("x"))
            );
        }
        assert!(names.keep(&options(&[]), Kind::Record, Some("o3")));
        assert!(names.keep(&options(&[]), Kind::Task, None) && !names.keep(&options(&[]), Kind::Note, None));
        assert_eq!(
            (names.object("o1"), names.object("deals"), names.list("o1")),
            (Some("people"), Some("deals"), None)
        );
    }
}
