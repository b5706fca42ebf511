//! The grammar of filters, and when two of them are the same.
//!
//! Grammar: the webhook schema of <https://api.attio.com/openapi/api>: null, or one of `$and` and
//! `$or` over `{field, operator, value}`, one level deep. Sameness: the description of 409 there.

use serde_json::Value as Json;

/// What is wrong with a filter: a path below it, and why.
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

/// Equal for filters that are the same: the order of operations has no meaning, and null is an empty
/// `$and`.
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn operation(value: &str) -> Json {
        json!({ "field": "id.object_id", "operator": "equals", "value": value })
    }

    #[test]
    fn what_is_the_same_is_the_same() {
        assert_eq!(canonical(&Json::Null), canonical(&json!({ "$and": [] })));
        let (a, b) = (operation("a"), operation("b"));
        assert_eq!(canonical(&json!({ "$and": [a, b] })), canonical(&json!({ "$and": [b, a] })));
        assert_ne!(canonical(&json!({ "$and": [a, b] })), canonical(&json!({ "$or": [a, b] })));
        let turned: Json =
            serde_json::from_str(r#"{"value":"a","operator":"equals","field":"id.object_id"}"#).unwrap();
        assert_eq!(canonical(&json!({ "$or": [a] })), canonical(&json!({ "$or": [turned] })));
    }

    #[test]
    fn the_grammar_is_one_level_of_one_form() {
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
}
