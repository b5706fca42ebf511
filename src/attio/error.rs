//! What can go wrong with a call to Attio, and what to do about it.

use std::fmt;

use serde::Deserialize;

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

/// An error in Attio's format.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The request, such as `GET /v2/webhooks`.
    pub request: String,
    /// The status.
    pub status: u16,
    /// Attio's `code`, such as `uniqueness_conflict`.
    pub code: String,
    message: String,
    validation_errors: Vec<ValidationError>,
    /// Header `x-attio-execution-id`, for Attio's support.
    execution_id: Option<String>,
    /// What to do.
    pub advice: Option<String>,
    /// See [`Error::is_outcome_unknown`].
    pub outcome_unknown: bool,
}

/// One invalid part of a request.
#[derive(Clone, Debug, Deserialize)]
struct ValidationError {
    #[serde(default)]
    path: Vec<serde_json::Value>,
    #[serde(default)]
    message: String,
}

impl ApiError {
    /// Reads the body of an error; none if it is not in Attio's format.
    pub fn read(request: &str, status: u16, body: &[u8], execution_id: Option<String>) -> Option<Self> {
        #[derive(Deserialize)]
        struct Body {
            code: String,
            message: String,
            #[serde(default)]
            validation_errors: Vec<ValidationError>,
        }
        let Body { code, message, validation_errors } = serde_json::from_slice(body).ok()?;
        let advice = advice(status, &code).map(String::from);
        let (request, outcome_unknown) = (request.to_owned(), false);
        Some(Self {
            request,
            status,
            code,
            message,
            validation_errors,
            execution_id,
            advice,
            outcome_unknown,
        })
    }
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
        let message = self.message.trim_end_matches('.');
        write!(f, "{}: Attio answered {} {}: {message}", self.request, self.status, self.code)?;
        for ValidationError { path, message } in &self.validation_errors {
            let part = |part: &serde_json::Value| part.as_str().map_or(part.to_string(), String::from);
            let path: Vec<String> = path.iter().map(part).collect();
            write!(f, "; {}: {message}", path.join("."))?;
        }
        if let Some(advice) = &self.advice {
            write!(f, "; {advice}")?;
        }
        f.write_str(unknown(&self.request, self.outcome_unknown))?;
        match &self.execution_id {
            Some(id) => write!(f, " (x-attio-execution-id {id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}
