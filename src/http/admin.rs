//! The admin listener: liveness, readiness, metrics.
//!
//! Liveness looks at nothing but the process. Readiness waits for the first contact with the broker
//! and then falls for a drain only: every replica shares the broker, and taking all of them out
//! would only hide the 503 and its `Retry-After`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::pipeline::dedup::Dedup;
use crate::pipeline::publish::{Bus, BusState};

/// Where the bus cannot tell what it waits for.
const NOT_REACHED: &str =
    "bus not reached yet: the log says why, and so does `attio-bridge check --connect`\n";

/// What the admin listener looks at.
pub struct Admin {
    /// The bus, for its first contact.
    pub bus: Arc<dyn Bus>,
    /// What /metrics shows.
    pub metrics: Arc<Metrics>,
    /// The dedup memory, measured before each scrape.
    pub dedup: Dedup,
    /// Cancelled once the bridge must get no more traffic.
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
    admin.dedup.measure();
    let content_type = HeaderValue::from_static(Metrics::CONTENT_TYPE);
    ([(header::CONTENT_TYPE, content_type)], admin.metrics.render()).into_response()
}
