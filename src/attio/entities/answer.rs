//! The bodies of the answers: each entity's bytes, and what is read from them.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::{Container, Entity, Kind};
use crate::attio::types::{Resource, Token};
use crate::catalog;

/// Where an answer is not as documented. It quotes nothing.
#[derive(Debug)]
pub(super) struct Unreadable(pub(super) String);

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Self(format!("line {}, column {}", error.line(), error.column()))
    }
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

/// The members of an entity that are read.
#[derive(Deserialize)]
struct Head {
    id: Ids,
    created_at: String,
    /// Of entries and notes.
    parent_object: Option<String>,
    /// Of comments.
    thread_id: Option<String>,
    record: Option<Parent>,
    entry: Option<Parent>,
    #[serde(alias = "entry_values")]
    values: Option<Attributes>,
}

#[derive(Deserialize)]
struct Ids {
    workspace_id: String,
    object_id: Option<String>,
    record_id: Option<String>,
    list_id: Option<String>,
    entry_id: Option<String>,
    note_id: Option<String>,
    task_id: Option<String>,
    comment_id: Option<String>,
    thread_id: Option<String>,
}

impl Ids {
    /// The id of an entity of that kind.
    fn of(&self, kind: Kind) -> Option<String> {
        match kind {
            Kind::Record => self.record_id.clone(),
            Kind::ListEntry => self.entry_id.clone(),
            Kind::Note => self.note_id.clone(),
            Kind::Task => self.task_id.clone(),
            Kind::Comment => self.comment_id.clone(),
        }
    }
}

/// What was commented on.
#[derive(Deserialize)]
struct Parent {
    object_id: Option<String>,
    list_id: Option<String>,
}

#[derive(Deserialize)]
struct Attributes {
    created_at: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Stamp {
    value: String,
}

/// The member of `id` that identifies an entity.
pub(super) fn id_member(kind: Kind) -> &'static str {
    match kind {
        Kind::Record => "record_id",
        Kind::ListEntry => "entry_id",
        Kind::Note => "note_id",
        Kind::Task => "task_id",
        Kind::Comment => "comment_id",
    }
}

/// One entity of an answer.
pub(super) struct Row {
    /// Its id; a hash of its text where the id cannot be read.
    pub(super) id: String,
    pub(super) has_id: bool,
    pub(super) entity: Result<Entity, Unreadable>,
}

pub(super) fn one(kind: Kind, body: &Bytes) -> Result<Row, Unreadable> {
    let Data::<&RawValue> { data } = serde_json::from_slice(body)?;
    Ok(row(kind, body, data))
}

pub(super) fn many(kind: Kind, body: &Bytes) -> Result<Vec<Row>, Unreadable> {
    let Data::<Vec<&RawValue>> { data } = serde_json::from_slice(body)?;
    Ok(data.into_iter().map(|data| row(kind, body, data)).collect())
}

#[derive(Deserialize)]
struct Thread<'a> {
    id: Ids,
    #[serde(borrow)]
    comments: Vec<&'a RawValue>,
}

impl Thread<'_> {
    fn comments(self, body: &Bytes) -> Vec<Row> {
        self.comments.into_iter().map(|data| row(Kind::Comment, body, data)).collect()
    }
}

/// Threads by id, with the comments that are shown of them.
pub(super) fn threads(body: &Bytes) -> Result<Vec<(String, Vec<Row>)>, Unreadable> {
    let Data::<Vec<Thread>> { data } = serde_json::from_slice(body)?;
    data.into_iter().map(|thread| Ok((usable(thread.id.thread_id.clone())?, thread.comments(body)))).collect()
}

/// Comments of one thread, and the cursor of those that follow.
pub(super) fn thread(body: &Bytes) -> Result<(Vec<Row>, Option<String>), Unreadable> {
    #[derive(Deserialize)]
    struct Paged<'a> {
        #[serde(borrow)]
        data: Thread<'a>,
        pagination: Option<Pagination>,
    }
    #[derive(Deserialize)]
    struct Pagination {
        next_cursor: Option<String>,
    }
    let Paged { data, pagination } = serde_json::from_slice(body)?;
    Ok((data.comments(body), pagination.and_then(|pagination| pagination.next_cursor)))
}

