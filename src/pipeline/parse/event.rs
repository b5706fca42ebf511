//! One event: its bytes, and the members that the bridge reads.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::Unusable;
use super::ids::{self, Ids};
use super::json::{self, MembersError};
use crate::catalog::Kind;

/// One event of a verified delivery.
#[derive(Clone, Debug)]
pub struct Event {
    /// The event's JSON, byte for byte as it came, without the white space around it.
    pub raw: Bytes,
    /// `event_type` as it came. Any text: check with [`crate::catalog::is_event_type`].
    pub event_type: String,
    /// What the catalog knows of the type.
    pub kind: Kind,
    /// Its ids.
    pub ids: Ids,
    /// `actor.type`, any text.
    pub actor_type: Option<String>,
    /// `actor.id`, any text.
    pub actor_id: Option<String>,
    /// `created_at`, any text; only the guide's form has it.
    pub created_at: Option<String>,
}

impl Event {
    /// Reads an element of `events`, or a bare event.
    pub(super) fn read(text: &str, raw: Bytes) -> Result<Self, Unusable> {
        let members = json::members(text, is_wanted).map_err(|error| match error {
            MembersError::NotAnObject => Unusable::NotAnObject,
            MembersError::Duplicate => Unusable::DuplicateMember,
        })?;
        let mut event_type = None;
        let mut created_at = None;
        let mut actor = Actor::default();
        let mut ids = Ids::default();
        for (name, value) in &members {
            match name.as_ref() {
                "event_type" => event_type = json::text(value).map(Cow::into_owned),
                "created_at" => created_at = json::text(value).map(Cow::into_owned),
                "actor" => actor = Actor::read(value)?,
                name => ids.add(name, value)?,
            }
        }
        let event_type = event_type.ok_or(Unusable::NoEventType)?;
        let kind = Kind::of(&event_type);
        if let Kind::Known(known) = kind
            && known.required_ids().any(|id| ids.is_illegal(id))
        {
            return Err(Unusable::UnusableId);
        }
        let Actor { kind: actor_type, id: actor_id } = actor;
        Ok(Self { raw, event_type, kind, ids, actor_type, actor_id, created_at })
    }
}

fn is_wanted(name: &str) -> bool {
    matches!(name, "event_type" | "created_at" | "actor") || ids::is_wanted(name)
}

#[derive(Default)]
struct Actor {
    kind: Option<String>,
    id: Option<String>,
}

impl Actor {
    /// Both members of an actor may be null or missing, and so may the actor.
    fn read(raw: &RawValue) -> Result<Self, Unusable> {
        let members = match json::members(raw.get(), |name| matches!(name, "type" | "id")) {
            Ok(members) => members,
            Err(MembersError::NotAnObject) => return Ok(Self::default()),
            Err(MembersError::Duplicate) => return Err(Unusable::DuplicateMember),
        };
        let text = |wanted: &str| {
            let (_, value) = members.iter().find(|(name, _)| name == wanted)?;
            json::text(value).map(Cow::into_owned)
        };
        Ok(Self { kind: text("type"), id: text("id") })
    }
}
