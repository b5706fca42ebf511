//! Filters of subscriptions: their grammar, equality, and which events they match.
//!
//! Source of grammar and equality: the webhook schema of <https://api.attio.com/openapi/api>: null, or one of
//! `$and` and `$or` over `{field, operator, value}`, one level deep. Not documented, and chosen here: a path
//! that is absent equals nothing, so `not_equals` holds for it; an empty `$or` matches nothing.

use serde_json::Value as Json;

/// Checks the grammar. An error is a path below the filter and a message.
pub fn check(filter: &Json) -> Result<(), (Vec<String>, String)> {
    let wrong = |path: &[&str], message: &str| {
        Err((path.iter().map(ToString::to_string).collect(), message.to_owned()))
    };
    let Json::Object(members) = filter else {
        return if filter.is_null() { Ok(()) } else { wrong(&[], "Expected object or null") };
    };
    let mut members = members.iter();
    let (Some((name, operations)), None) = (members.next(), members.next()) else {
        return wrong(&[], "Expected exactly one of $and and $or");
    };
    if !matches!(name.as_str(), "$and" | "$or") {
        return wrong(&[name], "Unrecognized key");
    }
    let Some(operations) = operations.as_array() else { return wrong(&[name], "Expected array") };
    for (at, operation) in operations.iter().enumerate() {
        let at = at.to_string();
        let three = operation.as_object().is_some_and(|members| members.len() == 3);
        let text = |member: &str| operation[member].as_str();
        let known = matches!(text("operator"), Some("equals" | "not_equals"));
        if !(three && known && text("field").is_some() && text("value").is_some()) {
            return wrong(&[name, &at], "Expected field, operator (equals or not_equals) and value");
        }
    }
    Ok(())
}

/// A text that is the same for equal filters: order does not matter, and null equals an empty `$and`.
pub fn canonical(filter: &Json) -> String {
    let (name, operations) = match filter.as_object().and_then(|members| members.iter().next()) {
        Some((name, operations)) => (name.as_str(), operations.as_array().cloned().unwrap_or_default()),
        None => ("$and", Vec::new()),
    };
    let text = |operation: &Json, member: &str| operation[member].to_string();
    let one =
        |operation: &Json| ["field", "operator", "value"].map(|member| text(operation, member)).join(" ");
    let mut operations: Vec<String> = operations.iter().map(one).collect();
    operations.sort();
    format!("{name} {}", operations.join(", "))
}

/// Whether an event passes the filter.
pub fn matches(filter: &Json, event: &Json) -> bool {
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
