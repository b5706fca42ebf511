//! Reads the bodies of POST and PATCH against the API's schema. All errors are reported at once.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::filter;
use super::response::ApiError;
use super::webhook::{Subscription, WebhookInput};

/// Paths with their messages.
type Errors = Vec<(Vec<String>, String)>;

/// Reads a body. `event_types` are allowed in subscriptions; `required` is true for POST.
pub fn read(body: &[u8], event_types: &BTreeSet<String>, required: bool) -> Result<WebhookInput, ApiError> {
    let body: Json = serde_json::from_slice(body).unwrap_or(Json::Null);
    let data = &body["data"];
    if !data.is_object() {
        return Err(ApiError::validation(vec![(path(&["data"]), "Required".into())]));
    }
    let mut errors = Errors::new();
    let target_url = match &data["target_url"] {
        Json::Null if !required => None,
        Json::String(url) if url.starts_with("https://") => Some(url.clone()),
        _ => {
            errors.push((path(&["data", "target_url"]), "Must match ^https://.*".into()));
            None
        }
    };
    let subscriptions = match &data["subscriptions"] {
        Json::Null if !required => None,
        Json::Array(items) => {
            let items = items.iter().enumerate();
            Some(items.map(|(index, item)| subscription(item, index, event_types, &mut errors)).collect())
        }
        _ => {
            errors.push((path(&["data", "subscriptions"]), "Expected array".into()));
            None
        }
    };
    if errors.is_empty() {
        Ok(WebhookInput { target_url, subscriptions })
    } else {
        Err(ApiError::validation(errors))
    }
}

fn subscription(
    item: &Json,
    index: usize,
    event_types: &BTreeSet<String>,
    errors: &mut Errors,
) -> Subscription {
    let index = index.to_string();
    let below = |rest: &[&str]| path(&[&["data", "subscriptions", &index], rest].concat());
    let event_type = item["event_type"].as_str().unwrap_or_default();
    if !event_types.contains(event_type) {
        errors.push((below(&["event_type"]), format!("Invalid enum value, received {event_type:?}")));
    }
    // Required, though it may be null.
    let filter = item.get("filter").ok_or_else(|| (Vec::new(), "Required".to_owned()));
    if let Err((rest, message)) = filter.and_then(filter::check) {
        let rest: Vec<&str> = ["filter"].into_iter().chain(rest.iter().map(String::as_str)).collect();
        errors.push((below(&rest), message));
    }
    Subscription { event_type: event_type.into(), filter: item["filter"].clone() }
}

fn path(parts: &[&str]) -> Vec<String> {
    parts.iter().map(ToString::to_string).collect()
}
