//! How the fake says no: four members, always, and `validation_errors` where a body is not as the
//! schema has it.

use serde_json::{Value as Json, json};

/// An answer that is an error.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    kind: &'static str,
    code: &'static str,
    message: String,
    validation_errors: Vec<Json>,
    /// `Retry-After`.
    pub retry_after: Option<String>,
}

impl Problem {
    fn new(status: u16, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        let (message, validation_errors) = (message.into(), Vec::new());
        Self { status, kind, code, message, validation_errors, retry_after: None }
    }

    /// The body is not as the schema has it; each error is a path and what is wrong there.
    pub fn validation(errors: Vec<(Vec<String>, String)>) -> Self {
        let one = |(path, message)| json!({ "code": "invalid_type", "path": path, "message": message });
        let message = "Body payload validation error.";
        let problem = Self::new(400, "invalid_request_error", "validation_type", message);
        Self { validation_errors: errors.into_iter().map(one).collect(), ..problem }
    }

    /// There is no such thing, or no such route.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "invalid_request_error", "not_found", message)
    }

    /// Another subscription is the same.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, "invalid_request_error", "uniqueness_conflict", message)
    }

    /// The key is not known.
    pub fn unauthorized() -> Self {
        Self::new(401, "auth_error", "unauthorized", "The access token is invalid.")
    }

    /// The key not_ready_reason a scope.
    pub fn forbidden(scope: &str) -> Self {
        Self::new(403, "auth_error", "unauthorized", format!("The required scope is missing: {scope}."))
    }

    /// Too many requests.
    pub fn limited(retry_after: String) -> Self {
        let message = "Rate limit exceeded, please try again later.";
        let problem = Self::new(429, "rate_limit_error", "rate_limit_exceeded", message);
        Self { retry_after: Some(retry_after), ..problem }
    }

    /// The body.
    pub fn body(&self) -> Json {
        let mut body = json!({
            "status_code": self.status, "type": self.kind, "code": self.code, "message": self.message,
        });
        if !self.validation_errors.is_empty() {
            body["validation_errors"] = Json::Array(self.validation_errors.clone());
        }
        body
    }
}
