//! What can go wrong with Attio, and what to do about it.

use std::fmt;

use serde::Deserialize;

/// A call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no key.
    #[error("there is no key for Attio: set ATTIO_API_KEY or ATTIO_API_KEY_FILE, or attio.api_key")]
    NoKey,
    /// The options cannot be used.
    #[error("{0}")]
    Setup(String),
    /// What was given as an id cannot be one.
    #[error("{0:?} is no id")]
    NoId(String),
    /// Attio said no.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// No answer of Attio's came, or none that can be read.
    #[error("{request}: {why}{}", unknown(request, *.maybe_done))]
    NoAnswer {
        /// What was asked.
        request: String,
        /// What happened instead, and how often it was tried.
        why: String,
        /// Whether Attio may have done it all the same, and doing it again is not harmless.
        maybe_done: bool,
    },
}

/// What is said where Attio may have made something and did not say so.
pub(super) fn not_known(request: &str) -> &'static str {
    if request.ends_with("/records") {
        "whether Attio has made the record is not known: look for it in Attio"
    } else {
        "whether Attio has done it is not known: look with `webhooks list`, and delete a webhook that nobody \
         has the secret of"
    }
}

fn unknown(request: &str, maybe_done: bool) -> String {
    if maybe_done { format!("; {}", not_known(request)) } else { String::new() }
}

impl Error {
    /// The status that Attio refused with.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            _ => None,
        }
    }

    /// Whether Attio may have made what it was asked for all the same: it must not be asked again blindly.
    pub fn is_maybe_done(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.maybe_done,
            Self::NoAnswer { maybe_done, .. } => *maybe_done,
            Self::NoKey | Self::Setup(_) | Self::NoId(_) => false,
        }
    }

    /// The same where it has become known whether Attio has done it.
    pub fn now_known(mut self) -> Self {
        match &mut self {
            Self::Refused(refusal) => refusal.maybe_done = false,
            Self::NoAnswer { maybe_done, .. } => *maybe_done = false,
            Self::NoKey | Self::Setup(_) | Self::NoId(_) => {}
        }
        self
    }

    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

/// What Attio said when it said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked, such as `GET /v2/webhooks`.
    pub request: String,
    /// The status.
    pub status: u16,
    /// Attio's `code`, such as `uniqueness_conflict`.
    pub code: String,
    /// Attio's `message`.
    pub message: String,
    /// What is wrong with the request, part by part.
    pub validation_errors: Vec<ValidationError>,
    /// What Attio's support asks for.
    pub execution_id: Option<String>,
    /// What to do.
    pub advice: Option<String>,
    /// Whether Attio may have done it all the same, and doing it again is not harmless.
    pub maybe_done: bool,
}

/// One part of a request that Attio does not take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ValidationError {
    /// Where.
    #[serde(default)]
    path: Vec<serde_json::Value>,
    /// What.
    #[serde(default)]
    message: String,
}

/// The body of an error.
#[derive(Deserialize)]
struct Body {
    code: String,
    message: String,
    #[serde(default)]
    validation_errors: Vec<ValidationError>,
}

impl Refusal {
    /// Reads an answer that is an error; none where it is not in Attio's form.
    pub fn read(request: &str, status: u16, body: &[u8], execution_id: Option<String>) -> Option<Self> {
        let body: Body = serde_json::from_slice(body).ok()?;
        let advice = advice(status, &body.code).map(String::from);
        Some(Self {
            request: request.to_owned(),
            status,
            code: body.code,
            message: body.message,
            validation_errors: body.validation_errors,
            execution_id,
            advice,
            maybe_done: false,
        })
    }
}

fn advice(status: u16, code: &str) -> Option<&'static str> {
    match (status, code) {
        (401, _) => Some("check ATTIO_API_KEY"),
        (403, "billing_error") => Some("the workspace's plan does not include this"),
        (403, _) => Some("give the key the scope in Attio's developer settings"),
        (404, "not_found") => Some("`webhooks list` shows what there is"),
        (409, "uniqueness_conflict") => Some(
            "one subscription per target URL, event type and filter: `webhooks list` shows which one has \
             it; change that one, or use another URL (a query is enough)",
        ),
        (429, _) => Some("try again later"),
        _ => None,
    }
}

impl fmt::Display for Refusal {
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
        f.write_str(&unknown(&self.request, self.maybe_done))?;
        match &self.execution_id {
            Some(id) => write!(f, " (x-attio-execution-id {id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}
