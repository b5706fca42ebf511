//! What can go wrong with a call to Attio, and what to do about it.

use std::fmt;

use serde::Deserialize;

use crate::printable;

/// Longer texts of Attio are cut.
const MAX_TEXT: usize = 400;

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no API key.
    #[error("no Attio API key: set ATTIO_API_KEY, ATTIO_API_KEY_FILE or attio.api_key")]
    NoKey,
    /// The options are unusable.
    #[error("{0}")]
    Setup(String),
    /// Not an id. Nothing was sent.
    #[error("{0:?} is not an id")]
    InvalidId(String),
    /// Attio answered with an error.
    #[error(transparent)]
    Api(Box<ApiError>),
    /// No answer from Attio, or an unreadable one.
    #[error("{request}: {reason}{}", unknown(request, *.outcome_unknown))]
    NoAnswer {
        /// The request, such as `GET /v2/webhooks`.
        request: String,
        /// What happened instead, and after how many attempts.
        reason: String,
        /// See [`Error::is_outcome_unknown`].
        outcome_unknown: bool,
    },
}

impl Error {
    /// The status of Attio's answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api(error) => Some(error.status),
            _ => None,
        }
    }

    /// Whether Attio may have created what was asked for: the call must not be repeated blindly.
    pub fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Api(error) => error.outcome_unknown,
            Self::NoAnswer { outcome_unknown, .. } => *outcome_unknown,
            Self::NoKey | Self::Setup(_) | Self::InvalidId(_) => false,
        }
    }

    /// The same error once the outcome is known.
    pub fn with_known_outcome(mut self) -> Self {
        match &mut self {
            Self::Api(error) => error.outcome_unknown = false,
            Self::NoAnswer { outcome_unknown, .. } => *outcome_unknown = false,
            Self::NoKey | Self::Setup(_) | Self::InvalidId(_) => {}
        }
        self
    }

    /// Whether the requested resource does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

/// An error in Attio's format. Its texts are safe to print.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The request, such as `GET /v2/webhooks`.
    request: String,
    pub(super) status: u16,
    /// Attio's `code`, such as `uniqueness_conflict`.
    pub(super) code: String,
    message: String,
    /// Header `x-attio-execution-id`, for Attio's support.
    execution_id: Option<String>,
    pub(super) advice: Option<String>,
    /// See [`Error::is_outcome_unknown`].
    pub(super) outcome_unknown: bool,
}

#[derive(Deserialize)]
struct Body {
    code: String,
    message: String,
    #[serde(default)]
    validation_errors: Vec<ValidationError>,
}

/// One invalid part of a request.
#[derive(Deserialize)]
struct ValidationError {
    #[serde(default)]
    path: Vec<serde_json::Value>,
    #[serde(default)]
    message: String,
}

impl ApiError {
    /// Reads the body of an error; none if it is not in Attio's format.
    pub(super) fn read(
        request: String,
        status: u16,
        body: &[u8],
        execution_id: Option<&str>,
    ) -> Option<Self> {
        let Body { code, message, validation_errors } = serde_json::from_slice(body).ok()?;
        let advice = advice(status, &code).map(String::from);
        let mut text = message.trim_end_matches('.').to_owned();
        for ValidationError { path, message } in validation_errors {
            let part = |part: &serde_json::Value| part.as_str().map_or(part.to_string(), String::from);
            let path: Vec<String> = path.iter().map(part).collect();
            text += &format!("; {}: {message}", path.join("."));
        }
        let (code, message, execution_id) = (shown(&code), shown(&text), execution_id.map(shown));
        Some(Self { request, status, code, message, execution_id, advice, outcome_unknown: false })
    }
}

/// Attio's text on one line, safe to print.
pub(super) fn shown(text: &str) -> String {
    let cut =
        text.char_indices().nth(MAX_TEXT).map_or(text.to_owned(), |(at, _)| format!("{}…", &text[..at]));
    printable::line(&cut)
}

fn advice(status: u16, code: &str) -> Option<&'static str> {
    match (status, code) {
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
    }
}

fn unknown(request: &str, outcome_unknown: bool) -> &'static str {
    match outcome_unknown {
        false => "",
        true if request.ends_with("/records") => {
            "; it is unknown whether Attio created the record: look for it in Attio"
        }
        true => {
            "; it is unknown whether Attio did it: check with `webhooks list`, and delete any webhook whose \
             secret is lost"
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, status, code, message, .. } = self;
        write!(f, "{request}: Attio answered {status} {code}: {message}")?;
        if let Some(advice) = &self.advice {
            write!(f, "; {advice}")?;
        }
        f.write_str(unknown(request, self.outcome_unknown))?;
        match &self.execution_id {
            Some(id) => write!(f, " (x-attio-execution-id {id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}
