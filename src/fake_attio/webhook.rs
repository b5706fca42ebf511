//! Webhooks and their subscriptions: the schema of the API's bodies about them, and which events they match.
//!
//! Source: the webhook schema of <https://api.attio.com/openapi/api>. Not documented, and chosen here: a path that is
//! absent equals nothing, so `not_equals` holds for it; an empty `$or` matches nothing.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::error::ApiError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Active,
    /// A delivery has failed permanently; it still gets deliveries.
    Degraded,
    /// Degraded for a week; it gets no deliveries.
    Inactive,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Subscription {
    pub event_type: String,
    /// Its filter; null for none.
    pub filter: Json,
}

/// A webhook. No `Debug`: it contains the secret.
#[derive(Clone)]
pub struct Webhook {
    pub webhook_id: String,
    pub target_url: String,
    pub subscriptions: Vec<Subscription>,
    pub status: Status,
    /// RFC 3339, nine fractional digits.
    pub created_at: String,
    /// The key of its signatures: 64 hex digits, used as text.
    pub secret: String,
}

impl Webhook {
    pub fn matches(&self, event: &Json) -> bool {
        let mut subscriptions = self.subscriptions.iter();
        subscriptions.any(|one| event["event_type"] == *one.event_type && matches(&one.filter, event))
    }
}

/// The body of POST or PATCH; PATCH may omit either member.
#[derive(Debug, Default)]
pub struct WebhookInput {
    pub target_url: Option<String>,
    pub subscriptions: Option<Vec<Subscription>>,
}

/// Reads a body; all errors are reported at once. `event_types` are allowed in subscriptions; `required` is
/// true for POST.
pub fn read(body: &[u8], event_types: &BTreeSet<String>, required: bool) -> Result<WebhookInput, ApiError> {
    let body: Json = serde_json::from_slice(body).unwrap_or_default();
    let data = &body["data"];
    let mut errors = Vec::new();
    let mut wrong = |path: &str, message: &str| {
        let path: Vec<&str> = path.split('.').collect();
        errors.push(json!({ "code": "invalid_type", "path": path, "message": message }));
    };
    let mut input = WebhookInput::default();
    match &data["target_url"] {
        _ if !data.is_object() => wrong("data", "Required"),
        Json::Null if !required => {}
        Json::String(url) if url.starts_with("https://") => input.target_url = Some(url.clone()),
        _ => wrong("data.target_url", "Must match ^https://.*"),
    }
    match &data["subscriptions"] {
        _ if !data.is_object() => {}
        Json::Null if !required => {}
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let event_type = item["event_type"].as_str().unwrap_or_default();
                if !event_types.contains(event_type) {
                    let message = format!("Invalid enum value, received {event_type:?}");
                    wrong(&format!("data.subscriptions.{index}.event_type"), &message);
                }
                // Required, though it may be null.
                if let Err((below, message)) =
                    item.get("filter").ok_or((String::new(), "Required")).and_then(check)
                {
                    wrong(&format!("data.subscriptions.{index}.filter{below}"), message);
                }
            }
            let one = |item: &Json| {
                let event_type = item["event_type"].as_str().unwrap_or_default().to_owned();
                Subscription { event_type, filter: item["filter"].clone() }
            };
            input.subscriptions = Some(items.iter().map(one).collect());
        }
        _ => wrong("data.subscriptions", "Expected array"),
    }
    if errors.is_empty() { Ok(input) } else { Err(ApiError::validation(errors)) }
}

/// Checks a filter's grammar: null, or one of `$and` and `$or` over `{field, operator, value}`. An error is a path
/// below the filter and a message.
fn check(filter: &Json) -> Result<(), (String, &'static str)> {
    let Some(members) = filter.as_object() else {
        return if filter.is_null() { Ok(()) } else { Err((String::new(), "Expected object or null")) };
    };
    let mut members = members.iter();
    let (Some((name, operations)), None) = (members.next(), members.next()) else {
        return Err((String::new(), "Expected exactly one of $and and $or"));
    };
    if !matches!(name.as_str(), "$and" | "$or") {
        return Err((format!(".{name}"), "Unrecognized key"));
    }
    let operations = operations.as_array().ok_or_else(|| (format!(".{name}"), "Expected array"))?;
    let is_valid = |operation: &Json| {
        let text = |member: &str| operation[member].as_str();
        operation.as_object().is_some_and(|members| members.len() == 3)
            && matches!(text("operator"), Some("equals" | "not_equals"))
            && text("field").is_some()
            && text("value").is_some()
    };
    match operations.iter().position(|operation| !is_valid(operation)) {
        None => Ok(()),
        Some(at) => {
            Err((format!(".{name}.{at}"), "Expected field, operator (equals or not_equals) and value"))
        }
    }
}

