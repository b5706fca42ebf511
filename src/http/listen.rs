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
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::connection::framer::RequestFramer;
use super::connection::head::MAX_FIELDS;
use super::connection::{Connection, Progress, Timeouts};
use super::respond;
use crate::pipeline::outcome::Reason;

#[derive(Clone, Debug)]
pub struct Limits {
    pub timeouts: Timeouts,
    /// Connections open at once. At the limit, accepting pauses.
    pub max_connections: usize,
    pub max_header_bytes: usize,
    /// Whether ambiguous heads are refused. If not, hyper alone parses them and accepts old probes and scrapers.
    pub strict: bool,
}

/// The smallest buffer that hyper accepts.
const MIN_BUFFER_BYTES: usize = 8192;

/// The pause after an error such as too many open files. Without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The least time between two warnings of a listener that cannot accept.
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

/// Accepts connections until `drain` is cancelled. Then an idle connection is closed at once, a busy one after
/// its answer; `connections` tracks them.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    connections: TaskTracker,
    drain: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let mut warned: Option<Instant> = None;
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = drain.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = serve_connection(stream, router.clone(), limits.clone(), drain.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                    warned = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end. Its errors are logged for debugging only: no accepted delivery depends on
/// them.
async fn serve_connection(stream: TcpStream, router: Router, limits: Limits, drain: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let progress = Progress::accepted();
    let framer = limits.strict.then(|| RequestFramer::new(limits.max_header_bytes));
    let connection = Connection::new(stream, framer, progress.clone(), limits.timeouts, drain);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (router, progress) = (router.clone(), progress.clone());
        async move {
            if let Some(refusal) = progress.request_began() {
                request.extensions_mut().insert(refusal);
            }
            let http_10 = request.version() == Version::HTTP_10;
            let answer = AssertUnwindSafe(router.oneshot(request.map(Body::new))).catch_unwind().await;
            progress.request_ended();
            // The record of the request has counted and logged the panic.
            let answer =
                answer.unwrap_or_else(|_| Ok(respond::closing(respond::problem(Reason::Internal, None))));
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
