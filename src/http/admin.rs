//! The admin listener: liveness, readiness, metrics.
//!
//! `/livez` checks nothing but the process. `/readyz` fails until the first contact with the broker and during a
//! drain, not in an outage: all replicas share the broker, and removing all of them would only replace the
//! bridge's 503 and `Retry-After` by the load balancer's.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::pipeline::dedup::Dedup;
use crate::pipeline::publish::{Bus, BusState};

/// For a bus that gives no reason.
const NOT_REACHED: &str = "bus not reached yet: see the log or `attio-bridge check --connect`\n";

/// State of the admin listener.
pub struct Admin {
    /// The bus, for its state.
    pub bus: Arc<dyn Bus>,
    /// The content of `/metrics`.
    pub metrics: Arc<Metrics>,
    /// The dedup memory, measured by each scrape.
    pub dedup: Dedup,
    /// Cancelled once the bridge should get no more traffic.
    pub unready: CancellationToken,
}

/// Every admin path.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(admin))
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    if admin.unready.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    match admin.bus.state() {
        BusState::Starting => {
            let not_ready_reason =
                admin.bus.not_ready_reason().map(|not_ready_reason| format!("bus: {not_ready_reason}\n"));
            (StatusCode::SERVICE_UNAVAILABLE, not_ready_reason.unwrap_or_else(|| NOT_REACHED.into()))
                .into_response()
        }
        BusState::Up | BusState::Down => "ready\n".into_response(),
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    // Reading `/proc` blocks, and by more the more connections are open: not on a worker.
    let rendered = spawn_blocking(move || {
        admin.dedup.measure();
        admin.metrics.render()
    });
    match rendered.await {
        Ok(text) => ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
