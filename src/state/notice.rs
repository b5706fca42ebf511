//! What an event says: which entity has changed, or is gone.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::attio::entities::{EntityRef, Kind, is_key};
use crate::bus::read::Item;
use crate::catalog::{self, Kind as EventKind};
use crate::cloudevent::Data;
use crate::cloudevent::decode::DecodedEvent;

/// The beginning of a `source` that names a workspace.
pub const WORKSPACES: &str = "https://attio.com/workspaces/";

/// By how much the clocks of the bridge and of Attio may differ before that is noticed. An event that was taken before an
/// answer was asked for was not received later than that answer was sent, whatever it says: by this it counts as at most
/// so much later.
pub const CLOCKS: Duration = Duration::from_secs(10);

/// The latest receipt of an event that was taken before an answer was asked for that was sent then.
pub fn latest_receipt(sent_at: OffsetDateTime) -> OffsetDateTime {
    sent_at.saturating_add(time::Duration::try_from(CLOCKS).unwrap_or_default())
}

/// An event of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// When the bridge received the event: a state that is true then shows it.
    pub recorded_at: OffsetDateTime,
    /// The workspace that the event names.
    pub workspace: Option<String>,
    pub entity: EntityRef,
    pub says: Says,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    Changed,
    Gone,
    /// This other record is now part of the entity, and gone.
    Merged(EntityRef),
}

impl Notice {
    /// None for a message that is no event of an entity: other categories can share the topic.
    pub fn read(item: &Item) -> Option<Self> {
        let event = DecodedEvent::from_message(&item.headers, &item.payload).ok()?;
        let event_type = event.get("type")?.strip_prefix("com.attio.")?;
        let of_catalog = EventKind::of(event_type);
        let kind = Kind::of(of_catalog.category()?)?;
        let recorded = event.get("recordedtime").and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        let Data::Json(data) = event.data() else { return None };
        let data: Json = serde_json::from_slice(data).ok()?;
        let (containers, id) = members(kind);
        let container = containers.iter().find_map(|name| find(&data, name));
        if container.is_none() && kind.is_read_in_bulk() {
            return None;
        }
        let object = (kind == Kind::Comment).then(|| find(&data, "object_id")).flatten();
        let entity = EntityRef { kind, container, object, id: find(&data, id).filter(|id| is_key(id))? };
        let action = if let EventKind::Known(known) = of_catalog { known.action } else { "" };
        let says = match action {
            "deleted" => Says::Gone,
            "merged" => merged(&data, &entity),
            _ => Says::Changed,
        };
        let workspace = event.get("source").and_then(workspace).map(str::to_owned);
        Some(Self { recorded_at: recorded.or(item.stored_at)?, workspace, entity, says })
    }
}

/// The workspace in the `source` of an event or a state; none in one of a bridge that does not know it.
pub fn workspace(source: &str) -> Option<&str> {
    source.strip_prefix(WORKSPACES)
}

/// The duplicate of a merge. It may be the survivor itself, which is not gone then.
fn merged(data: &Json, survivor: &EntityRef) -> Says {
    match find(data, "duplicate_record_id") {
        Some(id) if id != survivor.id && is_key(&id) => {
            let container = find(data, "duplicate_object_id").or_else(|| survivor.container.clone());
            Says::Merged(EntityRef { kind: survivor.kind, container, object: None, id })
        }
        _ => Says::Changed,
    }
}

/// The ids of an entity's container, the first that is there, and of itself.
const fn members(kind: Kind) -> (&'static [&'static str], &'static str) {
    match kind {
        Kind::Record => (&["object_id"], "record_id"),
        Kind::ListEntry => (&["list_id"], "entry_id"),
        Kind::Note => (&["parent_object_id"], "note_id"),
        Kind::Task => (&[], "task_id"),
        Kind::Comment => (&["list_id", "object_id"], "comment_id"),
    }
}

