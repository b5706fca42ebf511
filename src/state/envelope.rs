//! The state of an entity as a CloudEvent, and the tombstone of one that is gone.

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::Options;
use super::names::Names;
use super::notice::WORKSPACES;
use crate::attio::entities::{Entity, EntityRef, Kind};
use crate::bus::state::{Content, State, milliseconds};
use crate::catalog;
use crate::cloudevent::{Attribute, CloudEvent, Data, timestamp};
use crate::pipeline::identify::NAMESPACE;

const JSON: &str = "application/json";

/// The state that an answer holds, true at that time. None for a time that RFC 3339 cannot write.
pub fn state(options: &Options, names: &Names, entity: &Entity, at: OffsetDateTime) -> Option<State> {
    let (kind, time) = (entity.kind.as_str(), timestamp(at)?);
    let id = Uuid::new_v5(&NAMESPACE, ["state", kind, &entity.id, &time].join("\n").as_bytes());
    let mut buffer = Uuid::encode_buffer();
    let id = id.hyphenated().encode_lower(&mut buffer);
    let data = Data::Json(entity.data.clone());
    let source = [WORKSPACES, &entity.workspace_id];
    let mut event = CloudEvent::new(id, &source, data);
    event.set_joined(Attribute::Type, &["com.attio.", kind, ".state"]);
    event.set_some(Attribute::Subject, subject(names, entity));
    event.set(Attribute::Time, &time);
    event.set(Attribute::DataContentType, JSON);
    event.set(Attribute::PartitionKey, &entity.id);
    event.set_some(Attribute::AttioObject, entity.object.as_deref().and_then(|name| names.object(name)));
    event.set_some(Attribute::AttioList, entity.list.as_deref().and_then(|name| names.list(name)));
    Some(State {
        destination: options.destination(entity.kind, &entity.id),
        key: entity.id.as_str().into(),
        at: milliseconds(at),
        content: Content::Value(Arc::new(event)),
    })
}

/// The path of ids that the entity's events have; none where one of them is not in the answer.
fn subject(names: &Names, entity: &Entity) -> Option<String> {
    let id = &entity.id;
    let of = |name: &Option<String>, known: &[crate::attio::entities::Container]| {
        let name = name.as_deref()?;
        let known = known.iter().find(|known| known.slug.as_deref() == Some(name));
        Some(known.map_or(name, |known| &known.id).to_owned()).filter(|id| catalog::is_id(id))
    };
    Some(match entity.kind {
        Kind::Record => format!("objects/{}/records/{id}", of(&entity.object, &names.objects)?),
        Kind::ListEntry => format!("lists/{}/entries/{id}", of(&entity.list, &names.lists)?),
        Kind::Note => format!("notes/{id}"),
        Kind::Task => format!("tasks/{id}"),
        Kind::Comment => format!("threads/{}/comments/{id}", of(&entity.thread, &[])?),
    })
}

/// The tombstone of an entity.
pub fn tombstone(options: &Options, entity: &EntityRef) -> State {
    State {
        destination: options.destination(entity.kind, &entity.id),
        key: entity.id.clone(),
        at: 0,
        content: Content::Gone(format!("com.attio.{}.gone", entity.kind.as_str())),
    }
}
