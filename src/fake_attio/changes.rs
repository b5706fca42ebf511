//! Changes to the workspace, each with the events that Attio sends of it.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::error::ApiError;
use super::store::{Named, Store};
use super::world::{Item, Parent, Values, now};
use crate::catalog::Category;

/// Values as a request has them, by attribute slug.
pub type Given = BTreeMap<String, Json>;

fn given<'a>(values: impl IntoIterator<Item = (&'a str, Json)>) -> Values {
    values.into_iter().map(|(name, value)| (name.to_owned(), (now(), value))).collect()
}

impl Store {
    /// Creates a record of an object, named by its id or its slug. Returns its id.
    pub fn create_record(&mut self, object: &str, values: Given) -> Result<String, ApiError> {
        let object_id = Named::find(&self.objects, object)?.id.clone();
        let values = given(values.iter().map(|(name, value)| (&**name, value.clone())));
        let record_id = self.world.add(Item::new(Category::Record, &object_id, None), values);
        self.tell("record.created", &record_id);
        Ok(record_id)
    }

    /// Adds a record to a list, named by its id or its slug.
    pub fn add_entry(&mut self, list: &str, record_id: &str, values: Given) -> Result<String, ApiError> {
        let list_id = Named::find(&self.lists, list)?.id.clone();
        let item = Item::new(Category::ListEntry, &list_id, Some(self.parent(record_id)?));
        let values = given(values.iter().map(|(name, value)| (&**name, value.clone())));
        let entry_id = self.world.add(item, values);
        self.tell("list-entry.created", &entry_id);
        Ok(entry_id)
    }

    pub fn add_note(&mut self, record_id: &str, title: &str, content: &str) -> Result<String, ApiError> {
        let item = Item::new(Category::Note, "", Some(self.parent(record_id)?));
        let note_id = self.world.add(item, given([("title", title.into()), ("content", content.into())]));
        self.tell("note.created", &note_id);
        Ok(note_id)
    }

    pub fn add_task(&mut self, record_id: &str, content: &str) -> Result<String, ApiError> {
        let item = Item::new(Category::Task, "", Some(self.parent(record_id)?));
        let task_id =
            self.world.add(item, given([("content", content.into()), ("is_completed", false.into())]));
        self.tell("task.created", &task_id);
        Ok(task_id)
    }

    /// Comments on a record or an entry: in a thread, or as the first of a new one, which gets the comment's id.
    pub fn add_comment(&mut self, on: &str, thread: Option<&str>, content: &str) -> Result<String, ApiError> {
        let entry = self.found(on)?;
        let mut item = Item::new(Category::Comment, "", None);
        if entry.category == Category::ListEntry {
            (item.entry, item.parent) =
                (Some((entry.container.clone(), on.to_owned())), entry.parent.clone());
        } else {
            item.parent = Some(self.parent(on)?);
        }
        item.thread = thread.map(str::to_owned);
        let comment_id =
            self.world.add(item, given([("content", content.into()), ("is_resolved", false.into())]));
        self.tell("comment.created", &comment_id);
        Ok(comment_id)
    }

    /// Sets a value: an attribute of a record or an entry, `title` or `content` of a note, any of a task,
    /// `is_resolved` of a comment.
    pub fn set(&mut self, id: &str, name: &str, value: Json) -> Result<(), ApiError> {
        let category = self.found(id)?.category;
        let event_type = match (category, name, &value) {
            (Category::Note, "title", _) => "note.updated",
            (Category::Note, ..) => "note-content.updated",
            (Category::Comment, _, Json::Bool(false)) => "comment.unresolved",
            (Category::Comment, ..) => "comment.resolved",
            (Category::Task, ..) => "task.updated",
            (Category::ListEntry, ..) => "list-entry.updated",
            _ => "record.updated",
        };
        self.world.set(id, name, value);
        self.tell_of(event_type, id, Some(name));
        Ok(())
    }

    /// Deletes anything; a record with its entries, the first comment of a thread with the thread.
    pub fn remove(&mut self, id: &str) -> Result<(), ApiError> {
        let category = self.found(id)?.category;
        if category == Category::Record {
            self.remove_entries(id);
        }
        let replies = if category == Category::Comment { self.replies(id) } else { Vec::new() };
        for id in replies.iter().map(|id| &**id).chain([id]) {
            self.world.remove(id);
            self.tell(&format!("{category}.deleted"), id);
        }
        Ok(())
    }

    fn remove_entries(&mut self, record_id: &str) {
        for entry_id in self.world.entries_of(record_id) {
            self.world.remove(&entry_id);
            self.tell("list-entry.deleted", &entry_id);
        }
    }

