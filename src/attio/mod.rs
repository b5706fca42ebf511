//! Attio's REST API. `serve` never speaks to it.

use std::path::PathBuf;

use secrecy::SecretString;
use serde_json::Value as Json;

/// How to reach Attio.
#[derive(Clone, Debug)]
pub struct Options {
    /// The key.
    pub api_key: Option<SecretString>,
    /// The API, without a slash at its end.
    pub api_url: String,
}

/// A webhook that should exist at Attio.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookOptions {
    /// What the bridge calls it.
    pub name: String,
    /// The source that its deliveries come in on.
    pub source: String,
    /// Where Attio sends.
    pub target_url: String,
    /// What Attio sends.
    pub subscriptions: Vec<Subscription>,
    /// Where the secret is written that Attio makes up.
    pub secret_file: Option<PathBuf>,
    /// Whether it may be deleted and made anew where Attio cannot change it.
    pub recreate: bool,
}

/// One event type of a webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// The type.
    pub event_type: String,
    /// Attio's own filter, as it is.
    pub filter: Option<Json>,
}
