//! Which events somebody wants to see.

use serde_json::Value;

use crate::catalog::{Category, Kind};
use crate::cloudevent::Data;
use crate::cloudevent::decode::DecodedEvent;
use crate::pipeline::outcome::UNKNOWN_CATEGORY;
use crate::pipeline::quarantine;

/// What an event is compared with; nothing wanted means that everything is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Categories, `unknown` and `quarantine` among them: several can share an address.
    pub categories: Vec<String>,
    /// Event types, with or without `com.attio.`; `record.*` are all of a category.
    pub types: Vec<String>,
    /// The id of a record: its own events, and those that name it.
    pub record: Option<String>,
}

/// What the bridge puts before Attio's name of a type.
const PREFIX: &str = "com.attio.";

impl Wanted {
    /// Whether this one is wanted.
    pub fn has(&self, event: &DecodedEvent) -> bool {
        let of_type = self.types.is_empty() || self.types.iter().any(|wanted| is_of_type(event, wanted));
        let of_category =
            self.categories.is_empty() || self.categories.iter().any(|name| name == category(event));
        of_category && of_type && self.record.as_deref().is_none_or(|record| is_about(event, record))
    }
}

/// Attio's name of the type, or the whole of a type that is not Attio's.
fn short_type(event: &DecodedEvent) -> &str {
    let found = event.get("type").unwrap_or_default();
    found.strip_prefix(PREFIX).unwrap_or(found)
}

fn category(event: &DecodedEvent) -> &'static str {
    match short_type(event) {
        quarantine::TYPE => "quarantine",
        name => Kind::of(name).category().map_or(UNKNOWN_CATEGORY, Category::as_str),
    }
}

fn is_of_type(event: &DecodedEvent, wanted: &str) -> bool {
    let short = short_type(event);
    let wanted = wanted.strip_prefix(PREFIX).unwrap_or(wanted);
    match wanted.strip_suffix(".*") {
        Some(category) => short.strip_prefix(category).is_some_and(|rest| rest.starts_with('.')),
        None => short == wanted,
    }
}

/// Its record, its parent record, or the record that its subject leads to.
fn is_about(event: &DecodedEvent, record: &str) -> bool {
    let by_subject = event.get("subject").is_some_and(|subject| subject.split('/').any(|id| id == record));
    if by_subject || event.get("partitionkey") == Some(record) {
        return true;
    }
    let Data::Json(data) = event.data() else { return false };
    let Ok(data) = serde_json::from_slice::<Value>(data) else { return false };
    let places =
        ["/id/record_id", "/record_id", "/parent_record_id", "/id/parent_record_id", "/record/id/record_id"];
    places.iter().any(|place| data.pointer(place).and_then(Value::as_str) == Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(subject: &str, data: &str) -> DecodedEvent {
        let json = format!(
            r#"{{"type":"com.attio.list-entry.created","subject":"{subject}","partitionkey":"e","data":{data}}}"#
        );
        DecodedEvent::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn types_have_a_short_name_and_a_category() {
        let event = event("lists/l/entries/e", "{}");
        let has = |wanted: &str| Wanted { types: vec![wanted.into()], ..Wanted::default() }.has(&event);
        assert!(has("list-entry.created") && has("com.attio.list-entry.created") && has("list-entry.*"));
        assert!(!has("list-entry.deleted") && !has("list.*") && !has("list-entry"));
    }

    #[test]
    fn categories_are_the_catalogs() {
        let has = |wanted: &str| Wanted { categories: vec![wanted.into()], ..Wanted::default() };
        assert!(has("list-entry").has(&event("x", "{}")) && !has("list").has(&event("x", "{}")));
        let of = |kind: &str| DecodedEvent::from_json(format!(r#"{{"type":"{kind}"}}"#).as_bytes()).unwrap();
        assert!(has("note").has(&of("com.attio.note-content.updated")));
        assert!(has("quarantine").has(&of(quarantine::TYPE)));
        assert!(has("unknown").has(&of("com.attio.unknown")) && !has("unknown").has(&of(quarantine::TYPE)));
    }

    #[test]
    fn a_record_is_found_where_an_event_names_it() {
        let has = |subject, data| {
            Wanted { record: Some("r".into()), ..Wanted::default() }.has(&event(subject, data))
        };
        assert!(has("objects/o/records/r", "{}"));
        assert!(has("x", r#"{"parent_record_id":"r"}"#));
        assert!(has("x", r#"{"record":{"id":{"record_id":"r"}}}"#));
        assert!(!has("objects/o/records/r2", r#"{"title":"r"}"#));
    }
}
