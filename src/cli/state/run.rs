//! `state run`: follows the events and publishes states until SIGTERM.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use clap::Args;
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::logging::{self, Log};
use crate::attio::entities::{EntityReader, ReadError};
use crate::bus::state::{Role, StateError};
use crate::bus::states;
use crate::cli::{Exit, Failure, block_on, invalid_configuration, stop_token};
use crate::config::{self, Input};
use crate::http::listen::{self, Limits};
use crate::metrics::Metrics;
use crate::pipeline::route::Routes;
use crate::state::metrics::StateMetrics;
use crate::state::names::Names;
use crate::state::run::Run;
use crate::state::{Error, stored};

const AFTER_HELP: &str = "\
One process is enough. On Kafka a second one takes over, and the first ends with exit code 1.

Example: keep the states of people and companies
  export ATTIO_API_KEY=...
  export ATTIO_BRIDGE__STATE__OBJECTS=people,companies
  attio-bridge state run --config config.toml";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {}

/// Between two attempts to begin.
const RETRY: Duration = Duration::from_secs(1);

pub fn run(input: &Input, _: &Arguments) -> Result<Exit, Failure> {
    let config = config::state(input).map_err(invalid_configuration)?;
    let log = logging::start(config.log, &input.environment)
        .map_err(|error| format!("cannot start the log thread: {error}"))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let metrics = Arc::new(StateMetrics::new());
    let observed = Arc::clone(&metrics);
    let observe = move |kind, result| observed.read(kind, result);
    let reader = EntityReader::new(&config.attio, config.options.reads_per_second, observe)
        .map_err(|error| Failure::from(error).logged())?;
    block_on(Some(2), serve(config, reader, metrics, &log))?.map_err(Failure::logged)
}

/// Why it is not ready; none once it is.
type Unready = Arc<Mutex<Option<String>>>;

async fn serve(
    config: config::State,
    reader: EntityReader,
    metrics: Arc<StateMetrics>,
    log: &Log,
) -> Result<Exit, Failure> {
    let (stop, over) = (stop_token(log, None)?, CancellationToken::new());
    let listen = &config.options.listen;
    let unbound = |error| format!("cannot listen on {listen} (state.listen): {error}");
    let listener = listen::bind(listen).await.map_err(unbound)?;
    let admin_addr = listener.local_addr().map_err(unbound)?;
    let unready: Unready = Arc::new(Mutex::new(Some("starting".into())));
    let router = router(Arc::clone(&metrics), Arc::clone(&unready), stop.clone());
    let limits = Limits::for_probes(Duration::from_secs(5));
    tokio::spawn(listen::serve(listener, router, limits, TaskTracker::new(), over.clone()));
    tracing::info!(%admin_addr, bus = config.bus.kind.name(), prefix = config.options.prefix, "listening");
    let drain_timeout = config.shutdown.drain_timeout;
    let abandoned = async {
        stop.cancelled().await;
        tokio::time::sleep(drain_timeout).await;
    };
    let ended = tokio::select! {
        ended = follow(config, reader, metrics, &unready, &stop) => ended,
        () = abandoned => Err("drain abandoned: the last states are not acknowledged; they are read again at the next \
                               start".into()),
    };
    over.cancel();
    ended.map(|()| Exit::Done)
}

async fn follow(
    config: config::State,
    reader: EntityReader,
    metrics: Arc<StateMetrics>,
    unready: &Unready,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let config::State { options, route, bus, .. } = config;
    let names = async || match Names::read(&reader).await {
        Ok(names) => Ok(names),
        Err(ReadError::Denied { reason, .. }) => Err(StateError::Lasting(reason)),
        Err(error) => Err(StateError::Passing(error.to_string())),
    };
    let Some(names) = begun("Attio", unready, stop, names).await? else { return Ok(()) };
    let writer = async || {
        stored::check_workspace(&options, &bus, &names.workspace).await?;
        states::writer(&bus, options.writer(Role::Run), OffsetDateTime::now_utc).await
    };
    let Some(publisher) = begun("states", unready, stop, writer).await? else { return Ok(()) };
    let events = options.needs(&Routes::new(&route)).events;
    let follower = async || states::follow(&bus, &publisher, &options.group, events.clone()).await;
    let Some(follower) = begun("events", unready, stop, follower).await? else { return Ok(()) };
    *unready.lock() = None;
    tracing::info!(group = options.group, "following");
    let now = OffsetDateTime::now_utc;
    let run = Run { options, reader, publisher, follower, names: Arc::new(names), metrics, now };
    run.run(stop.clone()).await.map_err(|error: Error| error.to_string())?;
    tracing::info!("stopped: what is not done is taken again at the next start");
    Ok(())
}

/// Begins with something, however long what it needs is away; none if it is to stop before.
async fn begun<T, F: Future<Output = Result<T, StateError>>>(
    what: &str,
    unready: &Unready,
    stop: &CancellationToken,
    attempt: impl Fn() -> F,
) -> Result<Option<T>, Failure> {
    let mut logged = None;
    loop {
        let reason = match stop.run_until_cancelled(attempt()).await {
            None => return Ok(None),
            Some(Ok(begun)) => return Ok(Some(begun)),
            Some(Err(StateError::Passing(reason))) => reason,
            Some(Err(StateError::Read(error @ crate::bus::ReadError::Broker { .. }))) => error.to_string(),
            Some(Err(error)) => return Err(error.to_string().into()),
        };
        *unready.lock() = Some(format!("{what}: {reason}"));
        if logged.as_ref() != Some(&reason) {
            tracing::warn!("{what}: {reason}; trying on");
            logged = Some(reason);
        }
        if stop.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return Ok(None);
        }
    }
}

fn router(metrics: Arc<StateMetrics>, unready: Unready, stop: CancellationToken) -> Router {
    let ready = move || async move {
        let reason = unready.lock().clone().or_else(|| stop.is_cancelled().then(|| "draining".to_owned()));
        match reason {
            None => "ready\n".into_response(),
            Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
        }
    };
    let page = move || async move {
        match spawn_blocking(move || metrics.render()).await {
            Ok(text) => ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(page))
}
