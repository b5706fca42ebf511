//! Webhooks, their subscriptions, and the schema of the API's bodies about them.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::filter;
use super::response::ApiError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Active,
    /// A delivery has failed permanently; it still gets deliveries.
    Degraded,
    /// Degraded for a week; it gets no deliveries.
    Inactive,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Inactive => "inactive",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
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
        let matches = |Subscription { event_type, filter }: &Subscription| {
            event["event_type"] == **event_type && filter::matches(filter, event)
        };
        self.subscriptions.iter().any(matches)
    }
}

/// The body of POST or PATCH; PATCH may omit either member.
#[derive(Debug, Default)]
pub struct WebhookInput {
    pub target_url: Option<String>,
    pub subscriptions: Option<Vec<Subscription>>,
}

/// Paths with their messages.
type Errors = Vec<(Vec<String>, String)>;

/// Reads a body; all errors are reported at once. `event_types` are allowed in subscriptions; `required` is
/// true for POST.
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
