//! A small made-up workspace, and what happens in it: one event of any type of the catalog, with ids
//! that hang together (a record is created, then updated, then deleted, all under one id).

use std::collections::HashMap;

use uuid::Uuid;

use super::body::Json;
use super::sample::{Actor, GuideSample, Happening, Sample};
use crate::catalog::{Category, EventType, Part};
use crate::fake_attio::store::{Named, Store};

/// The workspace.
pub struct World {
    /// Its id.
    pub workspace_id: String,
    /// The one webhook.
    pub webhook_id: String,
    objects: Vec<Named>,
    lists: Vec<Named>,
    actors: [Actor; 4],
    /// What the next event of a category is about.
    current: HashMap<(Category, &'static str), String>,
    turn: usize,
}

impl World {
    /// A workspace of its own.
    pub fn new() -> Self {
        Self::of(&Store::new(""), &uuid())
    }

    /// What happens in the fake Attio's workspace, as one of its webhooks tells it.
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
            turn: 0,
        }
    }

    /// The next event of that type, in Attio's form.
    pub fn event(&mut self, entry: &'static EventType) -> Sample {
        self.happen(entry).attio(&self.workspace_id)
    }

    /// The next event of that type, in the guide's form.
    pub fn guide_event(&mut self, entry: &'static EventType) -> GuideSample {
        self.happen(entry).guide(|id| self.slug(id))
    }

    fn happen(&mut self, entry: &'static EventType) -> Happening {
        self.turn += 1;
        // A created entity is a new one, and so is the record that a merge makes; replies stay in
        // their thread.
        let new = matches!(entry.action, "created" | "merged");
        let ids = entry.subject.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Id(id) => Some((*id, self.id(entry.category, id.name, new && id.name != "thread_id"))),
        });
        let ids = ids.collect();
        let names_attribute =
            matches!(entry.name, "record.updated" | "list-entry.updated" | "activity-record.updated");
        Happening {
            entry,
            ids,
            actor: self.actors[self.turn % self.actors.len()].clone(),
            attribute_id: names_attribute.then(uuid),
            relatives: self.relatives(entry),
        }
    }

    fn id(&mut self, category: Category, name: &'static str, new: bool) -> String {
        if let Some(known) = self.current.get(&(category, name)).filter(|_| !new) {
            return known.clone();
        }
        let id = match name {
            "object_id" => self.object_id().to_owned(),
            "list_id" if category != Category::List => self.lists[self.turn % self.lists.len()].id.clone(),
            _ => uuid(),
        };
        self.current.insert((category, name), id.clone());
        id
    }

    /// The members beside `id` that the category has.
    fn relatives(&self, entry: &EventType) -> Vec<(&'static str, Json)> {
        let object = || Json::text(self.object_id());
        let record = || Json::text(uuid());
        match (entry.category, entry.action) {
            (Category::ListEntry | Category::Note, _) => {
                vec![("parent_object_id", object()), ("parent_record_id", record())]
            }
            (Category::Comment, _) => vec![
                ("object_id", object()),
                ("record_id", record()),
                ("list_id", Json::Null),
                ("entry_id", Json::Null),
            ],
            (Category::Record, "merged") => {
                vec![("duplicate_object_id", object()), ("duplicate_record_id", record())]
            }
            _ => Vec::new(),
        }
    }

    /// The object whose turn it is.
    fn object_id(&self) -> &str {
        &self.objects[self.turn % self.objects.len()].id
    }

    fn slug(&self, id: &str) -> Option<&str> {
        let mut named = self.objects.iter().chain(&self.lists);
        named.find(|named| named.id == id).map(|named| &*named.slug)
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn uuid() -> String {
    Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::catalog::{EVENT_TYPES, Id, is_id};

    fn parsed(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    fn is_uuid(value: &Value) -> bool {
        value.as_str().is_some_and(|text| is_id(text) && Uuid::parse_str(text).is_ok())
    }

    /// Every id that a type needs is where the catalog says, and every other one is an id as well.
    #[test]
    fn every_type_has_its_ids() {
        let mut world = World::new();
        for entry in EVENT_TYPES {
            let event = parsed(&world.event(entry).json);
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

    /// The members of three types, as in Attio's own schema.
    #[test]
    fn the_shape_is_that_of_the_contract() {
        let mut world = World::new();
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
            let event = parsed(&world.event(entry).json);
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
    fn what_is_updated_is_what_was_created() {
        let mut world = World::new();
        let mut entity = |name: &str| {
            let entry = EVENT_TYPES.iter().find(|entry| entry.name == name).unwrap();
            world.event(entry).entity
        };
        let created = entity("record.created");
        assert_eq!(entity("record.updated"), created);
        assert_eq!(entity("record.deleted"), created);
        assert_ne!(entity("record.created"), created);
    }

    #[test]
    fn the_guides_form_nests_its_ids() {
        let mut world = World::new();
        let entry = EVENT_TYPES.iter().find(|entry| entry.name == "list-entry.created").unwrap();
        let guide = world.guide_event(entry);
        let event = parsed(&guide.sample.json);
        assert_eq!(event["id"]["event_id"], guide.event_id.as_str());
        assert_eq!(event["entry"]["id"]["entry_id"], guide.sample.entity.as_str());
        assert!(event["list"]["api_slug"].is_string());
        assert!(event["id"]["workspace_id"].is_null());
    }
}
