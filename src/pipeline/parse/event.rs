//! One event: its bytes, the members that the bridge reads, and its ids: flat in an envelope, nested in the
//! single-event form.

use std::borrow::Cow;

use bytes::Bytes;

use super::json::{self, MembersError};
use crate::catalog::{self, Id, Kind};
use crate::named_enum::named_enum;

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
    /// `created_at`, any text. Only in the single-event form.
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
    matches!(name, "event_type" | "created_at" | "actor") || is_id_member(name)
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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value<'a> {
    /// Valid in an attribute.
    Usable(Cow<'a, str>),
    /// Anything else that is not null.
    Illegal,
}

impl<'a> Value<'a> {
    fn read(raw: &'a str) -> Option<Self> {
        if json::is_null(raw) {
            return None;
        }
        let usable = json::text(raw).filter(|text| catalog::is_id(text));
        Some(usable.map_or(Self::Illegal, Self::Usable))
    }
}

type Named<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// The ids of one event. A null counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids<'a> {
    /// Members of the `id` object, in order.
    members: Named<'a>,
    /// Members of the event itself.
    top_level: Named<'a>,
    /// `<name>.id.<name>_id`, as the single-event form nests them, by `<name>_id`.
    nested: Named<'a>,
    /// `id` is neither an object nor null.
    malformed: bool,
}

/// Whether a top-level member of an event has ids.
fn is_id_member(name: &str) -> bool {
    name == "id" || name.ends_with("_id") || NESTED.contains(&name)
}

/// Objects of the single-event form that contain an id of their own name.
const NESTED: [&str; 13] = [
    "record",
    "entry",
    "list",
    "object",
    "note",
    "task",
    "comment",
    "thread",
    "attribute",
    "workspace_member",
    "call_recording",
    "meeting",
    "activity",
];

impl<'a> Ids<'a> {
    /// Adds a top-level member that [`is_id_member`].
    pub(super) fn add(&mut self, name: Cow<'a, str>, raw: &'a str) -> Result<(), Unusable> {
        if name == "id" {
            self.malformed = !(json::is_null(raw) || raw.starts_with('{'));
            self.members = object(raw)?;
        } else if NESTED.contains(&name.as_ref()) {
            self.add_nested(&name, raw)?;
        } else if let Some(value) = Value::read(raw) {
            self.top_level.push((name, value));
        }
        Ok(())
    }

    fn add_nested(&mut self, name: &str, raw: &'a str) -> Result<(), Unusable> {
        let inner = match json::members(raw, |member| member == "id") {
            Ok(inner) => inner,
            Err(MembersError::NotAnObject) => return Ok(()),
            Err(MembersError::Duplicate) => return Err(Unusable::DuplicateMember),
        };
        let wanted = format!("{name}_id");
        for (_, id) in inner {
            self.nested.extend(object(id)?.into_iter().filter(|(name, _)| *name == wanted));
        }
        Ok(())
    }

    /// The value of an id: in the flat form, else in the nested form. None if it is absent or invalid.
    pub fn get(&self, id: Id) -> Option<&str> {
        match self.find(id) {
            Some(Value::Usable(text)) => Some(text),
            Some(Value::Illegal) | None => None,
        }
    }

    /// Whether an id is there with an invalid value.
    pub(super) fn is_illegal(&self, id: Id) -> bool {
        match self.find(id) {
            Some(value) => *value == Value::Illegal,
            None => self.malformed && !id.top_level,
        }
    }

    fn find(&self, id: Id) -> Option<&Value<'a>> {
        let flat = if id.top_level { &self.top_level } else { &self.members };
        lookup(flat, id.name).or_else(|| lookup(&self.nested, id.name))
    }

    /// `id.event_id`, in the single-event form.
    pub fn event_id(&self) -> Option<&str> {
        self.get(Id { name: "event_id", top_level: false })
    }

    /// The last member of `id` that can identify the entity of a type that is not in the catalog.
    pub fn last_entity(&self) -> Option<&str> {
        const NOT_AN_ENTITY: [&str; 3] = ["workspace_id", "attribute_id", "event_id"];
        let names_entity = |name: &str| name.ends_with("_id") && !NOT_AN_ENTITY.contains(&name);
        let last = self.members.iter().rev().find(|(name, _)| names_entity(name));
        match last {
            Some((_, Value::Usable(text))) => Some(text),
            Some((_, Value::Illegal)) | None => None,
        }
    }

    /// Every value under one of the names, in any form.
    pub fn any_of<'s>(&'s self, names: &'s [&str]) -> impl Iterator<Item = &'s str> {
        let all = self.members.iter().chain(&self.top_level).chain(&self.nested);
        all.filter(|(name, _)| names.contains(&name.as_ref())).filter_map(|(_, value)| match value {
            Value::Usable(text) => Some(text.as_ref()),
            Value::Illegal => None,
        })
    }
}

fn lookup<'s, 'a>(values: &'s [(Cow<'a, str>, Value<'a>)], name: &str) -> Option<&'s Value<'a>> {
    values.iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

/// The ids in an object; none if it is not an object.
fn object(raw: &str) -> Result<Named<'_>, Unusable> {
    match json::members(raw, |name| name.ends_with("_id")) {
        Ok(members) => {
            Ok(members.into_iter().filter_map(|(name, raw)| Some((name, Value::read(raw)?))).collect())
        }
        Err(MembersError::NotAnObject) => Ok(Vec::new()),
        Err(MembersError::Duplicate) => Err(Unusable::DuplicateMember),
    }
}

/// The deepest nesting that is accepted.
pub const MAX_DEPTH: usize = 64;

/// The most events that are accepted in one delivery. Attio sends one; a body of the default limit holds about
/// 3,500 real ones, or 170,000 empty ones, which must not take memory each.
pub const MAX_EVENTS: usize = 10_000;

named_enum! {
    /// Why a delivery or an element is not an event.
    #[derive(thiserror::Error)]
    pub enum Unusable,
    /// The `reason` in quarantine.
    slug {
        #[error("it is not JSON in UTF-8")]
        NotJson = "not_json",
        #[error("its JSON nests deeper than {MAX_DEPTH}")]
        TooDeep = "too_deep",
        #[error("its JSON has neither `events` nor `event_type`")]
        NotAnEvent = "not_an_event",
        #[error("it holds more than {MAX_EVENTS} events")]
        TooManyEvents = "too_many_events",
        #[error("it is not a JSON object")]
        NotAnObject = "not_an_object",
        #[error("it has no string `event_type`")]
        NoEventType = "no_event_type",
        #[error("a member occurs twice, so it is ambiguous")]
        DuplicateMember = "duplicate_member",
        #[error("an id that its type requires is not 1 to 128 characters of A-Z a-z 0-9 . _ : -")]
        UnusableId = "unusable_id",
    }
}
