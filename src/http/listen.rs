//! The accept loop of the public and the admin listener.
//!
//! Hand-written, because `axum::serve` sets no timeouts on its connections.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Version};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::connection::framer::RequestFramer;
use super::connection::head::MAX_FIELDS;
use super::connection::{Connection, Endless, Progress, Timeouts};
use super::respond;
use crate::pipeline::outcome::Reason;

#[derive(Clone, Debug)]
pub struct Limits {
    pub timeouts: Timeouts,
    /// Connections open at once. At the limit, one more is accepted and waits.
    pub max_connections: usize,
    /// What is logged of that, after their number.
    pub when_full: &'static str,
    pub max_header_bytes: usize,
    /// Whether ambiguous heads are refused. If not, hyper alone parses them and accepts old probes and scrapers.
    pub strict: bool,
}

impl Limits {
    /// Those of a listener for probes, a scraper or two, and a person.
    pub fn for_probes(header_timeout: Duration) -> Self {
        Self {
            timeouts: Timeouts {
                header: header_timeout,
                idle: PROBE_IDLE,
                // So that a probe is answered at once.
                idle_when_full: Duration::ZERO,
            },
            max_connections: 64,
            when_full: "find out what keeps so many open to the listener of probes and metrics",
            max_header_bytes: 16_384,
            strict: false,
        }
    }
}

/// How long a connection for probes may be idle.
const PROBE_IDLE: Duration = Duration::from_secs(5);

/// The smallest buffer that hyper accepts.
const MIN_BUFFER_BYTES: usize = 8192;

/// The pause after an error such as too many open files. Without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The least time between two equal warnings of a listener.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Connections that wait to be accepted. The system may lower it (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Listens on the first address of `host:port` that can be bound.
pub async fn bind(address: &str) -> io::Result<TcpListener> {
    let mut failed = None;
    for address in tokio::net::lookup_host(address).await? {
        match open(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until `drain` is cancelled, and then those that the system has established already. Then an
/// idle connection is closed at once, a busy one after its answer; `connections` tracks them.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    connections: TaskTracker,
    drain: CancellationToken,
) {
    let mut room = Room::new(&limits);
    let full = Arc::clone(&room.full);
    let start = |stream: TcpStream, place: Place| {
        let (full, drain) = (Arc::clone(&full), drain.clone());
        let connection = serve_connection(stream, router.clone(), limits.clone(), full, drain);
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    };
    let mut throttle = Throttle::default();
    // Survives the start of the drain.
    let mut waiting: Option<TcpStream> = None;
    loop {
        let next = async {
            if waiting.is_none() {
                waiting = Some(listener.accept().await?.0);
            }
            Ok(room.place().await)
        };
        let place = tokio::select! {
            biased;
            () = drain.cancelled() => break,
            place = next => place,
        };
        match place {
            Ok(place) => {
                if let Some(stream) = waiting.take() {
                    start(stream, place);
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if throttle.passes() {
                    tracing::warn!(%error, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    for stream in waiting.into_iter().chain(established(listener)) {
        start(stream, room.place().await);
    }
}

/// Closes a listener; returns the connections that waited to be accepted.
fn established(listener: TcpListener) -> Vec<TcpStream> {
    // Asks the system, and not the runtime, which may not have seen them yet.
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let accepted = std::iter::from_fn(|| listener.accept().ok()).take(BACKLOG as usize);
    let ready = |(stream, _): (std::net::TcpStream, _)| {
        stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)).ok()
    };
    accepted.filter_map(ready).collect()
}

/// Permission to serve one connection. The semaphore is never closed.
type Place = Result<OwnedSemaphorePermit, AcquireError>;

/// The connections that may be open at once.
struct Room {
    places: Arc<Semaphore>,
    /// Ends the connection that has waited for this the longest. One waits once it has been idle for a while.
    full: Arc<Notify>,
    limit: usize,
    when_full: &'static str,
    throttle: Throttle,
}

impl Room {
    fn new(limits: &Limits) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits.max_connections)),
            full: Arc::new(Notify::new()),
            limit: limits.max_connections,
            when_full: limits.when_full,
            throttle: Throttle::default(),
        }
    }

    async fn place(&mut self) -> Place {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        if self.throttle.passes() {
            tracing::warn!("every connection is in use ({}): new ones wait; {}", self.limit, self.when_full);
        }
        self.full.notify_one();
        let place = Arc::clone(&self.places).acquire_owned().await;
        // Another connection may have ended by itself, and so none must any more.
        let _ = self.full.notified().now_or_never();
        place
    }
}

/// Lets a warning pass now and then.
#[derive(Default)]
struct Throttle(Option<Instant>);

impl Throttle {
    fn passes(&mut self) -> bool {
        let passes = self.0.is_none_or(|at| at.elapsed() >= WARN_EVERY);
        if passes {
            self.0 = Some(Instant::now());
        }
        passes
    }
}

/// Serves one connection to its end. Its errors are logged for debugging only: no accepted delivery depends on
/// them.
async fn serve_connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    full: Arc<Notify>,
    drain: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let progress = Progress::accepted();
    let framer = limits.strict.then(|| RequestFramer::new(limits.max_header_bytes));
    let connection = Connection::new(stream, framer, progress.clone(), limits.timeouts, full, drain);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (router, progress) = (router.clone(), progress.clone());
        async move {
            if let Some(refusal) = progress.request_began() {
                request.extensions_mut().insert(refusal);
            }
            let http_10 = request.version() == Version::HTTP_10;
            let answer = AssertUnwindSafe(router.oneshot(request.map(Body::new))).catch_unwind().await;
            // The record of the request has counted and logged the panic.
            let answer =
                answer.unwrap_or_else(|_| Ok(respond::closing(respond::problem(Reason::Internal, None))));
            if !answer.as_ref().is_ok_and(|answer| answer.extensions().get::<Endless>().is_some()) {
                progress.request_ended();
            }
            if http_10 { answer.map(respond::closing_http_10) } else { answer }
        }
    });
    let ended = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(MAX_FIELDS)
        .max_buf_size(limits.max_header_bytes.max(MIN_BUFFER_BYTES))
        .half_close(true)
        .serve_connection(connection, service)
        .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
