//! Resources of Attio's API.

use std::fmt;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// A webhook. Its secret is only in the answer to its creation, see [`Created`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    /// Its ids.
    pub id: Id,
    /// Where Attio sends.
    pub target_url: String,
    /// What Attio sends.
    pub subscriptions: Vec<Subscription>,
    /// Its status.
    pub status: Status,
    /// When it was created, as Attio writes it: UTC, nine fractional digits.
    pub created_at: String,
}

/// The ids of a webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Id {
    /// The workspace's.
    pub workspace_id: String,
    /// Its own.
    pub webhook_id: String,
}

/// One event type of a webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// The type.
    pub event_type: String,
    /// Which of its events; none for all. Attio requires the member, so none is sent as null.
    #[serde(default)]
    pub filter: Option<Json>,
}

/// The status of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Status {
    /// Deliveries succeed.
    Active,
    /// Deliveries have failed for about three days; Attio still sends.
    Degraded,
    /// Degraded for seven days; Attio no longer sends.
    Inactive,
    /// A status that this build does not know.
    Other(String),
}

impl Status {
    /// The API's word.
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

/// A webhook that was just created.
#[derive(Clone, Debug, Deserialize)]
pub struct Created {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: Webhook,
    /// Its secret, which Attio shows only this once.
    pub secret: SecretString,
}

/// An object, a list or an attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// Its id, as in events.
    pub id: String,
    /// Its slug, which may be absent.
    pub slug: Option<String>,
}

/// What has attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// An object.
    Object,
    /// A list.
    List,
}

impl Owner {
    /// Its collection in the API.
    pub fn path(self) -> &'static str {
        match self {
            Self::Object => "objects",
            Self::List => "lists",
        }
    }
}

/// The answer of `GET /v2/self`: what an API key is.
#[derive(Clone, Debug, Deserialize)]
pub struct Token {
    /// Whether Attio accepts it.
    pub active: bool,
    /// Its workspace.
    #[serde(default)]
    pub workspace_id: Option<String>,
    /// The name of its workspace.
    #[serde(default)]
    pub workspace_name: Option<String>,
    /// Its scopes, separated by spaces.
    #[serde(default)]
    pub scope: Option<String>,
}
