//! The composition root: configuration -> bus -> pipeline -> listeners, and the graceful stop.
//!
//! [`App::bind`] builds everything and binds the listeners; [`App::run`] serves until the stop is requested,
//! then drains. Tests run the same on port 0 with their own bus.

mod announce;
pub mod logging;
mod reload;
mod systemd;
mod wiring;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::bus::inspect::Report;
use crate::bus::{self, StartError};
use crate::config::Config;
use crate::http::admin::Admin;
use crate::http::connection::Timeouts;
use crate::http::feed::Feed;
use crate::http::listen::{self, Limits};
use crate::http::{self, Edge, Observers};
use crate::http_client::NoAuthorities;
use crate::metrics::Metrics;
use crate::open_files;
use crate::pipeline::dedup::Dedup;
use crate::pipeline::publish::{Bus, Destination};
use crate::pipeline::route::Routes;
use crate::pipeline::store::Store;
use crate::shutdown::{self, ForcedExit, Stages};
use crate::store;
use crate::supervise::{Ended, Ends, Supervisor};
use crate::traces::Spans;
use crate::traces::export::Exporter;
use announce::announce;
use reload::Reloader;
use systemd::Notifier;
use wiring::{join, measured, traces};
pub use wiring::{pipeline, publisher};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address} ({key}): {source}")]
    Listen { key: &'static str, address: String, source: io::Error },
    #[error(transparent)]
    Bus(#[from] StartError),
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    #[error(
        "drain abandoned: {deliveries} deliveries and {messages} messages were not acknowledged in time; \
         none of them was answered 200, the sender will retry them"
    )]
    Abandoned { deliveries: usize, messages: u64 },
    #[error(
        "drain abandoned: the bus client hangs; {deliveries} deliveries have no ack, none of them was \
         answered 200, the sender will retry them"
    )]
    FlushHangs { deliveries: usize },
    #[error("cannot export traces (traces.endpoint): {0}")]
    Traces(#[from] NoAuthorities),
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl Error {
    /// Whether a setting is the cause, so that a restart cannot help.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Bus(error) if error.setting().is_some())
    }
}

/// A bridge whose listeners are bound and that does not serve yet.
pub struct App {
    config: Config,
    edge: Arc<Edge>,
    admin: Admin,
    bus: Arc<dyn Bus>,
    store: Option<Arc<dyn Store>>,
    reloader: Reloader,
    reload: Arc<Notify>,
    exporter: Option<(Exporter, Spans)>,
    public_listener: TcpListener,
    admin_listener: TcpListener,
    deliveries: TaskTracker,
    /// Tracks events that another replica has in flight.
    claims: TaskTracker,
    stages: Stages,
    systemd: Notifier,
    supervisor: Supervisor,
    ends: Ends,
}

/// What a stop may take beyond `shutdown.delay` and `shutdown.drain_timeout` before it is forced: the last
/// flush and the end of the parts, with a margin.
const STOP_SLACK: Duration = Duration::from_secs(4);

/// What a flush gets when the drain has used up its time.
const LAST_FLUSH: Duration = Duration::from_millis(500);

