//! What goes wrong on purpose with the requests to the fake Attio, and what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Html, IntoResponse, Response};
use parking_lot::Mutex;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What goes wrong with one of the next requests, once each and in order.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is not processed; a proxy answers with this status and HTML.
    Status(u16),
    /// The request is not processed, and answered with this status and this JSON.
    Answer(u16, String),
    /// The request is processed, but a proxy answers with this status and HTML.
    StatusAfter(u16),
    /// The request is not processed, and the answer takes this long.
    Hang(Duration),
    /// The request is processed, and the answer takes this long.
    Late(Duration),
    /// The request is processed, and the answer does not say when it was true.
    Undated,
    /// The request is processed; the clock of whoever answers is behind by this much.
    Behind(Duration),
    /// The request is not processed, and answered with 200 and this JSON, which was true that long ago.
    Stale(Duration, String),
    /// 429; `Retry-After` is an HTTP date.
    Limited,
    /// 429; `Retry-After` is this text.
    LimitedFor(String),
    /// For the next request with this method only.
    Of(Method, Box<Fault>),
}

/// A request and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub target: String,
    /// When it came.
    pub at: SystemTime,
    /// The status of the answer; 0 if it hangs.
    pub status: u16,
    /// `Retry-After` of the answer, if it is an HTTP date.
    pub retry_after: Option<SystemTime>,
}

#[derive(Default)]
pub struct Faults {
    pub next: VecDeque<Fault>,
    /// What goes wrong with every request whose target ends with this.
    pub always: Vec<(String, Fault)>,
    pub seen: Vec<Seen>,
    /// When each sender asked that has added its name to the key, behind a `~`.
    pub senders: BTreeMap<String, Vec<Instant>>,
    /// Whether every request is answered by a proxy that ends its connection.
    pub down: bool,
}

impl Faults {
    /// Removes the first fault that applies to a request with this method.
    fn take(&mut self, method: &Method, target: &str) -> Option<Fault> {
        if let Some((_, fault)) = self.always.iter().find(|(end, _)| target.ends_with(end)) {
            return Some(fault.clone());
        }
        let applies = |fault: &Fault| !matches!(fault, Fault::Of(only, _) if only != method);
        match self.next.remove(self.next.iter().position(applies)?)? {
            Fault::Of(_, fault) => Some(*fault),
            fault => Some(fault),
        }
    }
}

/// Puts the faults in front of an API.
pub fn in_front(router: Router, faults: &Arc<Mutex<Faults>>) -> Router {
    let faults = Arc::clone(faults);
    router.layer(from_fn(move |request: Request, next: Next| {
        let faults = Arc::clone(&faults);
        async move { answer(&faults, request, next).await }
    }))
}

async fn answer(faults: &Mutex<Faults>, mut request: Request, next: Next) -> Response {
    let now = Instant::now();
    if let Some(sender) = sender(&mut request) {
        faults.lock().senders.entry(sender).or_default().push(now);
    }
    let (method, target, at) = (request.method().clone(), request.uri().to_string(), SystemTime::now());
    if faults.lock().down {
        return ([(header::CONNECTION, "close")], of_a_proxy(502)).into_response();
    }
    let fault = faults.lock().take(&method, &target);
    let note = |status, retry_after| {
        faults.lock().seen.push(Seen { method: method.to_string(), target, at, status, retry_after });
    };
    let response = match &fault {
        Some(Fault::Hang(time)) => {
            note(0, None);
            tokio::time::sleep(*time).await;
            return of_a_proxy(504);
        }
        Some(Fault::Status(status)) => of_a_proxy(*status),
        Some(Fault::Answer(status, body)) => json_answer(*status, body.clone()),
        Some(Fault::Limited) => limited(&httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(1))),
        Some(Fault::LimitedFor(retry_after)) => limited(retry_after),
        Some(Fault::StatusAfter(status)) => {
            next.run(request).await;
            of_a_proxy(*status)
        }
        Some(Fault::Undated) => {
            let mut response = next.run(request).await;
            response.headers_mut().remove("x-accurate-at");
            response
        }
        Some(Fault::Behind(time)) => behind(next.run(request).await, *time),
        Some(Fault::Stale(time, body)) => stale(json_answer(200, body.clone()), *time),
        Some(Fault::Late(_) | Fault::Of(..)) | None => next.run(request).await,
    };
    let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|after| after.to_str().ok());
    note(response.status().as_u16(), retry_after.and_then(|after| httpdate::parse_http_date(after).ok()));
    if let Some(Fault::Late(time)) = fault {
        tokio::time::sleep(time).await;
    }
    response
}

/// Takes the name of the sender off the key.
fn sender(request: &mut Request) -> Option<String> {
    let (key, name) = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.split_once('~')?;
    let (key, name) = (key.parse().ok()?, name.to_owned());
    request.headers_mut().insert(header::AUTHORIZATION, key);
    Some(name)
}

/// An answer as if it had been sent that long ago.
fn behind(mut response: Response, time: Duration) -> Response {
    let headers = response.headers_mut();
    let accurate_at = headers.get("x-accurate-at").and_then(|at| at.to_str().ok());
    if let Some(at) = accurate_at.and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok()) {
        let at = (at - time).format(&Rfc3339).unwrap();
        headers.insert("x-accurate-at", at.parse().unwrap());
    }
    let date = httpdate::fmt_http_date(SystemTime::now() - time);
    headers.insert(header::DATE, date.parse().unwrap());
    response
}

/// An answer that was true that long ago.
fn stale(mut response: Response, time: Duration) -> Response {
    let at = (OffsetDateTime::now_utc() - time).format(&Rfc3339).unwrap();
    response.headers_mut().insert("x-accurate-at", at.parse().unwrap());
    response
}

fn of_a_proxy(status: u16) -> Response {
    let page = format!("<html><head><title>{status}</title></head><body>cloudflare</body></html>");
    (StatusCode::from_u16(status).unwrap(), Html(page)).into_response()
}

fn json_answer(status: u16, body: String) -> Response {
    let content_type = (header::CONTENT_TYPE, "application/json; charset=utf-8");
    (StatusCode::from_u16(status).unwrap(), [content_type], body).into_response()
}

fn limited(retry_after: &str) -> Response {
    let body = json!({
        "status_code": 429, "type": "rate_limit_error", "code": "rate_limit_exceeded",
        "message": "Rate limit exceeded, please try again later.",
    });
    ([(header::RETRY_AFTER, retry_after.to_owned())], json_answer(429, body.to_string())).into_response()
}
