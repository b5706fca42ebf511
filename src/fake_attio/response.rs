//! Responses of the API: JSON, errors, and the HTML of a proxy in front of it.

use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::store::{Named, Record, Store};
use super::webhook::{Subscription, Webhook};

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

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "invalid_request_error", "not_found", message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, "invalid_request_error", "uniqueness_conflict", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "auth_error", "unauthorized", "The access token is invalid.")
    }

    pub fn forbidden(scope: &str) -> Self {
        Self::new(403, "auth_error", "unauthorized", format!("The required scope is missing: {scope}."))
    }

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

/// An answer with any text as JSON.
pub fn json_answer(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
}

/// A webhook, without its secret.
pub fn webhook(store: &Store, webhook: &Webhook) -> Json {
    let one = |Subscription { event_type, filter }: &Subscription| json!({ "event_type": event_type, "filter": filter });
    json!({
        "id": { "workspace_id": store.workspace_id, "webhook_id": webhook.webhook_id },
        "target_url": (store.spelling)(&webhook.target_url),
        "subscriptions": webhook.subscriptions.iter().map(one).collect::<Vec<_>>(),
        "status": webhook.status.as_str(),
        "created_at": webhook.created_at,
    })
}

/// A new webhook: the only answer that contains its secret.
pub fn created(store: &Store, created: &Webhook) -> Json {
    let mut json = webhook(store, created);
    json["secret"] = created.secret.clone().into();
    json
}

/// A new record, without values.
pub fn record(store: &Store, Record { object_id, record_id }: &Record) -> Json {
    json!({ "id": { "workspace_id": store.workspace_id, "object_id": object_id, "record_id": record_id }, "values": {} })
}

pub fn object(store: &Store, named: &Named) -> Json {
    json!({
        "id": { "workspace_id": store.workspace_id, "object_id": named.id },
        "api_slug": named.slug,
        "singular_noun": named.slug,
        "plural_noun": named.slug,
    })
}

pub fn list(store: &Store, named: &Named) -> Json {
    json!({
        "id": { "workspace_id": store.workspace_id, "list_id": named.id },
        "api_slug": named.slug,
        "name": named.slug,
    })
}

/// An attribute of an object or a list; `owner_id` is `object_id` or `list_id`.
pub fn attribute(store: &Store, owner_id: &str, owner: &Named, named: &Named) -> Json {
    json!({
        "id": { "workspace_id": store.workspace_id, owner_id: owner.id, "attribute_id": named.id },
        "api_slug": named.slug,
        "title": named.slug,
    })
}

/// What `/v2/self` answers, with 200 even to an unknown key.
pub fn token(store: &Store, known: bool) -> Json {
    if !known {
        return json!({ "active": false });
    }
    let scopes: Vec<&str> = store.scopes.iter().map(String::as_str).collect();
    json!({
        "active": true,
        "scope": scopes.join(" "),
        "token_type": "Bearer",
        "exp": null,
        "workspace_id": store.workspace_id,
        "workspace_name": "Example",
        "workspace_slug": "example",
    })
}
