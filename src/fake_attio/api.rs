//! The API's routes, and what every request passes first: faults, the rate limit, the key, its scopes.

use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{Method, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use time::OffsetDateTime;

use super::fault::Fault;
use super::response::{self, Answer, ApiError, json_answer, proxy_error};
use super::store::{Named, Seen, Store};
use super::{timing, webhook};

type Shared = Arc<Mutex<Store>>;
type Answered = Result<Answer, ApiError>;

/// Webhooks in a page, by default and at most.
const DEFAULT_LIMIT: usize = 10;
const LIMITS: RangeInclusive<usize> = 10..=100;

/// Whether the request's key is the store's.
#[derive(Clone, Copy)]
struct KeyIsKnown(bool);

/// The API of that store.
pub fn router(store: Shared) -> Router {
    Router::new()
        .route("/v2/self", get(token))
        .route("/v2/webhooks", get(list_webhooks).post(create_webhook))
        .route("/v2/webhooks/{id}", get(get_webhook).patch(update_webhook).delete(delete_webhook))
        .route("/v2/objects", get(list_objects))
        .route("/v2/objects/{name}/attributes", get(list_object_attributes))
        .route("/v2/objects/{name}/records", post(create_record))
        .route("/v2/objects/{name}/records/{id}", delete(delete_record))
        .route("/v2/lists", get(list_lists))
        .route("/v2/lists/{name}/attributes", get(list_list_attributes))
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(from_fn_with_state(Arc::clone(&store), with_faults))
        .with_state(store)
}

/// Applies the next fault, and notes how the request was answered.
async fn with_faults(State(store): State<Shared>, request: Request, next: Next) -> Response {
    let (method, target) = (request.method().clone(), request.uri().to_string());
    let fault = Fault::take(&mut store.lock().faults, &method);
    let note = |status| store.lock().seen.push(Seen { method: method.to_string(), target, status });
    let response = match &fault {
        Some(Fault::Hang(time)) => {
            note(0);
            tokio::time::sleep(*time).await;
            return proxy_error(504);
        }
        Some(Fault::Status(status)) => proxy_error(*status),
        Some(Fault::Answer(status, body)) => json_answer(*status, body.clone()),
        Some(Fault::Limited) => {
            ApiError::rate_limited(timing::next_second(OffsetDateTime::now_utc())).into_response()
        }
        Some(Fault::LimitedFor(retry_after)) => ApiError::rate_limited(retry_after.clone()).into_response(),
        Some(Fault::StatusAfter(status)) => {
            admit(&store, request, next).await;
            proxy_error(*status)
        }
        Some(Fault::Late(_) | Fault::Of(..)) | None => admit(&store, request, next).await,
    };
    note(response.status().as_u16());
    if let Some(Fault::Late(time)) = fault {
        tokio::time::sleep(time).await;
    }
    response
}

/// Answers unless the rate limit, the key or its scopes forbid it.
async fn admit(store: &Shared, mut request: Request, next: Next) -> Response {
    match check(&mut store.lock(), &request) {
        Ok(known) => request.extensions_mut().insert(known),
        Err(error) => return error.into_response(),
    };
    next.run(request).await
}

fn check(store: &mut Store, request: &Request) -> Result<KeyIsKnown, ApiError> {
    let (method, path) = (request.method(), request.uri().path());
    store.rate.take(method != Method::GET).map_err(ApiError::rate_limited)?;
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let known = bearer.and_then(|value| value.strip_prefix("Bearer ")) == Some(&*store.token);
    if path == "/v2/self" {
        return Ok(KeyIsKnown(known));
    }
    if !known {
        return Err(ApiError::unauthorized());
    }
    match required_scope(method, path) {
        Some(scope) if !store.has_scope(scope) => Err(ApiError::forbidden(scope)),
        _ => Ok(KeyIsKnown(known)),
    }
}

fn required_scope(method: &Method, path: &str) -> Option<&'static str> {
    let mut parts = path.strip_prefix("/v2/")?.split('/');
    match (parts.next()?, parts.nth(1)) {
        ("objects", Some("records")) => Some("record_permission:read-write"),
        ("objects", _) => Some("object_configuration:read"),
        ("lists", _) => Some("list_configuration:read"),
        ("webhooks", _) if method == Method::GET => Some("webhook:read"),
        ("webhooks", _) => Some("webhook:read-write"),
        _ => None,
    }
}

