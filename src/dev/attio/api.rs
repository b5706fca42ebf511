//! The routes, and what stands before all of them: faults, the rate limit, the key and its scopes.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::Response;
use parking_lot::Mutex;
use serde_json::{Value as Json, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::fault::Fault;
use super::problem::Problem;
use super::store::{Named, Seen, Store};
use super::{input, rate, shape};

type Shared = Arc<Mutex<Store>>;

/// How many items a page of webhooks has where nobody asks, and may have.
const PAGE: (usize, std::ops::RangeInclusive<usize>) = (10, 10..=100);

/// Everything that is served.
pub fn router(store: Shared) -> Router {
    Router::new().fallback(answer).with_state(store)
}

async fn answer(
    State(store): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let fault = Fault::take(&mut store.lock().faults, &method);
    if let Some(Fault::Hang(time)) = fault {
        note(&mut store.lock(), &method, &uri, 0);
        tokio::time::sleep(time).await;
        return page(504);
    }
    let response = respond(&mut store.lock(), fault.as_ref(), (&method, &uri), &headers, &body);
    if let Some(Fault::Late(time)) = fault {
        tokio::time::sleep(time).await;
    }
    response
}

fn respond(
    store: &mut Store,
    fault: Option<&Fault>,
    (method, uri): (&Method, &Uri),
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let response = match fault {
        Some(Fault::Status(status)) => page(*status),
        Some(Fault::StatusAfter(status)) => {
            let _ = handle(store, method, uri, headers, body);
            page(*status)
        }
        Some(Fault::Limited) => problem(&Problem::limited(rate::next_second(OffsetDateTime::now_utc()))),
        Some(Fault::LimitedFor(retry_after)) => problem(&Problem::limited(retry_after.clone())),
        Some(Fault::Hang(_) | Fault::Late(_) | Fault::Of(..)) | None => {
            match handle(store, method, uri, headers, body) {
                Ok(body) => json_body(200, &body, None),
                Err(found) => problem(&found),
            }
        }
    };
    note(store, method, uri, response.status().as_u16());
    response
}

fn note(store: &mut Store, method: &Method, uri: &Uri, status: u16) {
    store.seen.push(Seen { method: method.to_string(), target: uri.to_string(), status });
}

fn handle(
    store: &mut Store,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Json, Problem> {
    store.rate.take(method != Method::GET).map_err(Problem::limited)?;
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let known = bearer.and_then(|value| value.strip_prefix("Bearer ")) == Some(&*store.token);
    let path: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
    if (method, &*path) == (&Method::GET, &["v2", "self"]) {
        return Ok(shape::token(store, known));
    }
    if !known {
        return Err(Problem::unauthorized());
    }
    let Some((&"v2", path)) = path.split_first() else { return Err(no_route(method, uri)) };
    allowed(store, method, path)?;
    match (method, path) {
        (&Method::POST, ["webhooks"]) => {
            let wanted = input::read(body, &store.event_types, true)?;
            let made = store.create(wanted)?;
            Ok(data(shape::created(store, &made)))
        }
        (&Method::GET, ["webhooks"]) => {
            let (limit, offset) = paging(uri)?;
            let page = store.webhooks.iter().skip(offset).take(limit);
            Ok(data(page.map(|webhook| shape::webhook(store, webhook)).collect()))
        }
        (&Method::GET, ["webhooks", id]) => Ok(data(shape::webhook(store, store.get(id)?))),
        (&Method::PATCH, ["webhooks", id]) => {
            let wanted = input::read(body, &store.event_types, false)?;
            let changed = store.update(id, wanted)?;
            Ok(data(shape::webhook(store, &changed)))
        }
        (&Method::DELETE, ["webhooks", id]) => store.delete(id).map(|()| json!({})),
        (&Method::GET, ["objects"]) => {
            Ok(data(store.objects.iter().map(|named| shape::object(store, named)).collect()))
        }
        (&Method::GET, ["lists"]) => {
            Ok(data(store.lists.iter().map(|named| shape::list(store, named)).collect()))
        }
        (&Method::POST, ["objects", name, "records"]) => {
            let made = store.create_record(name)?;
            Ok(data(shape::record(store, &made)))
        }
        (&Method::DELETE, ["objects", _, "records", id]) => store.delete_record(id).map(|()| json!({})),
        (&Method::GET, ["objects", name, "attributes"]) => attributes(store, "object_id", name),
        (&Method::GET, ["lists", name, "attributes"]) => attributes(store, "list_id", name),
        _ => Err(no_route(method, uri)),
    }
}

/// Reading webhooks is allowed to whoever may change them.
fn allowed(store: &Store, method: &Method, path: &[&str]) -> Result<(), Problem> {
    let needs = match path.first() {
        Some(&"objects") if path.get(2) == Some(&"records") => "record_permission:read-write",
        Some(&"webhooks") if method == Method::GET => "webhook:read",
        Some(&"webhooks") => "webhook:read-write",
        Some(&"objects") => "object_configuration:read",
        Some(&"lists") => "list_configuration:read",
        _ => return Ok(()),
    };
    let has = |scope: &str| store.scopes.contains(scope);
    if has(needs) || has(&format!("{needs}-write")) { Ok(()) } else { Err(Problem::forbidden(needs)) }
}

fn paging(uri: &Uri) -> Result<(usize, usize), Problem> {
    let given = |name: &str| {
        let mut pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
    };
    let number = |name: &str, default: usize| match given(name).map(|text| text.parse::<usize>()) {
        None => Ok(default),
        Some(Ok(number)) => Ok(number),
        Some(Err(_)) => Err(Problem::validation(vec![(vec![name.into()], "Expected number".into())])),
    };
    let (limit, offset) = (number("limit", PAGE.0)?, number("offset", 0)?);
    if !PAGE.1.contains(&limit) {
        return Err(Problem::validation(vec![(vec!["limit".into()], "Expected 10 to 100".into())]));
    }
    Ok((limit, offset))
}

/// The attributes of an object or a list, which may be named by its id or its slug.
fn attributes(store: &Store, owner_id: &str, name: &str) -> Result<Json, Problem> {
    let all: &[Named] = if owner_id == "object_id" { &store.objects } else { &store.lists };
    let owner = all.iter().find(|named| named.id == name || named.slug == name);
    let owner = owner.ok_or_else(|| Problem::not_found(format!("{name:?} was not found.")))?;
    let one = |named: &Named| shape::attribute(store, owner_id, owner, named);
    Ok(data(owner.attributes.iter().map(one).collect()))
}

fn no_route(method: &Method, uri: &Uri) -> Problem {
    Problem::not_found(format!("Could not find endpoint {method} {}.", uri.path()))
}

fn data(json: Json) -> Json {
    json!({ "data": json })
}

fn problem(problem: &Problem) -> Response {
    json_body(problem.status, &problem.body(), problem.retry_after.as_deref())
}

fn json_body(status: u16, body: &Json, retry_after: Option<&str>) -> Response {
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
        .header("x-attio-execution-id", Uuid::new_v4().simple().to_string());
    let response = match retry_after {
        Some(retry_after) => response.header(header::RETRY_AFTER, retry_after),
        None => response,
    };
    response.body(Body::from(body.to_string())).unwrap_or_default()
}

/// What a proxy says in the API's place.
fn page(status: u16) -> Response {
    let body = format!("<html><head><title>{status}</title></head><body>cloudflare</body></html>");
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "text/html");
    response.body(Body::from(body)).unwrap_or_default()
}
