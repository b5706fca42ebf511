//! The consuming side, for operators: which events pass, what is in quarantine and why, and the replay
//! of it. Messages are read by [`crate::bus::read`](mod@crate::bus::read); a replay runs the pipeline of `serve`.

pub mod quarantine;
pub mod replay;

use serde_json::Value;

use crate::catalog::{Category, Kind};
use crate::cloudevent::Data;
use crate::cloudevent::decode::DecodedEvent;
use crate::pipeline::outcome::UNKNOWN_CATEGORY;
use crate::pipeline::quarantine::TYPE as QUARANTINED;

/// What an event must match; an empty field matches every event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Categories, and `unknown` and `quarantine`. Several can share an address.
    pub categories: Vec<String>,
    /// Event types, with or without `com.attio.`; `record.*` matches all of a category.
    pub types: Vec<String>,
    /// The id of a record: matches its own events, and those that refer to it.
    pub record: Option<String>,
}

const PREFIX: &str = "com.attio.";

impl EventFilter {
    pub fn matches(&self, event: &DecodedEvent) -> bool {
        let of_type = self.types.is_empty() || self.types.iter().any(|kind| is_of_type(event, kind));
        let of_category =
            self.categories.is_empty() || self.categories.iter().any(|name| name == category(event));
        of_category && of_type && self.record.as_deref().is_none_or(|record| is_about(event, record))
    }
}

/// Attio's event type, or the whole type if it is not one of Attio's.
fn short_type(event: &DecodedEvent) -> &str {
    let found = event.get("type").unwrap_or_default();
    found.strip_prefix(PREFIX).unwrap_or(found)
}

fn category(event: &DecodedEvent) -> &'static str {
    match short_type(event) {
        QUARANTINED => "quarantine",
        name => Kind::of(name).category().map_or(UNKNOWN_CATEGORY, Category::as_str),
    }
}

fn is_of_type(event: &DecodedEvent, kind: &str) -> bool {
    let short = short_type(event);
    let kind = kind.strip_prefix(PREFIX).unwrap_or(kind);
    match kind.strip_suffix(".*") {
        Some(category) => short.strip_prefix(category).is_some_and(|rest| rest.starts_with('.')),
        None => short == kind,
    }
}

/// Whether the subject, the partition key or a known field of the data is this record.
fn is_about(event: &DecodedEvent, record: &str) -> bool {
    let by_subject = event.get("subject").is_some_and(|subject| subject.split('/').any(|id| id == record));
    if by_subject || event.get("partitionkey") == Some(record) {
        return true;
    }
    let Data::Json(data) = event.data() else { return false };
    let Ok(data) = serde_json::from_slice::<Value>(data) else { return false };
    let fields =
        ["/id/record_id", "/record_id", "/parent_record_id", "/id/parent_record_id", "/record/id/record_id"];
    fields.iter().any(|field| data.pointer(field).and_then(Value::as_str) == Some(record))
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
    fn type_matches_short_name_full_name_and_category() {
        let event = event("lists/l/entries/e", "{}");
        let has =
            |kind: &str| EventFilter { types: vec![kind.into()], ..EventFilter::default() }.matches(&event);
        assert!(has("list-entry.created") && has("com.attio.list-entry.created") && has("list-entry.*"));
        assert!(!has("list-entry.deleted") && !has("list.*") && !has("list-entry"));
    }

    #[test]
    fn category_is_looked_up_in_the_catalog() {
        let has =
            |category: &str| EventFilter { categories: vec![category.into()], ..EventFilter::default() };
        assert!(has("list-entry").matches(&event("x", "{}")) && !has("list").matches(&event("x", "{}")));
        let of = |kind: &str| DecodedEvent::from_json(format!(r#"{{"type":"{kind}"}}"#).as_bytes()).unwrap();
        assert!(has("note").matches(&of("com.attio.note-content.updated")));
        assert!(has("quarantine").matches(&of(QUARANTINED)));
        assert!(
            has("unknown").matches(&of("com.attio.unknown")) && !has("unknown").matches(&of(QUARANTINED))
        );
    }

    #[test]
    fn record_matches_subject_and_references_in_the_data() {
        let has = |subject, data| {
            EventFilter { record: Some("r".into()), ..EventFilter::default() }.matches(&event(subject, data))
        };
        assert!(has("objects/o/records/r", "{}"));
        assert!(has("x", r#"{"parent_record_id":"r"}"#));
        assert!(has("x", r#"{"record":{"id":{"record_id":"r"}}}"#));
        assert!(!has("objects/o/records/r2", r#"{"title":"r"}"#));
    }
}
