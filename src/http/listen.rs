//! The accept loop, shared by the public and the admin listener. HTTP/1.1 only.
//!
//! Our own, because the loop that axum ships sets no timer on its connections.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use futures_util::FutureExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::connection::head::MAX_FIELDS;
use super::connection::{Connection, Gate, Progress, Timeouts};
use super::receive::Refused;
use super::respond;
use crate::pipeline::outcome::Reason;

/// What one listener allows.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a connection may take over a head, and be idle.
    pub timeouts: Timeouts,
    /// Connections open at once; beyond them nothing is accepted.
    pub max_connections: usize,
    /// The largest head, in bytes.
    pub max_header_bytes: usize,
    /// How strictly heads are read.
    pub reading: Reading,
}

/// How strictly heads are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// What can be read in two ways is refused, as the open internet demands.
    Strict,
    /// As hyper does: probes and scrapers of every age are let in.
    Lenient,
}

/// hyper refuses a buffer smaller than this.
const MIN_BUFFER_BYTES: usize = 8192;

/// How long accepting pauses after an error such as too many open files: accepting again at once
/// would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often a listener that cannot accept says so.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Connections that the system keeps until they are accepted: a burst of senders waits, it is not
/// turned away. The system may keep fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Listens on the first address behind `host:port` that can be listened on.
pub async fn bind(address: &str) -> io::Result<TcpListener> {
    let mut refused = None;
    for address in tokio::net::lookup_host(address).await? {
        match open(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until `drain` is cancelled. Connections are tracked and end by themselves:
/// an idle one at once, a busy one after its answer.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    connections: TaskTracker,
    drain: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.max_connections));
    let mut warned: Option<Instant> = None;
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = drain.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = converse(stream, router.clone(), limits.clone(), drain.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
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

/// Serves one connection to its end. How it ends is the client's business: nothing that was
/// accepted depends on it.
async fn converse(stream: TcpStream, router: Router, limits: Limits, drain: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let progress = Progress::accepted();
    let gate = (limits.reading == Reading::Strict).then(|| Gate::new(limits.max_header_bytes));
    let connection = Connection::new(stream, gate, progress.clone(), limits.timeouts, drain);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (router, progress) = (router.clone(), progress.clone());
        async move {
            if let Some(reason) = progress.request_began() {
                request.extensions_mut().insert(Refused(reason));
            }
            let answer = AssertUnwindSafe(router.oneshot(request.map(Body::new))).catch_unwind().await;
            progress.request_ended();
            // A panic was recorded where it passed; the sender is told to try again.
            answer.unwrap_or_else(|_| Ok(respond::closing(respond::problem(Reason::Internal))))
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
