//! The admin listener: liveness, readiness, metrics, and a page that shows them with the last deliveries.
//!
//! `/livez` checks nothing but the process. `/readyz` fails until the first contact with the broker and during a
//! drain, not in an outage: all replicas share the broker, and removing all of them would only replace the
//! bridge's 503 and `Retry-After` by the load balancer's.

mod deliveries;
mod page;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::http::feed::Feed;
use crate::metrics::Metrics;
use crate::pipeline::dedup::Dedup;
use crate::pipeline::publish::{Bus, BusState};
use crate::pipeline::store::Store;
use crate::shutdown::Stages;

/// For a bus that gives no reason.
const NOT_REACHED: &str = "bus not reached yet: see the log or `attio-bridge check --connect`\n";

/// Scrapes at once: a pair of scrapers, and two people.
const MAX_SCRAPES: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `host:port`.
    pub listen: String,
    pub page: bool,
}

pub struct Admin {
    pub bus: Arc<dyn Bus>,
    pub metrics: Arc<Metrics>,
    /// The dedup memory, measured by each scrape.
    pub dedup: Dedup,
    /// What replicas share, if they do.
    pub store: Option<Arc<dyn Store>>,
    pub stages: Stages,
    /// None without the page.
    pub feed: Option<Arc<Feed>>,
}

/// What another path answers, and `/` without the page.
const PATHS: &str = "\
/livez       200 while the process runs
/readyz      200 while it should get traffic, else 503 and why not
/metrics     Prometheus metrics
";

/// The rest of that with the page.
const PAGE_PATHS: &str = "\
/            a page: the last deliveries, rates, health
/deliveries  the last deliveries and those to come, as server-sent events
";

pub fn router(admin: Admin) -> Router {
    let scrapes = Arc::new(Semaphore::new(MAX_SCRAPES));
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(move |admin| metrics(admin, Arc::clone(&scrapes))));
    let router = match admin.feed.clone() {
        None => {
            router.route("/", get(|| async { PATHS })).fallback(|| async { (StatusCode::NOT_FOUND, PATHS) })
        }
        Some(feed) => {
            let over = admin.stages.over.clone();
            let stream =
                move |headers: HeaderMap| async move { deliveries::stream(&feed, &headers, over.clone()) };
            router
                .route("/", get(page::page))
                .route("/deliveries", get(stream))
                .fallback(|| async { (StatusCode::NOT_FOUND, [PATHS, PAGE_PATHS].concat()) })
        }
    };
    router.with_state(Arc::new(admin))
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    if admin.stages.unready.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    match admin.bus.state() {
        BusState::Starting => {
            let not_ready_reason =
                admin.bus.not_ready_reason().map(|not_ready_reason| format!("bus: {not_ready_reason}\n"));
            (StatusCode::SERVICE_UNAVAILABLE, not_ready_reason.unwrap_or_else(|| NOT_REACHED.into()))
                .into_response()
        }
        // A replica that cannot see yet what the others have published would publish it again.
        BusState::Up | BusState::Down if admin.store.as_ref().is_some_and(|store| store.is_starting()) => {
            (StatusCode::SERVICE_UNAVAILABLE, "dedup store: being reached\n").into_response()
        }
        BusState::Up | BusState::Down => {
            let of_store = || admin.store.as_ref()?.warning();
            let warnings = admin.bus.warning().into_iter().chain(of_store());
            let warnings: String = warnings.map(|warning| format!("warning: {warning}\n")).collect();
            format!("ready\n{warnings}").into_response()
        }
    }
}

async fn metrics(State(admin): State<Arc<Admin>>, scrapes: Arc<Semaphore>) -> Response {
    let render = move || {
        admin.dedup.measure();
        admin.metrics.render()
    };
    scrape(scrapes, render).await
}

/// Renders the metrics on a blocking thread: reading `/proc` blocks, and by more the more connections are open.
/// The permit is held until the thread is done, also where the client has left.
async fn scrape(scrapes: Arc<Semaphore>, render: impl FnOnce() -> Vec<u8> + Send + 'static) -> Response {
    let Ok(permit) = scrapes.try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes are running\n").into_response();
    };
    let rendered = spawn_blocking(move || {
        let text = render();
        drop(permit);
        text
    });
    match rendered.await {
        Ok(text) => ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_scrape_whose_client_left_holds_its_permit_until_it_ends() {
        let scrapes = Arc::new(Semaphore::new(1));
        let (go_on, blocked) = mpsc::sync_channel::<()>(1);
        let hanging = scrape(Arc::clone(&scrapes), move || {
            let _ = blocked.recv();
            Vec::new()
        });
        assert!(hanging.now_or_never().is_none(), "it hangs, and its client leaves");
        let refused = scrape(Arc::clone(&scrapes), Vec::new).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(go_on);
        drop(scrapes.acquire().await.expect("it is never closed"));
        assert_eq!(scrape(scrapes, Vec::new).await.status(), StatusCode::OK);
    }
}
