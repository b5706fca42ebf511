//! Reads the bodies of POST and PATCH as the schema has them; every error at once, each with its path.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::filter;
use super::problem::Problem;
use super::store::Subscription;

/// What a body asks for; PATCH may leave out either.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Where to send.
    pub target_url: Option<String>,
    /// What to send.
    pub subscriptions: Option<Vec<Subscription>>,
}

type Errors = Vec<(Vec<String>, String)>;

/// Reads a body. `event_types` are those that a subscription may name.
pub fn read(body: &[u8], event_types: &BTreeSet<String>, all: bool) -> Result<Wanted, Problem> {
    let body: Json = serde_json::from_slice(body).unwrap_or(Json::Null);
    let mut errors = Errors::new();
    let data = &body["data"];
    if !data.is_object() {
        return Err(Problem::validation(vec![(path(&["data"]), "Required".into())]));
    }
    let target_url = target_url(data, all, &mut errors);
    let subscriptions = match &data["subscriptions"] {
        Json::Array(items) => {
            Some(items.iter().enumerate().map(|(at, item)| one(item, at, event_types, &mut errors)).collect())
        }
        Json::Null if !all => None,
        _ => {
            errors.push((path(&["data", "subscriptions"]), "Expected array".into()));
            None
        }
    };
    if errors.is_empty() {
        Ok(Wanted { target_url, subscriptions })
    } else {
        Err(Problem::validation(errors))
    }
}

fn target_url(data: &Json, required: bool, errors: &mut Errors) -> Option<String> {
    match &data["target_url"] {
        Json::Null if !required => None,
        Json::String(url) if url.starts_with("https://") => Some(url.clone()),
        _ => {
            errors.push((path(&["data", "target_url"]), "Must match ^https://.*".into()));
            None
        }
    }
}

fn one(item: &Json, at: usize, event_types: &BTreeSet<String>, errors: &mut Errors) -> Subscription {
    let at = at.to_string();
    let below = |rest: &[&str]| path(&[&["data", "subscriptions", &at], rest].concat());
    let event_type = item["event_type"].as_str().unwrap_or_default();
    if !event_types.contains(event_type) {
        errors.push((below(&["event_type"]), format!("Invalid enum value, received {event_type:?}")));
    }
    // The schema requires it, though it may be null.
    match item.get("filter") {
        None => errors.push((below(&["filter"]), "Required".into())),
        Some(given) => {
            if let Err((rest, message)) = filter::check(given) {
                let rest: Vec<&str> = ["filter"].into_iter().chain(rest.iter().map(String::as_str)).collect();
                errors.push((below(&rest), message));
            }
        }
    }
    Subscription { event_type: event_type.into(), filter: item["filter"].clone() }
}

fn path(parts: &[&str]) -> Vec<String> {
    parts.iter().map(ToString::to_string).collect()
}