/// A text that is the same for equal filters: order does not matter, and null equals an empty `$and`.
pub fn canonical(filter: &Json) -> String {
    let (name, operations) = match filter.as_object().and_then(|members| members.iter().next()) {
        Some((name, operations)) => (name.as_str(), operations.as_array().cloned().unwrap_or_default()),
        None => ("$and", Vec::new()),
    };
    // The members of an object are sorted.
    let mut operations: Vec<String> = operations.iter().map(Json::to_string).collect();
    operations.sort();
    format!("{name} {}", operations.join(", "))
}

/// Whether an event passes the filter.
fn matches(filter: &Json, event: &Json) -> bool {
    let holds = |operation: &Json| {
        let path = operation["field"].as_str().unwrap_or_default();
        let found = path.split('.').fold(event, |value, name| &value[name]);
        let equal = found.is_string() && *found == operation["value"];
        equal == (operation["operator"] == "equals")
    };
    match (filter["$and"].as_array(), filter["$or"].as_array()) {
        (Some(all), _) => all.iter().all(holds),
        (None, Some(any)) => any.iter().any(holds),
        (None, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn operation(value: &str) -> Json {
        json!({ "field": "id.object_id", "operator": "equals", "value": value })
    }

    #[test]
    fn equal_filters_have_one_canonical_text() {
        assert_eq!(canonical(&Json::Null), canonical(&json!({ "$and": [] })));
        let (a, b) = (operation("a"), operation("b"));
        assert_eq!(canonical(&json!({ "$and": [a, b] })), canonical(&json!({ "$and": [b, a] })));
        assert_ne!(canonical(&json!({ "$and": [a, b] })), canonical(&json!({ "$or": [a, b] })));
        let turned: Json =
            serde_json::from_str(r#"{"value":"a","operator":"equals","field":"id.object_id"}"#).unwrap();
        assert_eq!(canonical(&json!({ "$or": [a] })), canonical(&json!({ "$or": [turned] })));
    }

    #[test]
    fn grammar_is_one_level_of_one_form() {
        for good in [Json::Null, json!({ "$and": [] }), json!({ "$or": [operation("a")] })] {
            assert_eq!(check(&good), Ok(()));
        }
        let table = [
            json!("text"),
            json!({}),
            json!({ "$and": [], "$or": [] }),
            json!({ "object": { "$eq": "deals" } }),
            json!({ "$and": [{ "$or": [] }] }),
            json!({ "$and": [{ "field": "id.object_id", "operator": "like", "value": "a" }] }),
            json!({ "$and": [{ "field": "id.object_id", "operator": "equals", "value": 1 }] }),
        ];
        for bad in table {
            assert!(check(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn filters_match_events() {
        let event = json!({ "event_type": "x.y", "id": { "object_id": "o" }, "actor": { "type": "system", "id": null } });
        let op = |field: &str, operator: &str, value: &str| json!({ "field": field, "operator": operator, "value": value });
        let [is, other] = ["o", "p"].map(|value| op("id.object_id", "equals", value));
        let table = [
            (Json::Null, true),
            (json!({ "$and": [] }), true),
            (json!({ "$or": [] }), false),
            (json!({ "$and": [is] }), true),
            (json!({ "$and": [is, other] }), false),
            (json!({ "$or": [other, is] }), true),
            (json!({ "$and": [op("id.object_id", "not_equals", "o")] }), false),
            (json!({ "$and": [op("actor.type", "equals", "system")] }), true),
            (json!({ "$and": [op("actor.id", "not_equals", "a")] }), true),
            (json!({ "$and": [op("parent.id", "equals", "a")] }), false),
        ];
        for (filter, expected) in table {
            assert_eq!(matches(&filter, &event), expected, "{filter}");
        }
    }
}
