//! Webhooks as the API has them.

use std::fmt;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// A webhook. Attio tells its secret on creation alone, see [`Created`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    /// Its ids.
    pub id: Id,
    /// Where Attio sends.
    pub target_url: String,
    /// What Attio sends.
    pub subscriptions: Vec<Subscription>,
    /// How its deliveries fare.
    pub status: Status,
    /// When it was made, as Attio writes it: UTC, nine fractional digits.
    pub created_at: String,
}

/// The ids of a webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Id {
    /// Its workspace.
    pub workspace_id: String,
    /// Its own.
    pub webhook_id: String,
}

/// One event type of a webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// The type.
    pub event_type: String,
    /// Which of its events; all where absent. Attio wants the member to be there, so it is sent as null.
    #[serde(default)]
    pub filter: Option<Json>,
}

/// How the deliveries of a webhook fare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Status {
    /// It is delivered to.
    Active,
    /// Deliveries have failed for about three days; it is still delivered to.
    Degraded,
    /// It was degraded for seven days; it gets nothing.
    Inactive,
    /// Something that Attio says since.
    Other(String),
}

impl Status {
    /// As the API has it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Inactive => "inactive",
            Self::Other(text) => text,
        }
    }
}

impl From<String> for Status {
    fn from(text: String) -> Self {
        match text.as_str() {
            "active" => Self::Active,
            "degraded" => Self::Degraded,
            "inactive" => Self::Inactive,
            _ => Self::Other(text),
        }
    }
}

impl From<Status> for String {
    fn from(status: Status) -> Self {
        status.as_str().to_owned()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A webhook that was just made.
#[derive(Clone, Debug, Deserialize)]
pub struct Created {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: Webhook,
    /// Its secret, which Attio does not tell again.
    pub secret: SecretString,
}
