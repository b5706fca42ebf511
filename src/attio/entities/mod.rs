//! Reads what an event's ids stand for: records, list entries, notes, tasks and comments.
//!
//! Facts about the API: <https://docs.attio.com/rest-api/guides/filtering-and-sorting>,
//! <https://docs.attio.com/rest-api/guides/rate-limiting>, <https://api.attio.com/openapi/api>. Attio has no version
//! of an entity and no time of its last change. What orders two reads is the header `x-accurate-at`, the time at
//! which an answer was true: it may be seconds before the answer.

mod answer;
mod limiter;
mod reader;
mod walk;

use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;

pub use answer::is_key;
pub use reader::EntityReader;
pub use walk::{Position, Walk};

use crate::catalog::Category;
use crate::named_enum::named_enum;

named_enum! {
    /// What a state topic holds.
    pub enum Kind,
    /// The kind in addresses, types and labels; the same as the category of its events.
    as_str {
        Record = "record",
        ListEntry = "list-entry",
        Note = "note",
        Task = "task",
        Comment = "comment",
    }
}

impl Kind {
    pub fn of(category: Category) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == category.as_str())
    }

    /// Whether [`EntityReader::many`] reads it.
    pub fn is_read_in_bulk(self) -> bool {
        matches!(self, Self::Record | Self::ListEntry)
    }
}

/// The name of an entity: what a read needs. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityRef {
    pub kind: Kind,
    /// The object of a record, the list of an entry; by id. Where it is known, the object or list of what a note or a
    /// comment is about, by id or by slug.
    pub container: Option<Arc<str>>,
    /// Of a comment, where it is known: the object of the record that it is about, or whose entry it is about; by id.
    pub object: Option<Arc<str>>,
    pub id: Arc<str>,
}

impl EntityRef {
    /// Whether it is an entry of this list, or a comment on one.
    pub fn is_of_list(&self, list: &str) -> bool {
        let is_here = self.container.as_deref() == Some(list);
        match self.kind {
            Kind::ListEntry => is_here,
            Kind::Comment => is_here && self.object != self.container,
            Kind::Record | Kind::Note | Kind::Task => false,
        }
    }
}

/// What Attio answered, and when it was true.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// The header `x-accurate-at`; without it, when the request began.
    pub accurate_at: OffsetDateTime,
    /// Every change until then is in the answer: the header, and without it as much earlier as answers can be old.
    pub complete_to: OffsetDateTime,
    /// When it was sent, by Attio's clock, in whole seconds: the header `Date`.
    pub sent_at: Option<OffsetDateTime>,
    pub value: T,
}

impl<T> Answer<T> {
    /// What was read from the answer.
    fn try_map<U>(self, read: impl FnOnce(T) -> Result<U, ReadError>) -> Result<Answer<U>, ReadError> {
        let Self { accurate_at, complete_to, sent_at, value } = self;
        Ok(Answer { accurate_at, complete_to, sent_at, value: read(value)? })
    }

    /// Counts as no younger than another answer, which is part of it.
    pub fn limit_to<U>(&mut self, other: &Answer<U>) {
        self.accurate_at = self.accurate_at.min(other.accurate_at);
        self.complete_to = self.complete_to.min(other.complete_to);
    }
}

/// An entity as Attio holds it.
#[derive(Clone, Debug)]
pub struct Entity {
    pub kind: Kind,
    pub id: String,
    pub workspace_id: String,
    /// The object of a record, or that of the parent record; by id or by slug, as the answer has it.
    pub object: Option<String>,
    /// The list of an entry, or that of the entry that was commented on; by id or by slug.
    pub list: Option<String>,
    /// The thread of a comment.
    pub thread: Option<String>,
    /// The time by which Attio sorts it.
    pub created_at: OffsetDateTime,
    /// The entity, byte for byte as it was received: a part of the body, which it keeps.
    pub data: Bytes,
}

/// What a read of one entity found.
#[derive(Clone, Debug)]
pub enum Single {
    Found(Entity),
    /// 404: deleted, or merged into another.
    Gone,
    /// 404, and the key may not see this object or list that it belongs to: it says nothing about the entity.
    Unseen(String),
    /// 404 `merge_in_progress`: it will exist.
    MergeInProgress,
}

/// An object or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub slug: Option<String>,
}

impl Container {
    /// Whether it has this id or slug.
    pub fn is(&self, name: &str) -> bool {
        self.id == name || self.slug.as_deref() == Some(name)
    }
}

named_enum! {
    /// What became of one request.
    pub enum ReadResult,
    /// The result in labels.
    as_str {
        Ok = "ok",
        /// 404.
        Gone = "gone",
        /// 429: waited out and repeated.
        RateLimited = "rate_limited",
        /// 401 or 403.
        Denied = "denied",
        /// Any other status, no answer, or one that is not as documented.
        Failed = "failed",
    }
}

/// Entities of one answer, each read for itself.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    pub entities: Vec<Entity>,
    /// Those that are not as documented, which the log has named.
    pub unreadable: Vec<UnreadableRow>,
}

#[derive(Clone, Debug)]
pub struct UnreadableRow {
    /// A hash where it cannot be read.
    pub id: String,
    pub has_id: bool,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// 401 or 403. Says what to grant; repeating does not help.
    #[error("{reason}")]
    Denied {
        /// The scopes that the read needs, such as `record_permission:read object_configuration:read`.
        scopes: &'static str,
        reason: String,
    },
    /// It is about this one entity, and says nothing about others: 400, or an answer in which the entity is not as
    /// documented. To be tried again, alone.
    #[error("{0}")]
    OfOne(String),
    /// 404 of what was there, or that an answer from an earlier moment gives: to be tried again, but not for ever.
    #[error("{0}")]
    Missing(String),
    /// Anything else but 429, which is waited out: to be tried again.
    #[error("{0}")]
    Retryable(String),
}