    fn replies(&self, thread_id: &str) -> Vec<String> {
        let all = self.world.all(Category::Comment, "", now());
        let replies = all.filter(|(_, item, _)| item.thread.as_deref() == Some(thread_id));
        replies.map(|(id, ..)| id.to_owned()).collect()
    }

    /// Merges two records of an object into a new one, which has the values of the first before those of the second.
    pub fn merge(&mut self, first: &str, second: &str) -> Result<String, ApiError> {
        let object_id = self.parent(first)?.object_id;
        if first == second || self.parent(second)?.object_id != object_id {
            return Err(ApiError::not_found(format!("{first:?} cannot be merged with {second:?}.")));
        }
        let values_of = |id| self.world.get(id).and_then(Item::values).cloned().unwrap_or_default();
        let mut values = values_of(second);
        values.extend(values_of(first));
        let item = Item::new(Category::Record, &object_id, None);
        let readable = item.created_at + self.merge_time;
        let merged = self.world.add_merged(item, values, readable);
        for original in [first, second] {
            self.remove_entries(original);
            self.world.remove(original);
            let more = json!({ "duplicate_object_id": object_id, "duplicate_record_id": original });
            self.emit("record.merged", &merged, None, more);
        }
        Ok(merged)
    }

    fn found(&self, id: &str) -> Result<&Item, ApiError> {
        let item = self.world.get(id).filter(|item| item.values().is_some());
        item.ok_or_else(|| ApiError::not_found(format!("{id:?} was not found.")))
    }

    fn parent(&self, record_id: &str) -> Result<Parent, ApiError> {
        let item = self.found(record_id)?;
        match item.category {
            Category::Record => {
                Ok(Parent { object_id: item.container.clone(), record_id: record_id.to_owned() })
            }
            _ => Err(ApiError::not_found(format!("{record_id:?} is not a record."))),
        }
    }

    fn tell(&mut self, event_type: &str, id: &str) {
        self.tell_of(event_type, id, None);
    }

    fn tell_of(&mut self, event_type: &str, id: &str, attribute: Option<&str>) {
        let Some(item) = self.world.get(id) else { return };
        let parent = item.parent.as_ref().map(|parent| (&parent.object_id, &parent.record_id));
        let more = match (item.category, parent) {
            (Category::ListEntry | Category::Note, Some((object_id, record_id))) => {
                json!({ "parent_object_id": object_id, "parent_record_id": record_id })
            }
            (Category::Comment, Some((object_id, record_id))) => {
                let (list_id, entry_id) = item.entry.clone().unzip();
                json!({
                    "thread_id": item.thread.as_deref().unwrap_or(id), "object_id": object_id,
                    "record_id": record_id, "list_id": list_id, "entry_id": entry_id,
                })
            }
            _ => json!({}),
        };
        self.emit(event_type, id, attribute, more);
    }

    fn emit(&mut self, event_type: &str, id: &str, attribute: Option<&str>, more: Json) {
        let entities = [Some(id), more["duplicate_record_id"].as_str()];
        for entity in entities.into_iter().flatten() {
            match self.silent {
                true => drop(self.untold.insert(entity.to_owned())),
                false => drop(self.untold.remove(entity)),
            }
        }
        let (Some(events), false) = (&self.events, self.silent) else { return };
        let mut event = json!({ "event_type": event_type, "id": self.id_of(id, attribute) });
        if let (Some(event), Json::Object(more)) = (event.as_object_mut(), more) {
            event.extend(more);
        }
        event["actor"] = json!({ "type": "workspace-member", "id": self.member_id });
        // The deliverer may have ended.
        let _ = events.send(event.to_string());
    }

    /// The member `id` of an entity, and with that attribute of its event.
    pub(super) fn id_of(&self, id: &str, attribute: Option<&str>) -> Json {
        let mut ids = json!({ "workspace_id": self.workspace_id });
        let Some(item) = self.world.get(id) else { return ids };
        let (owners, container, own) = match item.category {
            Category::Record => (&self.objects, "object_id", "record_id"),
            Category::ListEntry => (&self.lists, "list_id", "entry_id"),
            Category::Note => (&self.objects, "", "note_id"),
            Category::Task => (&self.objects, "", "task_id"),
            _ => (&self.objects, "", "comment_id"),
        };
        ids[own] = id.into();
        if !container.is_empty() {
            ids[container] = item.container.as_str().into();
            let owner = owners.iter().find(|owner| owner.id == item.container);
            let attributes = owner.map_or(&[][..], |owner| &owner.attributes);
            let known = attributes.iter().find(|known| Some(&*known.slug) == attribute);
            if let Some(id) = known
                .map(|known| &known.id)
                .or(attributes.first().map(|first| &first.id))
                .filter(|_| attribute.is_some())
            {
                ids["attribute_id"] = id.as_str().into();
            }
        }
        ids
    }
}
