//! Responses of the API: JSON, errors, and the HTML of a proxy in front of it.

use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value as Json, json};
use uuid::Uuid;

/// A JSON body with the headers of every answer of the API.
pub struct Answer(pub Json);

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let execution_id = Uuid::new_v4().simple().to_string();
        let content_type = (header::CONTENT_TYPE, "application/json; charset=utf-8".to_owned());
        let headers =
            [content_type, ("x-attio-execution-id".parse().expect("a header's name"), execution_id)];
        (headers, self.0.to_string()).into_response()
    }
}

/// An error of the API: always four members, and `validation_errors` if the body does not fit the schema.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: u16,
    kind: &'static str,
    code: &'static str,
    message: String,
    validation_errors: Vec<Json>,
    retry_after: Option<String>,
}

impl ApiError {
    fn new(status: u16, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, kind, code, message, validation_errors: Vec::new(), retry_after: None }
    }

    /// The body does not fit the schema: paths with their messages.
    pub fn validation(errors: Vec<(Vec<String>, String)>) -> Self {
        let one = |(path, message)| json!({ "code": "invalid_type", "path": path, "message": message });
        let validation_errors = errors.into_iter().map(one).collect();
        let error =
            Self::new(400, "invalid_request_error", "validation_type", "Body payload validation error.");
        Self { validation_errors, ..error }
    }

    /// No such thing, or no such route.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "invalid_request_error", "not_found", message)
    }

    /// An equal subscription exists.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, "invalid_request_error", "uniqueness_conflict", message)
    }

    /// Unknown API key.
    pub fn unauthorized() -> Self {
        Self::new(401, "auth_error", "unauthorized", "The access token is invalid.")
    }

    /// The API key lacks a scope.
    pub fn forbidden(scope: &str) -> Self {
        Self::new(403, "auth_error", "unauthorized", format!("The required scope is missing: {scope}."))
    }

    /// Too many requests.
    pub fn rate_limited(retry_after: String) -> Self {
        let message = "Rate limit exceeded, please try again later.";
        let error = Self::new(429, "rate_limit_error", "rate_limit_exceeded", message);
        Self { retry_after: Some(retry_after), ..error }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({
            "status_code": self.status, "type": self.kind, "code": self.code, "message": self.message,
        });
        if !self.validation_errors.is_empty() {
            body["validation_errors"] = self.validation_errors.into();
        }
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after.map(|value| [(header::RETRY_AFTER, value)]);
        (status, retry_after, Answer(body)).into_response()
    }
}

/// The HTML that a proxy in front of the API answers.
pub fn proxy_error(status: u16) -> Response {
    let page = format!("<html><head><title>{status}</title></head><body>cloudflare</body></html>");
    (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), Html(page)).into_response()
}
