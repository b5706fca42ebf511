//! The ids of one event, in Attio's flat form and in the guide's nested form.

use std::borrow::Cow;

use super::json::{self, MembersError};
use super::unusable::Unusable;
use crate::catalog::{self, Id};

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
    /// `<name>.id.<name>_id`, as the guide nests them, by `<name>_id`.
    nested: Named<'a>,
    /// `id` is neither an object nor null.
    malformed: bool,
}

/// Whether a top-level member of an event has ids.
pub(super) fn is_wanted(name: &str) -> bool {
    name == "id" || name.ends_with("_id") || NESTED.contains(&name)
}

/// Objects of the guide's form that contain an id of their own name.
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
    /// Adds a top-level member that [`is_wanted`].
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

    /// The value of an id: in the flat form, else in the guide's nested form. None if it is absent or invalid.
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

    /// `id.event_id`, in the guide's form.
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
