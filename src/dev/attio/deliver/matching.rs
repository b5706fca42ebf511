//! Whether an event is for a webhook: its type, and what its filter compares.
//!
//! Not documented, and decided here: a path that leads nowhere is equal to nothing, so `not_equals` holds
//! of it; an empty `$or` holds of nothing.

use serde_json::Value as Json;

use crate::dev::attio::store::{Subscription, Webhook};

/// Whether any subscription of the webhook takes the event.
pub fn takes(webhook: &Webhook, event: &Json) -> bool {
    let fits = |subscription: &Subscription| {
        event["event_type"] == *subscription.event_type && passes(&subscription.filter, event)
    };
    webhook.subscriptions.iter().any(fits)
}

fn passes(filter: &Json, event: &Json) -> bool {
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

    #[test]
    fn filters_hold_as_they_are_written() {
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
            assert_eq!(passes(&filter, &event), expected, "{filter}");
        }
    }
}
