//! A TCP proxy on loopback that can stall, drop or cut each direction: between bridge and broker, or client and
//! bridge.
//!
//! ```ignore
//! let proxy = Proxy::start(broker);              // connect to proxy.addr() instead
//! proxy.set(Way::ToClient, Flow::Stall);         // requests arrive, answers are held
//! proxy.reset();                                 // every connection is reset; stalled bytes are lost
//! proxy.pass();                                  // back to normal
//! ```
//!
//! It runs on a thread of its own, so it serves tests with and without a runtime, and ends with its owner.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// What happens to the bytes of one direction, on every connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They are forwarded.
    Pass,
    /// They are held, in order, until [`Proxy::pass`].
    Stall,
    /// They are read and dropped.
    Swallow,
    /// This many more are forwarded, over all connections; then the connection is reset.
    CutAfter(u64),
}

/// What happens to a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Open,
    /// It is reset at once.
    Shut,
}

/// How the proxy ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// In order (FIN).
    Close,
    /// Abruptly (RST).
    Reset,
    /// Not at all: it stays open, and nothing is forwarded or answered any more.
    Silence,
}

/// One direction of all connections.
struct Lane {
    flow: watch::Sender<Flow>,
    /// The first byte of every connection that sent any.
    first: Mutex<Vec<u8>>,
    /// The number of bytes left before a cut.
    left: AtomicU64,
    passed: AtomicU64,
}

struct Shared {
    upstream: Mutex<SocketAddr>,
    door: Mutex<Door>,
    to_server: Lane,
    to_client: Lane,
    /// How often all connections were ended, and how the last time.
    ends: watch::Sender<(u64, End)>,
    connections: AtomicU64,
}

/// The proxy. Drop ends it with all its connections.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy for a server, which may start later.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket of the system");
        let addr = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            door: Mutex::new(Door::Open),
            to_server: Lane::new(),
            to_client: Lane::new(),
            ends: watch::channel((0, End::Reset)).0,
            connections: AtomicU64::new(0),
        });
        let (stop, stopped) = watch::channel(false);
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve(listener, served, stopped));
        });
        Self { addr, shared, stop, thread: Some(thread) }
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets the flow of one direction, for bytes that arrive after this returns.
    pub fn set(&self, way: Way, flow: Flow) {
        let lane = self.lane(way);
        if let Flow::CutAfter(bytes) = flow {
            lane.left.store(bytes, Ordering::SeqCst);
        }
        lane.flow.send_replace(flow);
    }

    /// Forwards both directions and accepts connections again; stalled bytes are forwarded.
    pub fn pass(&self) {
        self.door(Door::Open);
        self.set(Way::ToServer, Flow::Pass);
        self.set(Way::ToClient, Flow::Pass);
    }

    /// Drops everything silently, on old and new connections.
    pub fn black_hole(&self) {
        self.set(Way::ToServer, Flow::Swallow);
        self.set(Way::ToClient, Flow::Swallow);
    }

    /// Sets what happens to new connections.
    pub fn door(&self, door: Door) {
        *self.shared.door.lock() = door;
    }

    /// Where new connections are sent.
    pub fn upstream(&self) -> SocketAddr {
        *self.shared.upstream.lock()
    }

    /// Sends new connections to another server.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock() = upstream;
    }

    /// Resets every connection; stalled bytes are lost.
    pub fn reset(&self) {
        self.end(End::Reset);
    }

    /// Closes every connection in order; stalled bytes are lost.
    pub fn close(&self) {
        self.end(End::Close);
    }

    /// Forgets every connection, as a balancer or a firewall does with idle ones: both ends hear nothing of it. New
    /// connections are forwarded.
    pub fn forget(&self) {
        self.end(End::Silence);
    }

    /// Bytes forwarded in one direction since the start.
    pub fn passed(&self, way: Way) -> u64 {
        self.lane(way).passed.load(Ordering::SeqCst)
    }

    /// The first byte that came in one direction of every connection, silent ones left out.
    pub fn first_bytes(&self, way: Way) -> Vec<u8> {
        self.lane(way).first.lock().clone()
    }

    /// The number of open connections.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Ends it with all its connections; nothing listens there any more when this returns.
    pub fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the proxy does not panic");
        }
    }

    fn end(&self, how: End) {
        self.shared.ends.send_modify(|(count, end)| (*count, *end) = (*count + 1, how));
    }

    fn lane(&self, way: Way) -> &Lane {
        self.shared.lane(way)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::ToServer => &self.to_server,
            Way::ToClient => &self.to_client,
        }
    }
}

impl Lane {
    fn new() -> Self {
        Self {
            flow: watch::channel(Flow::Pass).0,
            first: Mutex::new(Vec::new()),
            left: AtomicU64::new(0),
            passed: AtomicU64::new(0),
        }
    }

