//! Generates events of a small invented workspace, of any type of the catalog. Their ids are consistent: a
//! record is created, then updated, then deleted, all under one id.

use std::collections::HashMap;

use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::catalog::{Category, EventType, Id, Part};
use crate::cloudevent::timestamp;
use crate::fake_attio::store::{Named, Store};

/// The actor of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `actor.type`.
    pub kind: &'static str,
    /// `actor.id`; null for the system.
    pub id: Option<String>,
}

/// An event: its JSON, and the facts in it.
#[derive(Clone, Debug)]
pub struct GeneratedEvent {
    /// The JSON.
    pub json: String,
    /// `event_type`.
    pub name: &'static str,
    /// The category.
    pub category: Category,
    /// The path of ids to the entity.
    pub subject: String,
    /// The entity's id.
    pub entity: String,
    /// The actor.
    pub actor: Actor,
}

/// An event in the guide's form.
#[derive(Clone, Debug)]
pub struct GuideEvent {
    /// The event.
    pub event: GeneratedEvent,
    /// `id.event_id`.
    pub event_id: String,
    /// `created_at`.
    pub created_at: String,
}

/// Generates events of one workspace.
pub struct EventGenerator {
    /// The workspace's id.
    pub workspace_id: String,
    /// The id of its only webhook.
    pub webhook_id: String,
    objects: Vec<Named>,
    lists: Vec<Named>,
    actors: [Actor; 4],
    /// The ids that the next event of a category refers to.
    current: HashMap<(Category, &'static str), String>,
    count: usize,
}

impl EventGenerator {
    /// A generator for a workspace of its own.
    pub fn new() -> Self {
        Self::of(&Store::new(""), &uuid())
    }

    /// A generator for the fake Attio's workspace and one of its webhooks.
    pub fn of(store: &Store, webhook_id: &str) -> Self {
        let actor = |kind| Actor { kind, id: Some(uuid()) };
        let system = Actor { kind: "system", id: None };
        Self {
            workspace_id: store.workspace_id.clone(),
            webhook_id: webhook_id.to_owned(),
            objects: store.objects.clone(),
            lists: store.lists.clone(),
            actors: [actor("workspace-member"), actor("api-token"), system, actor("app")],
            current: HashMap::new(),
            count: 0,
        }
    }

    /// The next event of a type, in Attio's form.
    pub fn event(&mut self, entry: &'static EventType) -> GeneratedEvent {
        let (ids, actor) = self.next(entry);
        let level = |top_level| {
            let ids = ids.iter().filter(move |(id, _)| id.top_level == top_level);
            ids.map(|(id, value)| (id.name, string(value)))
        };
        let mut id = vec![("workspace_id", string(&self.workspace_id))];
        id.extend(level(false));
        if matches!(entry.name, "record.updated" | "list-entry.updated" | "activity-record.updated") {
            id.push(("attribute_id", string(&uuid())));
        }
        let mut event = vec![("event_type", string(entry.name)), ("id", object(&id))];
        event.extend(level(true));
        event.extend(self.related_ids(entry));
        event.push(("actor", actor.to_json()));
        GeneratedEvent::new(entry, object(&event), &ids, actor)
    }

    /// The next event of a type, in the guide's form: without a workspace, with an id and a time of its own,
    /// and each entity as an object, with its slug if it has one.
    pub fn guide_event(&mut self, entry: &'static EventType) -> GuideEvent {
        let (ids, actor) = self.next(entry);
        let (event_id, created_at) = (uuid(), timestamp(OffsetDateTime::now_utc()).unwrap_or_default());
        let mut event = vec![
            ("event_type", string(entry.name)),
            ("id", object(&[("event_id", string(&event_id))])),
            ("created_at", string(&created_at)),
            ("actor", actor.to_json()),
        ];
        for (id, value) in &ids {
            let mut entity = vec![("id", object(&[(id.name, string(value))]))];
            let named = self.objects.iter().chain(&self.lists).find(|named| named.id == *value);
            entity.extend(named.map(|named| ("api_slug", string(&named.slug))));
            event.push((id.name.strip_suffix("_id").unwrap_or(id.name), object(&entity)));
        }
        let event = GeneratedEvent::new(entry, object(&event), &ids, actor);
        GuideEvent { event, event_id, created_at }
    }

    /// The ids of the type's subject, and an actor.
    fn next(&mut self, entry: &'static EventType) -> (Vec<(Id, String)>, Actor) {
        self.count += 1;
        // A created entity is new, and so is the record that a merge makes; replies stay in their thread.
        let new = matches!(entry.action, "created" | "merged");
        let ids = entry.subject.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Id(id) => Some((*id, self.id(entry.category, id.name, new && id.name != "thread_id"))),
        });
        (ids.collect(), self.actors[self.count % self.actors.len()].clone())
    }

    fn id(&mut self, category: Category, name: &'static str, new: bool) -> String {
        if let Some(known) = self.current.get(&(category, name)).filter(|_| !new) {
            return known.clone();
        }
        let id = match name {
            "object_id" => self.object_id().to_owned(),
            "list_id" if category != Category::List => self.lists[self.count % self.lists.len()].id.clone(),
            _ => uuid(),
        };
        self.current.insert((category, name), id.clone());
        id
    }

    /// The members other than `id` that events of the category have.
    fn related_ids(&self, entry: &EventType) -> Vec<(&'static str, String)> {
        let (object, record) = (string(self.object_id()), string(&uuid()));
        match (entry.category, entry.action) {
            (Category::ListEntry | Category::Note, _) => {
                vec![("parent_object_id", object), ("parent_record_id", record)]
            }
            (Category::Comment, _) => {
                let null = || "null".to_owned();
                vec![("object_id", object), ("record_id", record), ("list_id", null()), ("entry_id", null())]
            }
            (Category::Record, "merged") => {
                vec![("duplicate_object_id", object), ("duplicate_record_id", record)]
            }
            _ => Vec::new(),
        }
    }

    fn object_id(&self) -> &str {
        &self.objects[self.count % self.objects.len()].id
    }
}

