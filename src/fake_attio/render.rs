//! Entities as the API shows them.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::store::{Named, Store};
use super::world::{Item, Values, text};
use crate::catalog::Category;

pub(super) fn entity(store: &Store, (id, item, values): (&str, &Item, &Values)) -> Json {
    let author = json!({ "type": "workspace-member", "id": store.member_id });
    let value = |name: &str| values.get(name).map_or(Json::Null, |(_, value)| value.clone());
    let (object_id, record_id) = match &item.parent {
        Some(parent) => (&*parent.object_id, &*parent.record_id),
        None => ("", ""),
    };
    let slug = Named::find(&store.objects, object_id).map_or(object_id, |object| &object.slug);
    let created_at = text(item.created_at);
    let mut entity = match item.category {
        Category::Record => json!({
            "web_url": format!("https://app.attio.com/example/record/{id}"),
            "values": attributes(values, &author, &created_at),
        }),
        Category::ListEntry => json!({
            "parent_record_id": record_id, "parent_object": slug,
            "entry_values": attributes(values, &author, &created_at),
        }),
        Category::Note => json!({
            "parent_object": slug, "parent_record_id": record_id, "title": value("title"), "meeting_id": null,
            "content_plaintext": value("content"), "content_markdown": value("content"), "tags": [],
            "created_by_actor": author,
        }),
        Category::Task => json!({
            "content_plaintext": value("content"), "deadline_at": value("deadline_at"),
            "is_completed": value("is_completed"), "assignees": [], "created_by_actor": author,
            "linked_records": [{ "target_object_id": object_id, "target_object": slug, "target_record_id": record_id }],
        }),
        _ => {
            let entry = item.entry.as_ref();
            let entry = entry.map(|(list_id, entry_id)| json!({ "list_id": list_id, "entry_id": entry_id }));
            let resolved = values.get("is_resolved").filter(|(_, value)| *value == json!(true));
            json!({
                "thread_id": item.thread.as_deref().unwrap_or(id), "content_plaintext": value("content"),
                "entry": entry, "record": { "object_id": object_id, "record_id": record_id }, "author": author,
                "resolved_at": resolved.map(|(since, _)| text(*since)), "resolved_by": resolved.map(|_| &author),
            })
        }
    };
    entity["id"] = store.id_of(id, None);
    entity["created_at"] = created_at.into();
    entity
}

impl Store {
    /// Everything of a category that exists now, by id, as the API shows it.
    pub fn everything(&self, category: Category) -> BTreeMap<String, Json> {
        let row = |row: (&str, &Item, &Values)| (row.0.to_owned(), entity(self, row));
        self.world.existing(category).map(row).collect()
    }
}

/// Each attribute as a list of values, as Attio has them. Those that are objects or lists stay as they were given.
fn attributes(values: &Values, author: &Json, created_at: &str) -> Map<String, Json> {
    let value = |since: &str, kind: &str, value: &Json| {
        let mut shown = json!({
            "active_from": since, "active_until": null, "created_by_actor": author, "attribute_type": kind,
        });
        match value.as_object() {
            Some(members) => members.iter().for_each(|(name, value)| shown[name] = value.clone()),
            None => shown["value"] = value.clone(),
        }
        json!([shown])
    };
    let all = values.iter().map(|(name, (since, given))| {
        let kind = if given.is_number() { "number" } else { "text" };
        (name.clone(), value(&text(*since), kind, given))
    });
    let created = [("created_at".to_owned(), value(created_at, "timestamp", &created_at.into()))];
    all.chain(created).collect()
}
