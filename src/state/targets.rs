//! What `state backfill` and `state diff` go through: the records of each object, the entries of each list, and the
//! other kinds that are kept.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use time::OffsetDateTime;

use super::Options;
use super::names::Names;
use super::read::read;
use crate::attio::entities::{
    Answer, Container, Entity, EntityReader, EntityRef, Kind, Listed, Position, ReadError, Single, Walk,
};

/// Parents whose comments are read at a time, and for one page.
const PARENTS: (usize, usize) = (8, 50);

/// The flags that say which part to go through; everything that is kept, without any.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Objects whose records to go through, by slug or id.
    pub objects: Vec<String>,
    /// Lists whose entries to go through.
    pub lists: Vec<String>,
    /// Lists, by id, of which somebody has said that they were deleted: what they held is gone.
    pub deleted_lists: Vec<String>,
}

impl Scope {
    pub fn is_everything(&self) -> bool {
        self.objects.is_empty() && self.lists.is_empty()
    }

    /// Whether it belongs to a list that was deleted.
    pub fn is_deleted(&self, entity: &EntityRef) -> bool {
        self.deleted_lists.iter().any(|list| entity.is_of_list(list))
    }
}

/// Entities of one kind that belong together.
#[derive(Clone, Debug)]
pub struct Target {
    pub kind: Kind,
    /// What is walked through: for comments their parents, as Attio lists comments only by what they are about.
    walked: Kind,
    pub container: Option<Container>,
}

impl Target {
    /// Everything in scope. An object or a list that is not kept, or not there, is an error.
    pub fn all(options: &Options, names: &Names, scope: &Scope) -> Result<Vec<Self>, String> {
        let containers = |kind, known: &[Container], wanted: &[String], member: &str| {
            let kept: Vec<_> =
                known.iter().filter(|known| names.keep(options, kind, Some(&known.id))).cloned().collect();
            if scope.is_everything() {
                return Ok(kept);
            }
            let find = |name: &String| {
                let named = kept.iter().find(|kept| kept.id == *name || kept.slug.as_ref() == Some(name));
                named
                    .cloned()
                    .ok_or_else(|| format!("{name:?} is none of {member}, or the key may not see it"))
            };
            wanted.iter().map(find).collect()
        };
        let records = containers(Kind::Record, &names.objects, &scope.objects, "state.objects")?;
        let entries = containers(Kind::ListEntry, &names.lists, &scope.lists, "state.lists")?;
        let both = || {
            let records = records.iter().map(|container| (Kind::Record, container));
            records.chain(entries.iter().map(|container| (Kind::ListEntry, container)))
        };
        let within = |(walked, container): (Kind, &Container)| (walked, Some(container.clone()));
        let mut targets: Vec<Self> =
            both().map(within).map(|(walked, container)| Self { kind: walked, walked, container }).collect();
        for kind in options.kinds().filter(|_| scope.is_everything()) {
            match kind {
                Kind::Record | Kind::ListEntry => {}
                Kind::Note | Kind::Task => targets.push(Self { kind, walked: kind, container: None }),
                Kind::Comment => {
                    targets.extend(both().map(within).map(|(walked, container)| Self {
                        kind,
                        walked,
                        container,
                    }));
                }
            }
        }
        // One may be named twice, by its slug and by its id.
        let mut named = HashSet::new();
        targets.retain(|target| named.insert(target.key()));
        Ok(targets)
    }

    /// What an object or a list holds of that kind. Notes cannot be gone through by object: it is all of them.
    pub(super) fn of(kind: Kind, names: &Names, container: Container) -> Self {
        let is_list = names.find(Kind::ListEntry, &container.id).is_some();
        let walked = match kind {
            Kind::Comment if is_list => Kind::ListEntry,
            Kind::Comment => Kind::Record,
            kind => kind,
        };
        let container = (!matches!(kind, Kind::Note | Kind::Task)).then_some(container);
        Self { kind, walked, container }
    }

    /// A name that is the same in each run.
    pub fn key(&self) -> String {
        let container = self.container.as_ref().map_or("", |container| &container.id);
        format!("{}/{}/{container}", self.kind.as_str(), self.walked.as_str())
    }

    /// Such as `record people`.
    pub fn label(&self) -> String {
        let kind = self.kind.as_str();
        match &self.container {
            Some(Container { id, slug }) => format!("{kind} {}", slug.as_ref().unwrap_or(id)),
            None => kind.to_owned(),
        }
    }

    /// How many rows there are to walk through, in a few requests.
    pub async fn count(&self, reader: &EntityReader) -> Result<usize, ReadError> {
        Walk::count(reader, self.walked, self.container_id().as_deref()).await
    }

    fn container_id(&self) -> Option<String> {
        self.container.as_ref().map(|container| container.id.clone())
    }

    pub fn pages(&self, reader: &EntityReader, from: Position) -> Pages {
        let walk = Walk::new(reader.clone(), self.walked, self.container_id(), from.clone());
        Pages {
            walk,
            target: self.clone(),
            reader: reader.clone(),
            parents: VecDeque::new(),
            safe: Some(from),
        }
    }
}

