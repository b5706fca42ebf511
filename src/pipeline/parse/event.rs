//! One event: its bytes and the members that the bridge reads.

use std::borrow::Cow;

use bytes::Bytes;

use super::ids::{self, Ids};
use super::json::{self, MembersError};
use super::unusable::Unusable;
use crate::catalog::Kind;

/// One event of a verified delivery. Its texts borrow from the body, unless they are escaped there.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// The JSON, byte for byte as received, without the white space around it.
    pub raw: Bytes,
    /// `event_type`, any text. See [`crate::catalog::is_event_type`].
    pub event_type: Cow<'a, str>,
    pub kind: Kind,
    pub ids: Ids<'a>,
    /// `actor.type`, any text.
    pub actor_type: Option<Cow<'a, str>>,
    /// `actor.id`, any text.
    pub actor_id: Option<Cow<'a, str>>,
    /// `created_at`, any text. Only in the guide's form.
    pub created_at: Option<Cow<'a, str>>,
}

impl<'a> Event<'a> {
    /// Parses an element of `events` or a bare event.
    pub(super) fn read(text: &'a str, raw: Bytes) -> Result<Self, Unusable> {
        let members = json::members(text, is_wanted).map_err(|error| match error {
            MembersError::NotAnObject => Unusable::NotAnObject,
            MembersError::Duplicate => Unusable::DuplicateMember,
        })?;
        let mut event_type = None;
        let mut created_at = None;
        let mut actor = Actor::default();
        let mut ids = Ids::default();
        for (name, value) in members {
            match name.as_ref() {
                "event_type" => event_type = json::text(value),
                "created_at" => created_at = json::text(value),
                "actor" => actor = Actor::read(value)?,
                _ => ids.add(name, value)?,
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
struct Actor<'a> {
    kind: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
}

impl<'a> Actor<'a> {
    /// The actor and both its members may be null or absent.
    fn read(raw: &'a str) -> Result<Self, Unusable> {
        let members = match json::members(raw, |name| matches!(name, "type" | "id")) {
            Ok(members) => members,
            Err(MembersError::NotAnObject) => return Ok(Self::default()),
            Err(MembersError::Duplicate) => return Err(Unusable::DuplicateMember),
        };
        let text = |wanted: &str| {
            let (_, value) = members.iter().find(|(name, _)| name == wanted)?;
            json::text(value)
        };
        Ok(Self { kind: text("type"), id: text("id") })
    }
}
