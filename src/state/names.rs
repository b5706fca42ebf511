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
    /// Objects and lists that it may not see any more: hidden from it, or deleted.
    pub former: [Vec<Container>; 2],
    /// What was created until then is among them.
    pub complete_to: OffsetDateTime,
    /// When the answers were sent, by Attio's clock.
    pub sent_at: Option<OffsetDateTime>,
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
        let sent_at = lists.sent_at;
        let (objects, lists, former) = (objects.value, lists.value, Default::default());
        Ok(Self { workspace, objects, lists, former, complete_to, sent_at })
    }

    /// Reads them again.
    pub async fn renew(&self, reader: &EntityReader) -> Result<Self, ReadError> {
        let mut names = Self::of(self.workspace.clone(), reader).await?;
        let [objects, lists] = &self.former;
        let former = |was: &[Container], former: &[Container], is: &[Container]| {
            let all = was.iter().chain(former);
            all.filter(|one| is.iter().all(|known| known.id != one.id)).cloned().collect()
        };
        names.former =
            [former(&self.objects, objects, &names.objects), former(&self.lists, lists, &names.lists)];
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

    /// Whether the object of a record or the list of an entry is known. Of others it is found out where they are not
    /// found: they may be seen without what they are about.
    pub fn knows(&self, entity: &EntityRef) -> bool {
        if !entity.kind.is_read_in_bulk() {
            return true;
        }
        let Some(container) = entity.container.as_deref() else { return true };
        self.find(entity.kind, container).is_some()
    }

    /// The object of records, the list of entries, or either of notes and comments, if the key may see it.
    pub fn find(&self, kind: Kind, container: &str) -> Option<&Container> {
        let find = |known: &'_ [Container]| known.iter().position(|known| known.is(container));
        let object = (kind != Kind::ListEntry).then(|| find(&self.objects)).flatten();
        let list = (kind != Kind::Record).then(|| find(&self.lists)).flatten();
        object.map(|at| &self.objects[at]).or_else(|| list.map(|at| &self.lists[at]))
    }

    /// Whether an entity is kept, be it that its object or list cannot be seen any more.
    pub fn keep(&self, options: &Options, kind: Kind, container: Option<&str>) -> bool {
        let [objects, lists] = &self.former;
        let (wanted, known, former) = match kind {
            Kind::Record => (&options.objects, &self.objects, objects),
            Kind::ListEntry => (&options.lists, &self.lists, lists),
            Kind::Note | Kind::Task | Kind::Comment => return options.kinds().any(|kept| kept == kind),
        };
        let Some(container) = container else { return wanted.is_empty() };
        let same = |name: &String| {
            let mut known = known.iter().chain(former);
            name == container || known.any(|known| known.is(container) && known.is(name))
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
            former: Default::default(),
            complete_to: OffsetDateTime::UNIX_EPOCH,
            sent_at: None,
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