/// The pages of a target.
pub struct Pages {
    walk: Walk,
    target: Target,
    reader: EntityReader,
    /// Those of the last page of the walk whose comments are still to be read, and whether their own rows can be read.
    parents: VecDeque<(EntityRef, bool)>,
    /// Where to go on after an interruption; none at the end.
    safe: Option<Position>,
}

/// Entities, each with when it was read, and how many rows of the walk they stand for.
pub struct Page {
    pub rows: usize,
    pub entities: Vec<(OffsetDateTime, Entity)>,
    /// Those that cannot be read, by id, or by a hash where that cannot be either. The log names them.
    pub unreadable: Vec<String>,
}

impl Page {
    /// The length of what Attio has answered for its entities.
    pub fn bytes(&self) -> usize {
        self.entities.iter().map(|(_, entity)| entity.data.len()).sum()
    }
}

impl Pages {
    /// Where to go on once all pages so far are done; none at the end.
    pub fn position(&self) -> Option<&Position> {
        self.safe.as_ref()
    }

    /// The next page; none at the end. After an error it may be called again.
    pub async fn next(&mut self) -> Result<Option<Page>, ReadError> {
        if self.target.kind == self.target.walked {
            let next = self.walk.next().await?;
            self.safe = self.walk.position().cloned();
            return Ok(next.map(|answer| {
                let rows = answer.value.entities.len() + answer.value.unreadable.len();
                page(rows, [answer])
            }));
        }
        if self.parents.is_empty() {
            let Some(answer) = self.walk.next().await? else {
                self.safe = None;
                return Ok(None);
            };
            let container: Option<Arc<str>> = self.target.container_id().map(Arc::from);
            let kind = self.target.walked;
            let parent =
                |id: String| EntityRef { kind, container: container.clone(), object: None, id: id.into() };
            // One that cannot be read is named where the parents themselves are gone through; its comments can be read.
            let Listed { entities, unreadable } = answer.value;
            let readable = entities.into_iter().map(|entity| (parent(entity.id), true));
            let unreadable =
                unreadable.into_iter().filter(|row| row.has_id).map(|row| (parent(row.id), false));
            self.parents = readable.chain(unreadable).collect();
        }
        let (at_a_time, most) = PARENTS;
        let rows = self.parents.len().min(most);
        let of = |(parent, is_readable)| {
            let reader = self.reader.clone();
            async move { comments(reader, parent, is_readable).await }
        };
        let some: Vec<_> = self.parents.range(..rows).cloned().collect();
        let read = stream::iter(some).map(of).buffered(at_a_time).try_collect::<Vec<_>>().await?;
        self.parents.drain(..rows);
        if self.parents.is_empty() {
            self.safe = self.walk.position().cloned();
        }
        let (read, unreadable): (Vec<_>, Vec<_>) = read.into_iter().partition(Result::is_ok);
        let mut page = page(rows, read.into_iter().flatten().flatten());
        page.unreadable.extend(unreadable.into_iter().filter_map(Result::err));
        Ok(Some(page))
    }
}

/// The comments on a record or an entry; nothing if it is gone. Its id if only it is to blame that they cannot be read.
async fn comments(
    reader: EntityReader,
    parent: EntityRef,
    is_readable: bool,
) -> Result<Result<Option<Answer<Listed>>, String>, ReadError> {
    let (kind, id) = (parent.kind.as_str(), parent.id.clone());
    let error = match comments_of(reader, parent).await {
        Err(ReadError::Missing(error)) if !is_readable => error,
        Err(ReadError::OfOne(error)) => error,
        read => return read.map(Ok),
    };
    tracing::error!(kind, id = &*id, "its comments cannot be read: {error}");
    Ok(Err(id.to_string()))
}

/// The comments on a record or an entry; nothing if it is gone.
async fn comments_of(reader: EntityReader, parent: EntityRef) -> Result<Option<Answer<Listed>>, ReadError> {
    let found = reader.comments(&parent).await?;
    if found.is_some() {
        return Ok(found);
    }
    for (EntityRef { id, .. }, answer) in read(reader, vec![parent]).await {
        match answer {
            Ok(Answer { value: Single::Found(_) | Single::Unseen(_), .. }) | Err(ReadError::OfOne(_)) => {
                return Err(ReadError::Missing(format!(
                    "Attio answers 404 for the comments on {id}, which is there or cannot be seen"
                )));
            }
            answer => drop(answer?),
        }
    }
    Ok(None)
}

fn page(rows: usize, answers: impl IntoIterator<Item = Answer<Listed>>) -> Page {
    let mut page = Page { rows, entities: Vec::new(), unreadable: Vec::new() };
    for Answer { accurate_at, value, .. } in answers {
        page.entities.extend(value.entities.into_iter().map(|entity| (accurate_at, entity)));
        page.unreadable.extend(value.unreadable.into_iter().map(|row| row.id));
    }
    page
}
