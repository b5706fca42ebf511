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
use time::OffsetDateTime;
use uuid::Uuid;

use super::changes::Given;
use super::error::ApiError;
use super::reads::{self, number};
use super::render;
use super::store::{Named, Store};
use super::webhook::{self, Webhook};
use super::world::text;

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
    let (answered, accurate_at) = {
        let mut store = store.lock();
        store.world.forget();
        let at = store.accurate_at();
        (answer(&mut store, &method, &uri, &headers, &body, at), text(at))
    };
    let (status, retry_after, json) = match answered {
        Ok(json) => (StatusCode::OK, None, json),
        Err(ApiError { status, body, retry_after }) => (status, retry_after, body),
    };
    let headers = [
        (header::CONTENT_TYPE, "application/json; charset=utf-8".to_owned()),
        (HeaderName::from_static("x-attio-execution-id"), Uuid::new_v4().simple().to_string()),
        (HeaderName::from_static("x-accurate-at"), accurate_at),
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
    at: OffsetDateTime,
) -> Result<Json, ApiError> {
    let is_query = method == Method::POST && uri.path().ends_with("/query");
    let is_read = method == Method::GET || is_query;
    store.rate.take(!is_read).map_err(limited)?;
    if is_query {
        store.score.take().map_err(limited)?;
    }
    let refused = |status, message: &str| Err(ApiError::new(status, "auth_error", "unauthorized", message));
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let known = bearer.and_then(|value| value.strip_prefix("Bearer ")) == Some(&*store.token);
    let path: Vec<&str> = uri.path().strip_prefix("/v2/").unwrap_or_default().split('/').collect();
    if !known && path != ["self"] {
        return refused(StatusCode::UNAUTHORIZED, "The access token is invalid.");
    }
    let own = match path[0] {
        "objects" if path.get(2) == Some(&"records") => "record_permission",
        "lists" if path.get(2) == Some(&"entries") => "list_entry",
        "webhooks" => "webhook",
        "notes" => "note",
        "tasks" => "task",
        "comments" | "threads" => "comment",
        _ => "",
    };
    let own = if own.is_empty() {
        String::new()
    } else {
        format!("{own}:{}", if is_read { "read" } else { "read-write" })
    };
    let others: &[&str] = match path[0] {
        "objects" => &["object_configuration:read"],
        "lists" => &["list_configuration:read"],
        "notes" => &["object_configuration:read", "record_permission:read"],
        "tasks" => &["object_configuration:read", "record_permission:read", "user_management:read"],
        _ => &[],
    };
    let needed = [&*own].into_iter().chain(others.iter().copied()).filter(|scope| !scope.is_empty());
    if let Some(scope) = needed.into_iter().find(|scope| !store.has_scope(scope)) {
        return refused(StatusCode::FORBIDDEN, &format!("The required scope is missing: {scope}."));
    }
    if is_read && let Some(answer) = reads::answer(store, &path, uri, body, at) {
        return answer;
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
        ("POST", ["objects", name, "records"]) => {
            let id = store.create_record(name, values(body))?;
            written(store, &id)
        }
        ("PATCH", ["objects", _, "records", id]) => {
            for (name, value) in values(body) {
                store.set(id, &name, value)?;
            }
            written(store, id)
        }
        (
            "DELETE",
            ["objects", _, "records", id]
            | ["lists", _, "entries", id]
            | ["notes" | "tasks" | "comments", id],
        ) => {
            return store.remove(id).map(|()| json!({}));
        }
        _ => return Err(ApiError::not_found(format!("Could not find endpoint {method} {}.", uri.path()))),
    };
    Ok(json!({ "data": data }))
}

fn limited(retry_after: String) -> ApiError {
    let message = "Rate limit exceeded, please try again later.";
    let status = StatusCode::TOO_MANY_REQUESTS;
    let error = ApiError::new(status, "rate_limit_error", "rate_limit_exceeded", message);
    ApiError { retry_after: Some(retry_after), ..error }
}

/// The values that a body gives a record.
fn values(body: &[u8]) -> Given {
    let body: Json = serde_json::from_slice(body).unwrap_or_default();
    body["data"]["values"].as_object().cloned().unwrap_or_default().into_iter().collect()
}

/// A record after it was written.
fn written(store: &Store, id: &str) -> Json {
    let item = store.world.get(id).and_then(|item| Some((id, item, item.values()?)));
    item.map_or(Json::Null, |row| render::entity(store, row))
}

fn paging(uri: &Uri) -> Result<(usize, usize), ApiError> {
    let (limit, offset) =
        (number(uri, "limit", DEFAULT_LIMIT, *LIMITS.end())?, number(uri, "offset", 0, usize::MAX)?);
    if LIMITS.contains(&limit) { Ok((limit, offset)) } else { Err(ApiError::number("limit")) }
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