    /// Moves bytes until their source ends, or the connection is to be cut.
    async fn pump(&self, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> io::Result<()> {
        let mut flow = self.flow.subscribe();
        let mut buffer = vec![0; 16 * 1024];
        let mut silent = true;
        loop {
            let count = from.read(&mut buffer).await?;
            if std::mem::take(&mut silent) {
                self.first.lock().extend(buffer[..count].first());
            }
            // The end of the source is stalled as its bytes are.
            let now = *flow.wait_for(|flow| *flow != Flow::Stall).await.expect("the lane lives on");
            let bytes = match now {
                Flow::Swallow if count == 0 => return Ok(()),
                Flow::Swallow => continue,
                Flow::CutAfter(_) => self.still_allowed(count),
                Flow::Pass | Flow::Stall => count,
            };
            if count == 0 {
                return to.shutdown().await;
            }
            to.write_all(&buffer[..bytes]).await?;
            self.passed.fetch_add(bytes as u64, Ordering::SeqCst);
            if matches!(now, Flow::CutAfter(_)) && self.left.load(Ordering::SeqCst) == 0 {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }

    /// How many of these bytes are before the cut.
    fn still_allowed(&self, count: usize) -> usize {
        let take = |left: u64| Some(left.saturating_sub(count as u64));
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).expect("always some");
        count.min(usize::try_from(left).unwrap_or(usize::MAX))
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let listener = TcpListener::from_std(listener).expect("a socket of the system");
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            // Connections are tasks of this runtime, which ends with this future.
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let Ok((client, _)) = client else { continue };
        let door = *shared.door.lock();
        match door {
            Door::Open => drop(tokio::spawn(connection(client, Arc::clone(&shared)))),
            Door::Shut => shut(End::Reset, [client]),
        }
    }
}

async fn connection(mut client: TcpStream, shared: Arc<Shared>) {
    let mut ends = shared.ends.subscribe();
    let upstream = *shared.upstream.lock();
    let Ok(mut server) = TcpStream::connect(upstream).await else {
        return shut(End::Reset, [client]);
    };
    for stream in [&client, &server] {
        // What can fail here is only a connection that has ended already.
        let _ = stream.set_nodelay(true);
    }
    shared.connections.fetch_add(1, Ordering::SeqCst);
    let how = {
        let ((from_client, to_client), (from_server, to_server)) = (&mut client.split(), &mut server.split());
        let both = async {
            tokio::try_join!(
                shared.to_server.pump(from_client, to_server),
                shared.to_client.pump(from_server, to_client),
            )
        };
        tokio::select! {
            moved = both => if moved.is_ok() { End::Close } else { End::Reset },
            _ = ends.changed() => ends.borrow().1,
        }
    };
    shared.connections.fetch_sub(1, Ordering::SeqCst);
    if how == End::Silence {
        std::future::pending::<()>().await;
    }
    shut(how, [client, server]);
}

fn shut<const N: usize>(how: End, streams: [TcpStream; N]) {
    for stream in streams {
        if how == End::Reset {
            // What can fail here is only a connection that has ended already.
            let _ = stream.set_zero_linger();
        }
        drop(stream);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::support::wait::eventually;

    /// An echo server.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        addr
    }

    async fn echoes(stream: &mut TcpStream, words: &str) -> io::Result<String> {
        stream.write_all(words.as_bytes()).await?;
        hears(stream, words.len()).await
    }

    async fn hears(stream: &mut TcpStream, count: usize) -> io::Result<String> {
        let mut back = vec![0; count];
        stream.read_exact(&mut back).await?;
        Ok(String::from_utf8(back).unwrap())
    }

    async fn silent(stream: &mut TcpStream) -> bool {
        tokio::time::timeout(Duration::from_millis(100), hears(stream, 1)).await.is_err()
    }

    #[tokio::test]
    async fn bytes_pass_are_held_or_lost_as_told() {
        let proxy = Proxy::start(echo().await);
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(echoes(&mut stream, "one").await.unwrap(), "one");

        proxy.set(Way::ToClient, Flow::Stall);
        stream.write_all(b"two").await.unwrap();
        assert!(silent(&mut stream).await);
        assert_eq!((proxy.passed(Way::ToServer), proxy.passed(Way::ToClient)), (6, 3));
        proxy.pass();
        assert_eq!(hears(&mut stream, 3).await.unwrap(), "two", "held, and not lost");

        proxy.black_hole();
        stream.write_all(b"three").await.unwrap();
        assert!(silent(&mut stream).await);
        proxy.pass();
        assert_eq!(echoes(&mut stream, "four").await.unwrap(), "four", "lost, and the rest is in order");
    }

    #[tokio::test]
    async fn connections_end_and_are_refused_as_told() {
        let mut proxy = Proxy::start(echo().await);
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        proxy.set(Way::ToServer, Flow::CutAfter(5));
        assert_eq!(echoes(&mut stream, "one").await.unwrap(), "one");
        assert!(echoes(&mut stream, "two").await.is_err(), "cut");
        assert_eq!(proxy.passed(Way::ToServer), 5);
        proxy.pass();

        for end in [Proxy::reset, Proxy::close] {
            let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
            assert_eq!(echoes(&mut stream, "three").await.unwrap(), "three");
            proxy.set(Way::ToServer, Flow::Stall);
            stream.write_all(b"four").await.unwrap();
            end(&proxy);
            assert!(hears(&mut stream, 1).await.is_err());
            proxy.pass();
        }
        eventually("all have ended", || async { proxy.connections() == 0 }).await;

        proxy.door(Door::Shut);
        // The reset may come before the connection is accepted, or after it.
        if let Ok(mut stream) = TcpStream::connect(proxy.addr()).await {
            assert!(echoes(&mut stream, "five").await.is_err());
        }
        proxy.pass();
        proxy.lead_to(echo().await);
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(echoes(&mut stream, "six").await.unwrap(), "six");
        proxy.stop();
        assert!(echoes(&mut stream, "seven").await.is_err());
        assert!(TcpStream::connect(proxy.addr()).await.is_err());
    }
}
