//! Generates events of a small invented workspace, of any type of the catalog. Their ids are consistent: a
//! record is created, then updated, then deleted, all under one id.

use std::collections::HashMap;

use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::catalog::{Category, EventType, Id, Member, Part};
use crate::cloudevent::timestamp;
use crate::fake_attio::store::{Named, Store};

pub struct EventGenerator {
    pub workspace_id: String,
    pub webhook_id: String,
    objects: Vec<Named>,
    lists: Vec<Named>,
    /// JSON.
    actors: [String; 4],
    /// The ids that the next event of a category refers to.
    current: HashMap<(Category, &'static str), String>,
    count: usize,
}

impl EventGenerator {
    /// A generator for the fake Attio's workspace and one of its webhooks.
    pub fn new(store: &Store, webhook_id: &str) -> Self {
        let actor = |kind, id| object(&[("type", string(kind)), ("id", id)]);
        let of = |kind| actor(kind, string(&uuid()));
        Self {
            workspace_id: store.workspace_id.clone(),
            webhook_id: webhook_id.to_owned(),
            objects: store.objects.clone(),
            lists: store.lists.clone(),
            actors: [of("workspace-member"), of("api-token"), actor("system", "null".into()), of("app")],
            current: HashMap::new(),
            count: 0,
        }
    }

    /// The next event of a type, in Attio's form.
    pub fn event(&mut self, entry: &'static EventType) -> String {
        let (ids, actor) = self.next(entry);
        let level = |top_level| {
            let ids = ids.iter().filter(move |(id, _)| id.top_level == top_level);
            ids.map(|(id, value)| (id.name, string(value)))
        };
        let is_known = |name: &str| ids.iter().any(|(id, _)| id.name == name);
        let mut id = vec![("workspace_id", string(&self.workspace_id))];
        id.extend(level(false));
        id.extend(entry.ids.iter().filter(|name| !is_known(name)).map(|name| (*name, string(&uuid()))));
        let mut event = vec![("event_type", string(entry.name)), ("id", object(&id))];
        event.extend(level(true));
        let others = entry.members.iter().filter(|member| !is_known(member.name));
        event.extend(others.map(|member| (member.name, self.related_id(member))));
        event.push(("actor", actor));
        object(&event)
    }

    /// The next event of a type, in the single-event form: without a workspace, with an id and a time of its own,
    /// and each entity as an object, with its slug if it has one.
    pub fn single_event(&mut self, entry: &'static EventType) -> String {
        let (ids, actor) = self.next(entry);
        let created_at = timestamp(OffsetDateTime::now_utc()).unwrap_or_default();
        let mut event = vec![
            ("event_type", string(entry.name)),
            ("id", object(&[("event_id", string(&uuid()))])),
            ("created_at", string(&created_at)),
            ("actor", actor),
        ];
        for (id, value) in &ids {
            let mut entity = vec![("id", object(&[(id.name, string(value))]))];
            let named = self.objects.iter().chain(&self.lists).find(|named| named.id == *value);
            entity.extend(named.map(|named| ("api_slug", string(&named.slug))));
            event.push((id.name.strip_suffix("_id").unwrap_or(id.name), object(&entity)));
        }
        object(&event)
    }

    /// The ids of the type's subject, and an actor.
    fn next(&mut self, entry: &'static EventType) -> (Vec<(Id, String)>, String) {
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

    /// The value of a member that names something else: an object, a record, or nothing.
    fn related_id(&self, member: &Member) -> String {
        match member {
            Member { nullable: true, .. } => "null".to_owned(),
            Member { name, .. } if name.ends_with("object_id") => string(self.object_id()),
            Member { .. } => string(&uuid()),
        }
    }

    fn object_id(&self) -> &str {
        &self.objects[self.count % self.objects.len()].id
    }
}

/// A JSON object of members that are JSON already, in this order, which `serde_json` would not keep.
pub fn object(members: &[(&str, String)]) -> String {
    let members: Vec<String> =
        members.iter().map(|(name, value)| format!("{}:{value}", string(name))).collect();
    format!("{{{}}}", members.join(","))
}

pub fn string(text: &str) -> String {
    Value::from(text).to_string()
}

pub fn uuid() -> String {
    Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{EVENT_TYPES, Id, is_id};

    fn generator() -> EventGenerator {
        EventGenerator::new(&Store::new(""), "webhook")
    }

    fn entry(name: &str) -> &'static EventType {
        EVENT_TYPES.iter().find(|entry| entry.name == name).unwrap()
    }

    fn parsed(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    fn is_uuid(value: &Value) -> bool {
        value.as_str().is_some_and(|text| is_id(text) && Uuid::parse_str(text).is_ok())
    }

    #[test]
    fn every_type_has_its_required_ids() {
        let mut events = generator();
        for entry in EVENT_TYPES {
            let event = parsed(&events.event(entry));
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
        let mut events = generator();
        let table: [(&str, &[&str], &[&str]); 3] = [
            (
                "list-entry.updated",
                &["attribute_id", "entry_id", "list_id", "workspace_id"],
                &["actor", "event_type", "id", "parent_object_id", "parent_record_id"],
            ),
            (
                "comment.resolved",
                &["comment_id", "workspace_id"],
                &["actor", "entry_id", "event_type", "id", "list_id", "object_id", "record_id", "thread_id"],
            ),
            (
                "record.merged",
                &["object_id", "record_id", "workspace_id"],
                &["actor", "duplicate_object_id", "duplicate_record_id", "event_type", "id"],
            ),
        ];
        for (name, ids, members) in table {
            let event = parsed(&events.event(entry(name)));
            let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&event["id"]), ids);
            assert_eq!(names(&event), members);
        }
    }

    #[test]
    fn updates_refer_to_the_created_entity() {
        let mut events = generator();
        let mut id = |name: &str| parsed(&events.event(entry(name)))["id"]["record_id"].clone();
        let created = id("record.created");
        assert_eq!(id("record.updated"), created);
        assert_eq!(id("record.deleted"), created);
        assert_ne!(id("record.created"), created);
    }

    #[test]
    fn single_event_form_nests_its_ids() {
        let event = parsed(&generator().single_event(entry("list-entry.created")));
        assert!(is_uuid(&event["id"]["event_id"]) && is_uuid(&event["entry"]["id"]["entry_id"]), "{event}");
        assert!(event["list"]["api_slug"].is_string());
        assert!(event["id"]["workspace_id"].is_null());
    }
}
