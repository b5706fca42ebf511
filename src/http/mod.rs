//! The HTTP edge: turns requests into deliveries, and outcomes into answers, log lines and metrics.

pub(crate) mod listen;
pub(crate) mod connection;
mod admission;
mod receive;
mod record;
pub(crate) mod feed;
pub mod respond;
pub(crate) mod admin;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::any;
use percent_encoding::percent_decode_str;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use crate::pipeline::Pipeline;
use crate::pipeline::outcome::Reason;
use crate::shutdown::Stages;
use admission::AdmissionLimiter;
use connection::head::Refusal;
pub use record::Observers;
use record::Recorder;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub listen: String,
    pub max_body_bytes: usize,
    pub max_header_bytes: usize,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub idle_timeout: Duration,
    pub answer_timeout: Duration,
    pub max_connections: usize,
    pub max_in_flight: usize,
    pub max_in_flight_bytes: usize,
}

/// Everything a request needs.
pub struct Edge {
    pipeline: Arc<Pipeline>,
    pub(crate) recorder: Recorder,
    options: Options,
    limiter: AdmissionLimiter,
    /// Tracks deliveries in progress, whether or not their client is still connected.
    deliveries: TaskTracker,
    stages: Stages,
}

impl Edge {
    /// The edge of one bridge. `deliveries` tracks the work that a drain waits for. Once the bridge is unready,
    /// connections are closed after their next answer; once it drains, new requests are answered 503. `observers`
    /// get the deliveries too.
    pub fn new(
        options: Options,
        pipeline: Arc<Pipeline>,
        metrics: Arc<Metrics>,
        deliveries: TaskTracker,
        stages: Stages,
        observers: Observers,
    ) -> Arc<Self> {
        let limiter = AdmissionLimiter::new(options.max_in_flight, options.max_in_flight_bytes);
        Arc::new(Self {
            pipeline,
            recorder: Recorder::new(&metrics, observers),
            options,
            limiter,
            deliveries,
            stages,
        })
    }

    /// The refusal of a path that names no source. It says the right path if another spelling of it was asked for:
    /// with a slash too many, in capitals, percent-encoded, or below another prefix.
    fn unknown_source(&self, path: &str) -> Refusal {
        let path = percent_decode_str(path).decode_utf8_lossy().to_ascii_lowercase();
        let words = path.rsplit('/').map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()));
        let meant = words.filter(|word| *word != "webhooks").find_map(|word| self.pipeline.source(word));
        let error = meant
            .map(|source| format!("Unknown path: the path of this source is exactly /webhooks/{source}"));
        Refusal { reason: Reason::UnknownSource, error }
    }
}

/// Every public path. The second is an alias, the path in Attio's example.
pub fn router(edge: Arc<Edge>) -> Router {
    let source = |State(edge): State<Arc<Edge>>, request: Request| async move {
        let path = request.uri().path();
        let name = path.strip_prefix("/api").unwrap_or(path).strip_prefix("/webhooks/").unwrap_or("");
        let source = edge.pipeline.source(name).cloned();
        receive::receive(edge, source, request).await
    };
    let elsewhere = |State(edge): State<Arc<Edge>>, request: Request| receive::receive(edge, None, request);
    Router::new()
        .route("/webhooks/{source}", any(source))
        .route("/api/webhooks/{source}", any(source))
        .fallback(elsewhere)
        .with_state(edge)
}
