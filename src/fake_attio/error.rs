//! The errors of Attio's API.

use std::fmt;

use axum::http::StatusCode;
use serde_json::{Value as Json, json};

/// An error of the API: always four members, and `validation_errors` if the body does not fit the schema.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub(super) status: StatusCode,
    pub(super) body: Json,
    pub(super) retry_after: Option<String>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.body["message"])
    }
}

impl ApiError {
    pub(super) fn new(status: StatusCode, kind: &str, code: &str, message: &str) -> Self {
        let body = json!({ "status_code": status.as_u16(), "type": kind, "code": code, "message": message });
        Self { status, body, retry_after: None }
    }

    pub fn validation(errors: Vec<Json>) -> Self {
        let message = "Body payload validation error.";
        let mut error =
            Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", "validation_type", message);
        error.body["validation_errors"] = errors.into();
        error
    }

    pub(super) fn number(name: &str) -> Self {
        Self::validation(vec![
            json!({ "code": "invalid_type", "path": [name], "message": "Expected number" }),
        ])
    }

    pub fn not_found(message: impl AsRef<str>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message.as_ref())
    }

    pub fn conflict(message: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "invalid_request_error", "uniqueness_conflict", message)
    }
}
