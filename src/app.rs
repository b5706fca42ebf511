//! The composition root: configuration -> bus -> pipeline -> listeners, and their end in order.
//!
//! [`App::bind`] makes everything and returns what it bound; [`App::run`] serves until it is told to
//! stop. Tests start the same thing on port 0 with a bus of their own.

mod path;
mod reload;
mod systemd;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::bus::inspect::{Report, Requirements};
use crate::bus::{self, StartError};
use crate::config::Config;
use crate::http::admin::Admin;
use crate::http::connection::Timeouts;
use crate::http::listen::{self, Limits, Reading};
use crate::http::{self, Edge};
use crate::metrics::Metrics;
use crate::pipeline::dedup::{BYTES_PER_ID, Dedup};
use crate::pipeline::publish::{Bus, Destination};
use crate::pipeline::route::Routes;
use crate::shutdown::{self, Stages};
use crate::supervise::{Ends, Supervisor};
use path::{join, measured};
pub use path::{pipeline, publisher};
use reload::Reloader;

/// Why the bridge did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener cannot be bound.
    #[error("cannot listen on {address} ({key}): {source}")]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The bus client cannot be made from its options.
    #[error(transparent)]
    Bus(#[from] StartError),
    /// Signals cannot be listened for.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// The drain ran out of time.
    #[error(
        "drain abandoned: {deliveries} deliveries and {messages} messages without a verdict; \
         none of them was answered 200, the sender will retry them"
    )]
    Abandoned {
        /// Deliveries still being worked on.
        deliveries: usize,
        /// Messages still without the broker's word.
        messages: u64,
    },
    /// A listener, or another part that must run as long as the bridge, has ended before it.
    #[error("a part of the bridge ended by itself: {0}")]
    Ended(String),
}

impl Error {
    /// Whether a setting is at fault, so that a restart cannot help.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Bus(error) if error.setting().is_some())
    }
}

/// A bridge that has its listeners and has not begun to serve.
pub struct App {
    config: Config,
    edge: Arc<Edge>,
    admin: Admin,
    bus: Arc<dyn Bus>,
    reloader: Reloader,
    reload: Arc<Notify>,
    public_listener: TcpListener,
    admin_listener: TcpListener,
    deliveries: TaskTracker,
    stages: Stages,
    ends: Ends,
}

/// Connections to the admin listener: probes, a scraper or two, and a person.
const ADMIN_CONNECTIONS: usize = 64;

/// How long one of them may be idle: shorter than probes are patient, so that nobody holds all of them.
const ADMIN_IDLE: Duration = Duration::from_secs(5);

/// Time that a flush gets even when the drain has used up its own.
const LAST_FLUSH: Duration = Duration::from_millis(500);

impl App {
    /// Makes everything the configuration asks for.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let bus = config.bus.clone();
        let name = bus.kind.name();
        let requirements = requirements(&config);
        Self::bind_to(config, name, |metrics, _, supervisor| {
            bus::start(bus, &requirements, metrics.bus(), supervisor)
        })
        .await
    }

    /// The same with another bus: what `open` makes.
    pub async fn bind_to(
        config: Config,
        bus_name: &'static str,
        open: impl FnOnce(&Metrics, Vec<Arc<Destination>>, &Supervisor) -> Result<Arc<dyn Bus>, StartError>,
    ) -> Result<Self, Error> {
        let (routes, metrics) = measured(&config, bus_name);
        let public_listener = listener("http.listen", &config.http.listen).await?;
        let admin_listener = listener("admin.listen", &config.admin_listen).await?;
        let (supervisor, ends) = Supervisor::new();
        let bus = open(&metrics, routes.destinations(), &supervisor)?;
        let dedup = Dedup::new(config.dedup, metrics.dedup());
        let pipeline = Arc::new(join(&config, routes, dedup.clone(), Arc::clone(&bus), &metrics));
        let stages = Stages::default();
        let deliveries = TaskTracker::new();
        let edge = Edge::new(
            config.http.clone(),
            Arc::clone(&pipeline),
            Arc::clone(&metrics),
            deliveries.clone(),
            stages.drain.clone(),
        );
        let reloader = Reloader::new(config.clone(), pipeline, Arc::clone(&metrics));
        let admin = Admin { bus: Arc::clone(&bus), metrics, dedup, unready: stages.unready.clone() };
        let reload = Arc::new(Notify::new());
        Ok(Self {
            config,
            edge,
            admin,
            bus,
            reloader,
            reload,
            public_listener,
            admin_listener,
            deliveries,
            stages,
            ends,
        })
    }

    /// The public address as bound.
    pub fn http_addr(&self) -> io::Result<SocketAddr> {
        self.public_listener.local_addr()
    }

    /// The admin address as bound.
    pub fn admin_addr(&self) -> io::Result<SocketAddr> {
        self.admin_listener.local_addr()
    }

    /// What events are published to.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    /// Asks for a reload of the secrets whenever it is notified.
    pub fn reload(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    /// Serves until `stop` ends, then drains. An error means that the drain was abandoned.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { config, edge, admin, bus, reloader, reload, deliveries, stages, mut ends, .. } = self;
        let (public_listener, admin_listener) = (self.public_listener, self.admin_listener);
        let connections = TaskTracker::new();
        let limits = Limits {
            timeouts: Timeouts { header: config.http.header_timeout, idle: config.http.idle_timeout },
            max_connections: config.http.max_connections,
            max_header_bytes: config.http.max_header_bytes,
            reading: Reading::Strict,
        };
        let admin_limits = Limits {
            timeouts: Timeouts { idle: limits.timeouts.idle.min(ADMIN_IDLE), ..limits.timeouts },
            max_connections: ADMIN_CONNECTIONS,
            reading: Reading::Lenient,
            ..limits.clone()
        };
        let telling = Arc::clone(&edge);
        let mut parts = JoinSet::new();
        parts.spawn(listen::serve(
            public_listener,
            http::router(edge),
            limits,
            connections.clone(),
            stages.drain.clone(),
        ));
        parts.spawn(listen::serve(
            admin_listener,
            http::admin::router(admin),
            admin_limits,
            TaskTracker::new(),
            stages.over.clone(),
        ));
        parts.spawn(reloader.run(reload, stages.unready.clone()));
        let over = stages.over.clone();
        parts.spawn(async move { telling.recorder().tell_left_out(over).await });

        let stopped = until_stopped(stop, &mut parts, &mut ends).await;
        stages.unready.cancel();
        systemd::stopping();
        if stopped.is_ok() {
            tokio::time::sleep(config.shutdown.delay).await;
        }
        stages.drain.cancel();
        let drained = drain(config.shutdown, [&connections, &deliveries], &*bus).await;
        stages.over.cancel();
        // A part that has panicked has said so already, and there is nothing left to serve.
        while parts.join_next().await.is_some() {}
        drained.and(stopped)
    }
}

