//! The API: what every request passes first (the rate limit, the key, its scopes) and the endpoints.

use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::error::ApiError;
use super::store::{Named, Store};
use super::webhook::{self, Webhook};

/// Webhooks in a page, by default and at most.
const DEFAULT_LIMIT: usize = 10;
const LIMITS: RangeInclusive<usize> = 10..=100;

pub fn router(store: Arc<Mutex<Store>>) -> Router {
    Router::new().fallback(handle).with_state(store)
}

async fn handle(
    State(store): State<Arc<Mutex<Store>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answered = answer(&mut store.lock(), &method, &uri, &headers, &body);
    let (status, retry_after, json) = match answered {
        Ok(json) => (StatusCode::OK, None, json),
        Err(ApiError { status, body, retry_after }) => (status, retry_after, body),
    };
    let headers = [
        (header::CONTENT_TYPE, "application/json; charset=utf-8".to_owned()),
        (HeaderName::from_static("x-attio-execution-id"), Uuid::new_v4().simple().to_string()),
    ];
    let retry_after = retry_after.map(|value| [(header::RETRY_AFTER, value)]);
    (status, headers, retry_after, json.to_string()).into_response()
}

/// The answer to a request, unless the rate limit, the key or its scopes forbid it.
fn answer(
    store: &mut Store,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Json, ApiError> {
    store.rate.take(method != Method::GET).map_err(|retry_after| {
        let message = "Rate limit exceeded, please try again later.";
        let status = StatusCode::TOO_MANY_REQUESTS;
        let error = ApiError::new(status, "rate_limit_error", "rate_limit_exceeded", message);
        ApiError { retry_after: Some(retry_after), ..error }
    })?;
    let refused = |status, message: &str| Err(ApiError::new(status, "auth_error", "unauthorized", message));
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let known = bearer.and_then(|value| value.strip_prefix("Bearer ")) == Some(&*store.token);
    let path: Vec<&str> = uri.path().strip_prefix("/v2/").unwrap_or_default().split('/').collect();
    if !known && path != ["self"] {
        return refused(StatusCode::UNAUTHORIZED, "The access token is invalid.");
    }
    let scope = match (path[0], path.get(2)) {
        ("objects", Some(&"records")) => "record_permission:read-write",
        ("objects", _) => "object_configuration:read",
        ("lists", _) => "list_configuration:read",
        ("webhooks", _) if method == Method::GET => "webhook:read",
        ("webhooks", _) => "webhook:read-write",
        _ => "",
    };
    if !scope.is_empty() && !store.has_scope(scope) {
        return refused(StatusCode::FORBIDDEN, &format!("The required scope is missing: {scope}."));
    }
    let workspace_id = store.workspace_id.clone();
    let (owners, owner_id) =
        if path[0] == "lists" { (&store.lists, "list_id") } else { (&store.objects, "object_id") };
    let data = match (method.as_str(), &path[..]) {
        ("GET", ["self"]) if !known => return Ok(json!({ "active": false })),
        ("GET", ["self"]) => {
            let scopes: Vec<&str> = store.scopes.iter().map(String::as_str).collect();
            return Ok(json!({
                "active": true, "scope": scopes.join(" "), "token_type": "Bearer", "exp": null,
                "workspace_id": workspace_id, "workspace_name": "Example", "workspace_slug": "example",
            }));
        }
        ("GET", ["webhooks"]) => {
            let (limit, offset) = paging(uri)?;
            let page = store.webhooks.iter().skip(offset).take(limit.min(store.max_page));
            page.map(|webhook| webhook_json(store, webhook)).collect()
        }
        ("POST", ["webhooks"]) => {
            let created = store.create(webhook::read(body, &store.event_types, true)?)?;
            let mut json = webhook_json(store, &created);
            json["secret"] = created.secret.into();
            json
        }
        ("GET", ["webhooks", id]) => webhook_json(store, store.get(id)?),
        ("PATCH", ["webhooks", id]) => {
            let updated = store.update(id, webhook::read(body, &store.event_types, false)?)?;
            webhook_json(store, &updated)
        }
        ("DELETE", ["webhooks", id]) => return store.delete(id).map(|()| json!({})),
        ("GET", [kind @ ("objects" | "lists")]) => {
            let titles: &[_] = if *kind == "lists" { &["name"] } else { &["singular_noun", "plural_noun"] };
            let id = |owner: &Named| json!({ "workspace_id": workspace_id, owner_id: owner.id });
            owners.iter().map(|owner| named_json(id(owner), owner, titles)).collect()
        }
        ("GET", ["objects" | "lists", name, "attributes"]) => {
            let owner = Named::find(owners, name)?;
            let id = |one: &Named| json!({ "workspace_id": workspace_id, owner_id: owner.id, "attribute_id": one.id });
            owner.attributes.iter().map(|one| named_json(id(one), one, &["title"])).collect()
        }
        ("POST", ["objects", name, "records"]) => json!({ "id": store.create_record(name)?, "values": {} }),
        ("DELETE", ["objects", _, "records", id]) => return store.delete_record(id).map(|()| json!({})),
        _ => return Err(ApiError::not_found(format!("Could not find endpoint {method} {}.", uri.path()))),
    };
    Ok(json!({ "data": data }))
}

fn paging(uri: &Uri) -> Result<(usize, usize), ApiError> {
    let invalid = |name: &str, message: &str| {
        ApiError::validation(vec![json!({ "code": "invalid_type", "path": [name], "message": message })])
    };
    let number = |name: &str, default: usize| {
        let mut pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(known, _)| *known == name).map(|(_, value)| value.parse());
        found.unwrap_or(Ok(default)).map_err(|_| invalid(name, "Expected number"))
    };
    let (limit, offset) = (number("limit", DEFAULT_LIMIT)?, number("offset", 0)?);
    if LIMITS.contains(&limit) { Ok((limit, offset)) } else { Err(invalid("limit", "Expected 10 to 100")) }
}

fn webhook_json(store: &Store, webhook: &Webhook) -> Json {
    json!({
        "id": { "workspace_id": store.workspace_id, "webhook_id": webhook.webhook_id },
        "target_url": (store.spelling)(&webhook.target_url),
        "subscriptions": webhook.subscriptions,
        "status": webhook.status,
        "created_at": webhook.created_at,
    })
}

/// An object, a list or an attribute, whose titles are its slug.
fn named_json(id: Json, named: &Named, titles: &[&str]) -> Json {
    let mut json = json!({ "id": id, "api_slug": named.slug });
    titles.iter().for_each(|title| json[title] = named.slug.clone().into());
    json
}