async fn no_route(method: Method, uri: Uri) -> ApiError {
    ApiError::not_found(format!("Could not find endpoint {method} {}.", uri.path()))
}

async fn token(State(store): State<Shared>, Extension(KeyIsKnown(known)): Extension<KeyIsKnown>) -> Answer {
    Answer(response::token(&store.lock(), known))
}

async fn create_webhook(State(store): State<Shared>, body: Bytes) -> Answered {
    let mut store = store.lock();
    let input = webhook::read(&body, &store.event_types, true)?;
    let created = store.create(input)?;
    data(response::created(&store, &created))
}

async fn list_webhooks(State(store): State<Shared>, uri: Uri) -> Answered {
    let (limit, offset) = paging(&uri)?;
    let store = store.lock();
    let page = store.webhooks.iter().skip(offset).take(limit.min(store.max_page));
    data(page.map(|webhook| response::webhook(&store, webhook)).collect())
}

async fn get_webhook(State(store): State<Shared>, Path(id): Path<String>) -> Answered {
    let store = store.lock();
    data(response::webhook(&store, store.get(&id)?))
}

async fn update_webhook(State(store): State<Shared>, Path(id): Path<String>, body: Bytes) -> Answered {
    let mut store = store.lock();
    let input = webhook::read(&body, &store.event_types, false)?;
    let updated = store.update(&id, input)?;
    data(response::webhook(&store, &updated))
}

async fn delete_webhook(State(store): State<Shared>, Path(id): Path<String>) -> Answered {
    store.lock().delete(&id)?;
    Ok(Answer(json!({})))
}

async fn list_objects(State(store): State<Shared>) -> Answered {
    let store = store.lock();
    data(store.objects.iter().map(|named| response::object(&store, named)).collect())
}

async fn list_lists(State(store): State<Shared>) -> Answered {
    let store = store.lock();
    data(store.lists.iter().map(|named| response::list(&store, named)).collect())
}

async fn list_object_attributes(State(store): State<Shared>, Path(name): Path<String>) -> Answered {
    let store = store.lock();
    attributes(&store, "object_id", &store.objects, &name)
}

async fn list_list_attributes(State(store): State<Shared>, Path(name): Path<String>) -> Answered {
    let store = store.lock();
    attributes(&store, "list_id", &store.lists, &name)
}

/// The attributes of an object or a list, named by its id or its slug.
fn attributes(store: &Store, owner_id: &str, owners: &[Named], name: &str) -> Answered {
    let owner = Named::find(owners, name)?;
    let one = |named: &Named| response::attribute(store, owner_id, owner, named);
    data(owner.attributes.iter().map(one).collect())
}

async fn create_record(State(store): State<Shared>, Path(object): Path<String>) -> Answered {
    let mut store = store.lock();
    let record = store.create_record(&object)?;
    data(response::record(&store, &record))
}

async fn delete_record(State(store): State<Shared>, Path((_, id)): Path<(String, String)>) -> Answered {
    store.lock().delete_record(&id)?;
    Ok(Answer(json!({})))
}

fn paging(uri: &Uri) -> Result<(usize, usize), ApiError> {
    let invalid =
        |name: &str, message: &str| ApiError::validation(vec![(vec![name.to_owned()], message.to_owned())]);
    let number = |name: &str, default: usize| {
        let mut pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        match pairs.find(|(known, _)| *known == name).map(|(_, value)| value.parse()) {
            None => Ok(default),
            Some(Ok(number)) => Ok(number),
            Some(Err(_)) => Err(invalid(name, "Expected number")),
        }
    };
    let (limit, offset) = (number("limit", DEFAULT_LIMIT)?, number("offset", 0)?);
    if LIMITS.contains(&limit) { Ok((limit, offset)) } else { Err(invalid("limit", "Expected 10 to 100")) }
}

fn data(json: Json) -> Answered {
    Ok(Answer(json!({ "data": json })))
}