/// Waits for the stop, or for a part of the bridge that ends before it: without its parts it must not
/// look as if it served.
async fn until_stopped(
    stop: impl Future<Output = ()>,
    parts: &mut JoinSet<()>,
    ends: &mut Ends,
) -> Result<(), Error> {
    tokio::select! {
        biased;
        () = stop => Ok(()),
        ended = ends.next() => {
            let error = Error::Ended(ended.to_string());
            tracing::error!("{error}; stopping");
            Err(error)
        }
        Some(ended) = parts.join_next() => {
            let error = Error::Ended(ended.err().map_or("without a word".into(), |error| error.to_string()));
            tracing::error!("{error}; stopping");
            Err(error)
        }
    }
}

/// Runs a bridge with these options until SIGTERM or SIGINT; `last_words` is what a second one waits for.
pub async fn run(config: Config, last_words: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let stop = shutdown::stop_signal(last_words).map_err(Error::Signals)?;
    announce(&config);
    let app = App::bind(config).await?;
    shutdown::reload_signal(app.reload()).map_err(Error::Signals)?;
    if let (Ok(http_addr), Ok(admin_addr)) = (app.http_addr(), app.admin_addr()) {
        tracing::info!(%http_addr, %admin_addr, bus = app.bus.name(), "listening");
    }
    systemd::ready();
    tokio::spawn(systemd::watchdog());
    let result = app.run(stop).await;
    if result.is_ok() {
        tracing::info!("drained: everything accepted has its answer");
    }
    result
}

/// Asks the bus of these options what serving will ask of it, publishing nothing.
pub async fn inspect(config: Config) -> Result<Report, StartError> {
    let requirements = requirements(&config);
    bus::inspect::inspect(config.bus, requirements).await
}

/// What serving with these options asks of the bus.
pub fn requirements(config: &Config) -> Requirements {
    let routes = Routes::new(&config.route);
    Requirements {
        destinations: routes.destinations(),
        addresses: routes.addresses(),
        quarantine: Arc::clone(&routes.quarantine().address),
        max_body_bytes: config.http.max_body_bytes,
    }
}

/// What the dedup window costs and covers, so that nobody has to work it out.
fn announce(config: &Config) {
    const EVENTS_A_SECOND: u64 = 25;
    let dedup = config.dedup;
    tracing::info!(
        ids = dedup.capacity,
        window = %humantime::format_duration(dedup.window),
        memory_mib = dedup.capacity.saturating_mul(BYTES_PER_ID) / (1 << 20),
        hours_at_25_events_per_second = dedup.capacity / (EVENTS_A_SECOND * 3600),
        "dedup memory, when full"
    );
}

/// Waits for connections, then for the deliveries that outlived theirs, then for the bus, in all for
/// as long as the options allow.
async fn drain(options: shutdown::Options, work: [&TaskTracker; 2], bus: &dyn Bus) -> Result<(), Error> {
    let deadline = Instant::now() + options.drain_timeout;
    let [connections, deliveries] = work;
    for tracker in work {
        tracker.close();
        // Out of time: what is left is counted below.
        let _ = tokio::time::timeout_at(deadline.into(), tracker.wait()).await;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let messages = bus.flush(left.max(LAST_FLUSH)).await;
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
    async fn a_part_that_ends_by_itself_is_an_error_and_a_stop_is_none() {
        for panics in [true, false] {
            let mut parts = JoinSet::new();
            parts.spawn(std::future::pending());
            parts.spawn(async move { assert!(!panics, "as the test asked") });
            let ended = until_stopped(std::future::pending(), &mut parts, &mut Supervisor::new().1).await;
            assert!(matches!(ended, Err(Error::Ended(_))), "{ended:?}");
        }
        let mut parts = JoinSet::new();
        parts.spawn(std::future::pending());
        assert!(until_stopped(std::future::ready(()), &mut parts, &mut Supervisor::new().1).await.is_ok());
    }
}
