//! Attio's REST API, for `webhooks`, `slugs` and `watch`. `serve` never calls it.
//!
//! - [`Client`] has one method per endpoint. Every method retries where that is safe and fails with an [`Error`]
//!   that says what to do.
//! - [`secret::create`] creates a webhook and stores its secret, or deletes the webhook. All webhooks are
//!   created through it. [`secret::SecretFile`] is a file known to be writable beforehand.
//! - [`filter::parse`] reads a filter; [`filter::Resolver`] turns slugs into ids; [`filter::Canonical`] compares.
//! - [`plan::Plan`] is the difference between configured and existing webhooks. There is no state file.
//! - [`rotate::Rotation`] replaces a webhook's secret, in steps that can be resumed.
//! - [`watch::Watch`] polls the configured webhooks, logs each change, and recreates lost ones.
//! - [`slugs::pull`] makes the file of slugs that the bridge reads.
//! - [`bridge::Bridge`] asks a running bridge for its metrics and whether it accepts a secret.
//!
//! Facts about the API: <https://docs.attio.com/rest-api/guides/webhooks>,
//! <https://docs.attio.com/rest-api/guides/rate-limiting>, <https://api.attio.com/openapi/api>.

mod client;
mod request;
pub(crate) mod error;
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
pub use error::Error;
pub(crate) use types::{Created, Status, Subscription, Webhook};

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