impl App {
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let bus = config.bus.clone();
        let name = bus.kind.name();
        let requirements = config.requirements();
        let mut renewal = None;
        let app = Self::bind_to(config, name, |metrics, _, supervisor| {
            let (bus, renew) = bus::start(bus, &requirements, metrics.bus(), supervisor)?;
            renewal = Some(renew);
            Ok(bus)
        })
        .await?;
        Ok(Self { reloader: app.reloader.renewing(renewal), ..app })
    }

    /// The same with the bus that `open` returns.
    pub async fn bind_to(
        config: Config,
        bus_name: &'static str,
        open: impl FnOnce(&Metrics, Vec<Arc<Destination>>, &Supervisor) -> Result<Arc<dyn Bus>, StartError>,
    ) -> Result<Self, Error> {
        let (routes, metrics) = measured(&config, bus_name);
        let public_listener = listener("http.listen", &config.http.listen).await?;
        let admin_listener = listener("admin.listen", &config.admin.listen).await?;
        let (supervisor, ends) = Supervisor::new();
        let bus = open(&metrics, routes.destinations(), &supervisor)?;
        let dedup = Dedup::new(config.dedup, metrics.dedup());
        let store = config.store.clone().map(|options| {
            let (bus, memory) = (Arc::clone(&bus), dedup.clone());
            store::start(options, bus, move || memory.forget(), metrics.store(), &supervisor)
        });
        let store = store.transpose()?;
        let pipeline = join(&config, routes, dedup.clone(), Arc::clone(&bus), &metrics);
        let claims = TaskTracker::new();
        let pipeline = Arc::new(pipeline.with_store(store.clone(), claims.clone()));
        let stages = Stages::default();
        let deliveries = TaskTracker::new();
        let feed = config.admin.page.then(Feed::new);
        let (tracer, exporter) = traces(config.traces_endpoint.as_deref(), &metrics)?.unzip();
        let edge = Edge::new(
            config.http.clone(),
            Arc::clone(&pipeline),
            Arc::clone(&metrics),
            deliveries.clone(),
            stages.clone(),
            Observers { feed: feed.clone(), tracer },
        );
        let systemd = Notifier::default();
        let reloader = Reloader::new(config.clone(), pipeline, Arc::clone(&metrics), systemd.clone());
        let admin = Admin {
            bus: Arc::clone(&bus),
            metrics,
            dedup,
            store: store.clone(),
            stages: stages.clone(),
            feed,
        };
        let reload = Arc::new(Notify::new());
        Ok(Self {
            config,
            edge,
            admin,
            bus,
            store,
            reloader,
            reload,
            exporter,
            public_listener,
            admin_listener,
            deliveries,
            claims,
            stages,
            systemd,
            supervisor,
            ends,
        })
    }

    pub fn http_addr(&self) -> io::Result<SocketAddr> {
        self.public_listener.local_addr()
    }

    pub fn admin_addr(&self) -> io::Result<SocketAddr> {
        self.admin_listener.local_addr()
    }

    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// Notify it to reload the secrets.
    pub fn reload(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    /// Serves until `stop` ends or a part ends by itself, then drains.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        self.run_until(stop, || {}).await
    }

    /// The same; calls `on_end` when a part ends by itself.
    async fn run_until(self, stop: impl Future<Output = ()>, on_end: impl FnOnce()) -> Result<(), Error> {
        let Self { config, edge, admin, bus, store, reloader, reload, deliveries, stages, systemd, .. } =
            self;
        let (supervisor, mut ends) = (self.supervisor, self.ends);
        let connections = TaskTracker::new();
        let (max_connections, when_full) = match open_files::connections(config.http.max_connections) {
            Ok(wanted) => (wanted, "raise http.max_connections"),
            Err((room, _)) => (room, "raise the limit of open files (LimitNOFILE in systemd, `ulimit -Hn`)"),
        };
        let limits = Limits {
            timeouts: Timeouts {
                header: config.http.header_timeout,
                idle: config.http.idle_timeout,
                idle_when_full: config.http.header_timeout,
            },
            max_connections,
            when_full,
            max_header_bytes: config.http.max_header_bytes,
            strict: true,
        };
        let mut admin_limits = Limits::for_probes(config.http.header_timeout);
        admin_limits.timeouts.idle = admin_limits.timeouts.idle.min(config.http.idle_timeout);
        admin_limits.max_header_bytes = config.http.max_header_bytes;
        // The parts that end by themselves once the stop is over.
        let parts = TaskTracker::new();
        let (reporting, over) = (Arc::clone(&edge), stages.over.clone());
        let report_left_out = async move { reporting.recorder.report_suppressed(over).await };
        supervisor.spawn("left-out reporter", parts.track_future(report_left_out));
        let public = http::router(edge);
        let public =
            listen::serve(self.public_listener, public, limits, connections.clone(), stages.drain.clone());
        // Tracked, because the drain waits for the connections that it still accepts.
        let public = connections.track_future(public);
        supervisor.spawn("public listener", parts.track_future(public));
        let admin = http::admin::router(admin);
        let admin =
            listen::serve(self.admin_listener, admin, admin_limits, TaskTracker::new(), stages.over.clone());
        supervisor.spawn("admin listener", parts.track_future(admin));
        let reloading = reloader.run(reload, stages.unready.clone());
        let draining = stages.drain.clone();
        let reloader = async move {
            reloading.await;
            // It has ended because of the stop. Until the drain, its end would count as a failure.
            draining.cancelled().await;
        };
        supervisor.spawn("reloader", parts.track_future(reloader));
        if let Some((exporter, spans)) = self.exporter {
            supervisor.spawn("trace exporter", parts.track_future(exporter.run(spans, stages.over.clone())));
        }
        if let Some(watchdog) = systemd::watchdog() {
            supervisor.spawn("systemd watchdog", watchdog);
        }

        let mut stopped = until_stopped(stop, &mut ends).await;
        if stopped.is_err() {
            on_end();
        }
        stages.unready.cancel();
        systemd.stopping();
        if stopped.is_ok() {
            stopped = until_stopped(tokio::time::sleep(config.shutdown.delay), &mut ends).await;
        }
        stages.drain.cancel();
        let work = [&connections, &deliveries, &self.claims];
        let drained = drain(config.shutdown, work, &*bus, store.as_deref()).await;
        stages.over.cancel();
        parts.close();
        // Each of them ends at once, unless it is stuck: then it is left behind.
        let _ = tokio::time::timeout(LAST_FLUSH, parts.wait()).await;
        drained.and(stopped)
    }
}