/// The workspace of a key; none if Attio does not know the key.
pub(super) fn workspace(body: &[u8]) -> Result<Option<String>, Unreadable> {
    let token: Token = serde_json::from_slice(body)?;
    if token.active { usable(token.workspace_id).map(Some) } else { Ok(None) }
}

pub(super) fn containers(owner: Resource, body: &[u8]) -> Result<Vec<Container>, Unreadable> {
    #[derive(Deserialize)]
    struct One {
        id: Ids,
        api_slug: Option<String>,
    }
    let Data::<Vec<One>> { data } = serde_json::from_slice(body)?;
    let container = |one: One| {
        let id = if owner == Resource::List { one.id.list_id } else { one.id.object_id };
        Ok(Container { id: usable(id)?, slug: one.api_slug.filter(|slug| catalog::is_id(slug)) })
    };
    data.into_iter().map(container).collect()
}

fn row(kind: Kind, body: &Bytes, data: &RawValue) -> Row {
    #[derive(Deserialize)]
    struct Named {
        id: Ids,
    }
    match entity(kind, data.get()) {
        Ok(with) => {
            let entity = with(body.slice_ref(data.get().as_bytes()));
            Row { id: entity.id.clone(), has_id: true, entity: Ok(entity) }
        }
        Err(error) => {
            let named = serde_json::from_str::<Named>(data.get()).ok();
            let id = named.and_then(|named| named.id.of(kind)).filter(|id| catalog::is_id(id));
            let hash = || Uuid::new_v5(&Uuid::NAMESPACE_OID, data.get().as_bytes()).to_string();
            Row { has_id: id.is_some(), id: id.unwrap_or_else(hash), entity: Err(error) }
        }
    }
}

/// Reads an entity, which is to be given its own text.
fn entity(kind: Kind, text: &str) -> Result<impl FnOnce(Bytes) -> Entity + use<>, Unreadable> {
    let Head { id, created_at, parent_object, thread_id, record, entry, values } =
        serde_json::from_str(text)?;
    let own = usable(id.of(kind))?;
    // What `sorts` goes by; the other one may differ by seconds.
    let attribute = values.and_then(|values| values.created_at);
    let stamps: Option<Vec<Stamp>> = attribute.and_then(|stamps| serde_json::from_str(stamps.get()).ok());
    let created_at = stamps.and_then(|stamps| Some(stamps.into_iter().next()?.value)).unwrap_or(created_at);
    let created_at =
        OffsetDateTime::parse(&created_at, &Rfc3339).map_err(|_| Unreadable("created_at".to_owned()))?;
    let object = id.object_id.or(parent_object).or(record.and_then(|record| record.object_id));
    let list = id.list_id.or(entry.and_then(|entry| entry.list_id));
    let workspace_id = usable(Some(id.workspace_id))?;
    Ok(move |data| Entity {
        kind,
        id: own,
        workspace_id,
        object: object.filter(|object| catalog::is_id(object)),
        list: list.filter(|list| catalog::is_id(list)),
        thread: thread_id.filter(|thread| catalog::is_id(thread)),
        created_at,
        data,
    })
}

/// An id that may stand in an attribute and be a key.
fn usable(id: Option<String>) -> Result<String, Unreadable> {
    id.filter(|id| is_key(id)).ok_or_else(|| Unreadable("an id".to_owned()))
}