impl Default for EventGenerator {
    fn default() -> Self {
        Self::new()
    }
}

impl GeneratedEvent {
    fn new(entry: &'static EventType, json: String, ids: &[(Id, String)], actor: Actor) -> Self {
        let value = |wanted: &Id| {
            let (_, value) = ids.iter().find(|(id, _)| id == wanted)?;
            Some(value.as_str())
        };
        let part = |part: &Part| match part {
            Part::Text(text) => *text,
            Part::Id(id) => value(id).expect("ids are those of the subject"),
        };
        let subject: Vec<&str> = entry.subject.iter().map(part).collect();
        let entity = value(&entry.partition_key).expect("the entity is part of its subject").to_owned();
        Self { json, name: entry.name, category: entry.category, subject: subject.join("/"), entity, actor }
    }
}

impl Actor {
    fn to_json(&self) -> String {
        let id = self.id.as_ref().map_or("null".to_owned(), |id| string(id));
        object(&[("type", string(self.kind)), ("id", id)])
    }
}

/// A JSON object of members that are JSON already, in this order, which `serde_json` would not keep.
pub fn object(members: &[(&str, String)]) -> String {
    let members: Vec<String> =
        members.iter().map(|(name, value)| format!("{}:{value}", string(name))).collect();
    format!("{{{}}}", members.join(","))
}

/// A JSON string.
pub fn string(text: &str) -> String {
    Value::from(text).to_string()
}

fn uuid() -> String {
    Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{EVENT_TYPES, Id, is_id};

    fn parsed(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    fn is_uuid(value: &Value) -> bool {
        value.as_str().is_some_and(|text| is_id(text) && Uuid::parse_str(text).is_ok())
    }

    #[test]
    fn every_type_has_its_required_ids() {
        let mut events = EventGenerator::new();
        for entry in EVENT_TYPES {
            let event = parsed(&events.event(entry).json);
            assert_eq!(event["event_type"], entry.name);
            for Id { name, top_level } in entry.required_ids() {
                let place = if top_level { &event } else { &event["id"] };
                assert!(is_uuid(&place[name]), "{}: {name} in {event}", entry.name);
            }
            let members = event.as_object().unwrap().iter().chain(event["id"].as_object().unwrap());
            for (name, value) in members.filter(|(name, _)| name.ends_with("_id")) {
                assert!(is_uuid(value) || value.is_null(), "{}: {name} in {event}", entry.name);
            }
            assert_eq!(event["actor"]["type"] == "system", event["actor"]["id"].is_null());
        }
    }

    #[test]
    fn members_are_those_of_attios_schema() {
        let mut events = EventGenerator::new();
        let table: [(&str, &[&str], &[&str]); 3] = [
            (
                "list-entry.updated",
                &["workspace_id", "list_id", "entry_id", "attribute_id"],
                &["parent_object_id", "parent_record_id"],
            ),
            (
                "comment.resolved",
                &["workspace_id", "comment_id"],
                &["thread_id", "object_id", "record_id", "list_id", "entry_id"],
            ),
            (
                "record.merged",
                &["workspace_id", "object_id", "record_id"],
                &["duplicate_object_id", "duplicate_record_id"],
            ),
        ];
        for (name, ids, relatives) in table {
            let entry = EVENT_TYPES.iter().find(|entry| entry.name == name).unwrap();
            let event = parsed(&events.event(entry).json);
            let names = |value: &Value| {
                let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
                names.sort();
                names
            };
            let sorted = |names: &[&[&str]]| {
                let mut names: Vec<String> = names.concat().iter().map(ToString::to_string).collect();
                names.sort();
                names
            };
            assert_eq!(names(&event["id"]), sorted(&[ids]));
            assert_eq!(names(&event), sorted(&[&["event_type", "id", "actor"], relatives]));
        }
    }

    #[test]
    fn updates_refer_to_the_created_entity() {
        let mut events = EventGenerator::new();
        let mut entity = |name: &str| {
            let entry = EVENT_TYPES.iter().find(|entry| entry.name == name).unwrap();
            events.event(entry).entity
        };
        let created = entity("record.created");
        assert_eq!(entity("record.updated"), created);
        assert_eq!(entity("record.deleted"), created);
        assert_ne!(entity("record.created"), created);
    }

    #[test]
    fn guide_form_nests_its_ids() {
        let mut events = EventGenerator::new();
        let entry = EVENT_TYPES.iter().find(|entry| entry.name == "list-entry.created").unwrap();
        let guide = events.guide_event(entry);
        let event = parsed(&guide.event.json);
        assert_eq!(event["id"]["event_id"], guide.event_id.as_str());
        assert_eq!(event["entry"]["id"]["entry_id"], guide.event.entity.as_str());
        assert!(event["list"]["api_slug"].is_string());
        assert!(event["id"]["workspace_id"].is_null());
    }
}