/// Waits for the stop, or for a part that ends before it.
async fn until_stopped(stop: impl Future<Output = ()>, ends: &mut Ends) -> Result<(), Error> {
    tokio::select! {
        biased;
        () = stop => Ok(()),
        ended = ends.next() => {
            tracing::error!(part = ended.part, "{ended}; stopping");
            Err(ended.into())
        }
    }
}

/// Runs a bridge until SIGTERM or SIGINT. A second signal, or a stop that takes longer than the configuration
/// allows, ends the process with exit code 1 after `flush_log`.
pub async fn run(config: Config, flush_log: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let forced_exit = ForcedExit::new(flush_log);
    let result = run_until_stopped(config, &forced_exit).await;
    forced_exit.disarm();
    result
}

async fn run_until_stopped(config: Config, forced_exit: &ForcedExit) -> Result<(), Error> {
    let without_delay = config.shutdown.drain_timeout + STOP_SLACK;
    let limit = config.shutdown.delay + without_delay;
    let mut stop = pin!(shutdown::stop_signal_within(limit, forced_exit.clone()).map_err(Error::Signals)?);
    announce(&config);
    // Before the start, so that no SIGHUP during it is missed.
    let reload = Arc::new(Notify::new());
    let reload_signal = shutdown::reload_signal(Arc::clone(&reload)).map_err(Error::Signals)?;
    // Resolving the name in `http.listen` may hang.
    let app = tokio::select! {
        biased;
        () = &mut stop => return Ok(()),
        app = App::bind(config) => app?,
    };
    let app = App { reload, ..app };
    app.supervisor.spawn("SIGHUP listener", reload_signal);
    if let (Ok(http_addr), Ok(admin_addr)) = (app.http_addr(), app.admin_addr()) {
        tracing::info!(%http_addr, %admin_addr, bus = app.bus.name(), "listening");
    }
    app.systemd.ready();
    let result = app.run_until(stop, || forced_exit.arm(without_delay)).await;
    if result.is_ok() {
        tracing::info!("drained: no requests in flight");
    }
    result
}

pub async fn inspect(config: Config) -> Result<Report, StartError> {
    let requirements = config.requirements();
    let state = config.uses_state.then(|| config.state.needs(&Routes::new(&config.route)));
    let mut report = bus::inspect(config.bus.clone(), requirements).await?;
    if let Some(needs) = state {
        report.checks.extend(bus::states::inspect(&config.bus, needs).await);
    }
    if let Some(store) = &config.store {
        store::inspect(store, &mut report).await?;
    }
    Ok(report)
}

/// Waits for connections, then for deliveries whose client has left and for events that other replicas have in flight,
/// then for acks: in all at most `drain_timeout`.
async fn drain(
    options: shutdown::Options,
    work: [&TaskTracker; 3],
    bus: &dyn Bus,
    store: Option<&dyn Store>,
) -> Result<(), Error> {
    let deadline = Instant::now() + options.drain_timeout;
    let [connections, deliveries, _] = work;
    for tracker in work {
        tracker.close();
        // After the timeout, what is left is counted below.
        let _ = tokio::time::timeout_at(deadline.into(), tracker.wait()).await;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let left = left.max(LAST_FLUSH);
    let Ok(messages) = tokio::time::timeout(left + LAST_FLUSH, bus.flush(left)).await else {
        return Err(Error::FlushHangs { deliveries: deliveries.len() });
    };
    if let Some(store) = store {
        let [acknowledged, releases] = store.flush(LAST_FLUSH).await;
        if acknowledged + releases > 0 {
            tracing::warn!(
                acknowledged,
                releases,
                "not all could be stored in the dedup store: repeats of what was acknowledged are published again, \
                 claims that are not released end with their lease"
            );
        }
    }
    let deliveries = deliveries.len();
    if deliveries == 0 && messages == 0 {
        if !connections.is_empty() {
            tracing::info!(connections = connections.len(), "closing connections without a delivery");
        }
        return Ok(());
    }
    Err(Error::Abandoned { deliveries, messages })
}

async fn listener(key: &'static str, address: &str) -> Result<TcpListener, Error> {
    listen::bind(address).await.map_err(|source| Error::Listen { key, address: address.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_before_the_stop_is_an_error() {
        for panics in [true, false] {
            let (supervisor, mut ends) = Supervisor::new();
            supervisor.spawn("lasting", std::future::pending());
            supervisor.spawn("short", async move { assert!(!panics, "as the test asked") });
            let ended = until_stopped(std::future::pending(), &mut ends).await;
            assert!(matches!(ended, Err(Error::Ended(Ended { part: "short", .. }))), "{ended:?}");
        }
    }

    #[tokio::test]
    async fn a_stop_is_no_error() {
        let (supervisor, mut ends) = Supervisor::new();
        supervisor.spawn("lasting", std::future::pending());
        assert!(until_stopped(std::future::ready(()), &mut ends).await.is_ok());
    }
}
