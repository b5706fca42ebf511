//! Attio's REST API, for `webhooks`, `slugs` and `watch`. `serve` never calls it.
//!
//! All webhooks are created through [`secret::create`]. [`plan::Plan`] needs no state: it compares.
//! [`entities::EntityReader`] reads records, list entries, notes, tasks and comments.
//! [`rotate::Rotation`] keeps a journal beside the secret file, and [`watch::Watch`] in memory what it knows.
//!
//! Facts about the API: <https://docs.attio.com/rest-api/guides/webhooks>,
//! <https://docs.attio.com/rest-api/guides/rate-limiting>, <https://api.attio.com/openapi/api>.

mod client;
pub mod entities;
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
use serde::Deserialize;
use serde_json::Value as Json;

use crate::printable;
pub use client::Client;
pub(crate) use types::{Created, Subscription, Webhook};

#[derive(Clone, Debug)]
pub struct Options {
    pub api_key: Option<SecretString>,
    /// The URL of the API, without a trailing slash.
    pub api_url: String,
    /// Limit of one attempt, from the connection to the last byte of the answer.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WebhookOptions {
    pub name: String,
    /// The source that receives its deliveries.
    pub source: String,
    pub target_url: String,
    /// What Attio sends; filters as configured, in Attio's grammar or by slug.
    pub subscriptions: Vec<Subscription>,
    /// Where its secret is stored when it is created.
    pub secret_file: Option<PathBuf>,
    /// Whether `watch` recreates it if it is missing or inactive.
    pub recreate: bool,
}

const MAX_TEXT: usize = 400;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no Attio API key: set ATTIO_API_KEY, ATTIO_API_KEY_FILE or attio.api_key")]
    NoKey,
    #[error("{0}")]
    Setup(String),
    /// Not an id. Nothing was sent.
    #[error("{0:?} is not an id")]
    InvalidId(String),
    #[error(transparent)]
    Call(#[from] Box<Failed>),
}

/// An error that Attio answered with, or why there is no readable answer. Its texts are safe to print.
#[derive(Debug, Default, thiserror::Error)]
#[error("{request}: {reason}{}", self.rest())]
pub struct Failed {
    /// Such as `GET /v2/webhooks`.
    request: String,
    /// What happened, and after how many attempts.
    reason: String,
    /// Of an answer in Attio's format.
    status: Option<u16>,
    /// Attio's `code`, such as `uniqueness_conflict`.
    code: String,
    advice: Option<String>,
    /// Attio may have created what was asked for: the call must not be repeated blindly.
    outcome_unknown: bool,
    /// Header `x-attio-execution-id`, for Attio's support.
    execution_id: Option<String>,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        Self::Call(Box::new(failed))
    }
}

impl Error {
    pub fn status(&self) -> Option<u16> {
        if let Self::Call(failed) = self { failed.status } else { None }
    }

    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Call(failed) if failed.outcome_unknown)
    }

    pub fn with_known_outcome(mut self) -> Self {
        if let Self::Call(failed) = &mut self {
            failed.outcome_unknown = false;
        }
        self
    }

    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

impl Failed {
    fn rest(&self) -> String {
        let unknown = match self.outcome_unknown {
            false => "",
            true if self.request.ends_with("/records") => {
                "; it is unknown whether Attio created the record: look for it in Attio"
            }
            true => {
                "; it is unknown whether Attio did it: check with `webhooks list`, and delete any webhook whose \
                 secret is lost"
            }
        };
        let advice = self.advice.iter().map(|advice| format!("; {advice}"));
        let id = self.execution_id.iter().map(|id| format!(" (x-attio-execution-id {id})"));
        advice.chain([unknown.to_owned()]).chain(id).collect()
    }

    /// An error in Attio's format; none if the body is not.
    fn read(request: String, status: u16, body: &[u8], execution_id: Option<&str>) -> Option<Self> {
        #[derive(Deserialize)]
        struct Body {
            code: String,
            message: String,
            #[serde(default)]
            validation_errors: Vec<Invalid>,
        }
        #[derive(Deserialize)]
        struct Invalid {
            #[serde(default)]
            path: Vec<Json>,
            #[serde(default)]
            message: String,
        }
        let Body { code, message, validation_errors } = serde_json::from_slice(body).ok()?;
        let mut text = message.trim_end_matches('.').to_owned();
        for Invalid { path, message } in validation_errors {
            let part = |part: &Json| part.as_str().map_or(part.to_string(), String::from);
            let path: Vec<String> = path.iter().map(part).collect();
            text += &format!("; {}: {message}", path.join("."));
        }
        let advice = match (status, code.as_str()) {
            (401, _) => Some("check ATTIO_API_KEY"),
            (403, "billing_error") => Some("the workspace's plan does not include this"),
            (403, _) => Some("give the key the scope in Attio's developer settings"),
            (404, "not_found") => Some("list the existing ones with `webhooks list`"),
            (409, "uniqueness_conflict") => Some(
                "target URL, event type and filter must be unique together: `webhooks list` shows which webhook has \
                 them; change that one, or use another URL (a query string is enough)",
            ),
            (429, _) => Some("try again later"),
            _ => None,
        };
        let reason = format!("Attio answered {status} {}: {}", shown(&code), shown(&text));
        let (advice, execution_id) = (advice.map(String::from), execution_id.map(shown));
        Some(Self {
            request,
            reason,
            status: Some(status),
            code,
            advice,
            execution_id,
            outcome_unknown: false,
        })
    }
}

/// Attio's text on one line, safe to print.
fn shown(text: &str) -> String {
    let cut =
        text.char_indices().nth(MAX_TEXT).map_or(text.to_owned(), |(at, _)| format!("{}…", &text[..at]));
    printable::line(&cut)
}