/// Whether it may be a key on Kafka, and the end of a subject on NATS, where no part may be empty.
pub fn is_key(id: &str) -> bool {
    catalog::is_id(id) && !id.split('.').any(str::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_each_entity_are_kept() {
        let text = r#"{ "id": {"workspace_id":"w","object_id":"o","record_id":"r"},
            "created_at":"2026-01-01T00:00:00.000000000Z", "values": {"n": [1.50, "\u00e9"],  "created_at": []} }"#;
        let body = format!("{{\"data\": [ {text} , {text}]}}");
        let found = many(Kind::Record, &body.to_owned().into()).unwrap();
        let found: Vec<Entity> = found.into_iter().map(|row| row.entity.unwrap()).collect();
        assert!(found.len() == 2 && found.iter().all(|entity| entity.data == text));
        assert_eq!((&*found[0].id, found[0].object.as_deref()), ("r", Some("o")));
        let body = format!("{{\"data\":{text}\n}}");
        assert_eq!(one(Kind::Record, &body.to_owned().into()).unwrap().entity.unwrap().data, text);
    }

    #[test]
    fn entry_has_its_list_and_its_parents_object() {
        let body = r#"{"data":{"id":{"workspace_id":"w","list_id":"l","entry_id":"e"},"parent_object":"people",
            "parent_record_id":"r","created_at":"2026-01-01T00:00:09Z",
            "entry_values":{"created_at":[{"value":"2026-01-01T00:00:02Z","active_until":null}]}}}"#;
        let entity = one(Kind::ListEntry, &body.to_owned().into()).unwrap().entity.unwrap();
        assert_eq!((entity.object.as_deref(), entity.list.as_deref()), (Some("people"), Some("l")));
        assert_eq!(entity.created_at.second(), 2, "the attribute's own");
    }

    #[test]
    fn comment_has_its_thread_and_what_it_is_about() {
        let body = r#"{"data":[{"id":{"workspace_id":"w","thread_id":"t"},"comments":[{
            "id":{"workspace_id":"w","comment_id":"c"},"thread_id":"t","created_at":"2026-01-01T00:00:09Z",
            "record":{"record_id":"r","object_id":"o"},"entry":null}]}]}"#;
        let (id, comments) = threads(&body.to_owned().into()).unwrap().remove(0);
        let comments: Vec<Entity> = comments.into_iter().map(|row| row.entity.unwrap()).collect();
        let of = (comments[0].thread.as_deref(), comments[0].object.as_deref());
        assert_eq!((&*id, of), ("t", (Some("t"), Some("o"))));
    }

    #[test]
    fn answer_that_is_not_as_documented_is_not_an_entity() {
        let bodies = [
            "<html>",
            r#"{"data":{"id":{"workspace_id":"w"},"created_at":"2026-01-01T00:00:00Z"}}"#,
            r#"{"data":{"id":{"workspace_id":"w","record_id":"a b"},"created_at":"2026-01-01T00:00:00Z"}}"#,
            r#"{"data":{"id":{"workspace_id":"w","record_id":"r."},"created_at":"2026-01-01T00:00:00Z"}}"#,
            r#"{"data":{"id":{"workspace_id":"w","record_id":"r..s"},"created_at":"2026-01-01T00:00:00Z"}}"#,
            r#"{"data":{"id":{"workspace_id":"w","record_id":"r"},"created_at":"yesterday"}}"#,
        ];
        for body in bodies {
            assert!(one(Kind::Record, &body.to_owned().into()).and_then(|row| row.entity).is_err(), "{body}");
        }
    }

    #[test]
    fn row_that_cannot_be_read_spoils_no_other_and_has_its_id_where_that_can_be() {
        let good = r#"{"id":{"workspace_id":"w","record_id":"r"},"created_at":"2026-01-01T00:00:00Z"}"#;
        let late = r#"{"id":{"workspace_id":"w","record_id":"late"},"created_at":"soon"}"#;
        let body = format!("{{\"data\":[{late},{good},7,8,7]}}");
        let rows = many(Kind::Record, &body.to_owned().into()).unwrap();
        let good: Vec<_> = rows.iter().map(|row| row.entity.is_ok()).collect();
        assert_eq!(good, [false, true, false, false, false]);
        assert_eq!((&*rows[0].id, &*rows[1].id), ("late", "r"));
        assert!(rows[2].id != rows[3].id && rows[2].id == rows[4].id, "told apart by their text");
    }
}
