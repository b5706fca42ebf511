//! Attio's REST API, for the verbs that speak to it. `serve` never does.
//!
//! # What to call
//!
//! - [`Client`]: one method per endpoint. [`Client::webhooks`] reads all pages; [`Client::create_webhook`]
//!   is the one place where Attio tells a secret. Every method retries where that is safe ([`retry`])
//!   and fails with an [`Error`] that says what Attio said and what to do.
//! - [`create::kept`]: create a webhook and keep its secret, or delete it again. Whoever makes webhooks
//!   goes through it; [`secret_file::Reserved`] is a file that is known to be writable beforehand.
//! - [`filter::parse`] reads a filter in Attio's grammar or by slug, without asking anybody;
//!   [`filter::Resolver`] turns it into what Attio takes, asking for ids once each.
//!   [`filter::Canonical`] is equal for filters that mean the same.
//! - [`plan::Plan`]: what is between the wanted webhooks and those that exist, as a value:
//!   [`plan::Plan::between`] asks nobody. A webhook is known by its `target_url`; there is no state.
//! - [`rotate::Rotation`]: a new secret for a webhook, in steps that can be taken up again.
//! - [`watch::Watch`] polls the wanted webhooks, tells each change, and makes lost ones again.
//! - [`slugs::pull`] makes the map of slugs that the bridge reads from a file.
//! - [`bridge::Bridge`] asks a running bridge what it counts and whether it takes a secret; it sends no key.
//!
//! Facts about the API: <https://docs.attio.com/rest-api/guides/webhooks>,
//! <https://docs.attio.com/rest-api/guides/rate-limiting>, <https://api.attio.com/openapi/api>.

pub mod client;
mod request;
pub mod error;
pub mod types;
pub mod filter;
pub mod plan;
pub mod create;
pub mod secret_file;
pub mod bridge;
pub mod rotate;
pub mod slugs;
pub mod watch;

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

pub use client::Client;
pub use error::Error;
pub use types::{Created, Status, Subscription, Webhook};

/// How to reach Attio.
#[derive(Clone, Debug)]
pub struct Options {
    /// The key.
    pub api_key: Option<SecretString>,
    /// The API, without a slash at its end.
    pub api_url: String,
    /// How long one try may take, from the connection to the last byte of the answer.
    pub timeout: Duration,
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
    /// What Attio sends; filters as they are written, by slug or not.
    pub subscriptions: Vec<Subscription>,
    /// Where the secret is written that Attio makes up.
    pub secret_file: Option<PathBuf>,
    /// Whether it is made again where it is gone, or inactive for good.
    pub recreate: bool,
}