/// An id in Attio's form, or nested as in the single-event form.
fn find(data: &Json, name: &str) -> Option<Arc<str>> {
    let owner = name.strip_suffix("_id").unwrap_or(name);
    let places = [&data["id"][name], &data[name], &data[owner]["id"][name]];
    let found = places.into_iter().filter_map(Json::as_str).find(|id| catalog::is_id(id));
    found.map(Arc::from)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use time::macros::datetime;

    use super::*;
    use crate::bus::read::Position;

    fn notice(event_type: &str, data: &str) -> Option<Notice> {
        let json = format!(
            r#"{{"specversion":"1.0","type":"com.attio.{event_type}","recordedtime":"2026-01-02T03:04:05.678Z","data":{data}}}"#
        );
        let item = Item {
            address: "attio.record".into(),
            key: None,
            headers: Vec::new(),
            payload: Bytes::from(json),
            stored_at: None,
            position: Position::Kafka { partition: 0, offset: 0 },
        };
        Notice::read(&item)
    }

    fn entity(kind: Kind, container: Option<&str>, id: &str) -> EntityRef {
        EntityRef { kind, container: container.map(Arc::from), object: None, id: id.into() }
    }

    #[test]
    fn event_names_its_entity_in_either_form() {
        let flat = r#"{"id":{"workspace_id":"w","object_id":"o","record_id":"r"}}"#;
        let nested =
            r#"{"id":{"event_id":"e"},"object":{"id":{"object_id":"o"}},"record":{"id":{"record_id":"r"}}}"#;
        for data in [flat, nested] {
            let notice = notice("record.updated", data).unwrap();
            assert_eq!(notice.entity, entity(Kind::Record, Some("o"), "r"));
            assert_eq!(
                (notice.recorded_at, notice.says),
                (datetime!(2026-01-02 03:04:05.678 UTC), Says::Changed)
            );
        }
        let comment = r#"{"id":{"comment_id":"c"},"thread_id":"t"}"#;
        assert_eq!(notice("comment.resolved", comment).unwrap().entity, entity(Kind::Comment, None, "c"));
        let on_entry =
            r#"{"id":{"comment_id":"c"},"object_id":"o","record_id":"r","list_id":"l","entry_id":"e"}"#;
        let on_record = r#"{"id":{"comment_id":"c"},"object_id":"o","record_id":"r","list_id":null}"#;
        for (data, about) in [(on_entry, "l"), (on_record, "o")] {
            let comment = notice("comment.created", data).unwrap();
            let object = Some("o".into());
            assert_eq!(comment.entity, EntityRef { object, ..entity(Kind::Comment, Some(about), "c") });
        }
        let note = r#"{"id":{"note_id":"n"},"parent_object_id":"o","parent_record_id":"r"}"#;
        assert_eq!(notice("note.updated", note).unwrap().entity, entity(Kind::Note, Some("o"), "n"));
        let unknown = notice("record.archived", flat).unwrap();
        assert_eq!(unknown.says, Says::Changed);
    }

    #[test]
    fn deletes_and_merges_say_what_is_gone() {
        let entry = r#"{"id":{"list_id":"l","entry_id":"e"}}"#;
        assert_eq!(notice("list-entry.deleted", entry).unwrap().says, Says::Gone);
        let merge = |duplicate| {
            let data = format!(
                r#"{{"id":{{"object_id":"o","record_id":"r"}},"duplicate_object_id":"o","duplicate_record_id":"{duplicate}"}}"#
            );
            notice("record.merged", &data).unwrap().says
        };
        assert_eq!(merge("d"), Says::Merged(entity(Kind::Record, Some("o"), "d")));
        assert_eq!(merge("r"), Says::Changed);
    }

    #[test]
    fn other_events_are_none() {
        assert_eq!(notice("list.updated", r#"{"id":{"list_id":"l"}}"#), None);
        assert_eq!(notice("record.updated", r#"{"id":{"record_id":"r"}}"#), None);
        for id in ["a b", "a.", ".a", "a..b"] {
            let data = format!(r#"{{"id":{{"object_id":"o","record_id":"{id}"}}}}"#);
            assert_eq!(notice("record.updated", &data), None, "{id}");
        }
    }
}
