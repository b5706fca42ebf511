//! Webhooks and their subscriptions.

use serde_json::Value as Json;

/// The status of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Gets deliveries.
    Active,
    /// A delivery has failed for good; it still gets deliveries.
    Degraded,
    /// Degraded for a week; it gets no deliveries.
    Inactive,
}

impl Status {
    /// The API's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Inactive => "inactive",
        }
    }
}

/// A subscribed event type.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// The type.
    pub event_type: String,
    /// Its filter; null for none.
    pub filter: Json,
}

/// A webhook. No `Debug`: it contains the secret.
#[derive(Clone)]
pub struct Webhook {
    /// Its id.
    pub webhook_id: String,
    /// The URL that deliveries go to.
    pub target_url: String,
    /// The subscribed event types.
    pub subscriptions: Vec<Subscription>,
    /// Its status.
    pub status: Status,
    /// RFC 3339, nine fractional digits.
    pub created_at: String,
    /// The key of its signatures: 64 hex digits, used as text.
    pub secret: String,
}

/// The body of POST or PATCH; PATCH may omit either member.
#[derive(Debug, Default)]
pub struct WebhookInput {
    /// The URL to deliver to.
    pub target_url: Option<String>,
    /// The subscribed event types.
    pub subscriptions: Option<Vec<Subscription>>,
}
