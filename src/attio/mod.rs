//! Attio's REST API, for `webhooks`, `slugs` and `watch`. `serve` never calls it.
//!
//! All webhooks are created through [`secret::create`]. There is no state file: [`plan::Plan`] compares, and
//! [`rotate::Rotation`] and [`watch::Watch`] go by what Attio shows.
//!
//! Facts about the API: <https://docs.attio.com/rest-api/guides/webhooks>,
//! <https://docs.attio.com/rest-api/guides/rate-limiting>, <https://api.attio.com/openapi/api>.

mod client;
mod request;
pub(crate) mod types;
pub(crate) mod filter;
pub(crate) mod plan;
pub(crate) mod secret;
pub mod bridge;
pub mod rotate;
pub(crate) mod slugs;
pub mod watch;

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

pub use client::Client;
pub use request::{Error, Failed};
pub(crate) use types::{Created, Subscription, Webhook};

/// How to reach Attio.
#[derive(Clone, Debug)]
pub struct Options {
    /// The API key.
    pub api_key: Option<SecretString>,
    /// The URL of the API, without a trailing slash.
    pub api_url: String,
    /// Limit of one attempt, from the connection to the last byte of the answer.
    pub timeout: Duration,
}

/// A configured webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookOptions {
    /// Its name in the configuration.
    pub name: String,
    /// The source that receives its deliveries.
    pub source: String,
    /// Where Attio sends.
    pub target_url: String,
    /// What Attio sends; filters as configured, in Attio's grammar or by slug.
    pub subscriptions: Vec<Subscription>,
    /// Where its secret is stored when it is created.
    pub secret_file: Option<PathBuf>,
    /// Whether `watch` recreates it if it is missing or inactive.
    pub recreate: bool,
}
