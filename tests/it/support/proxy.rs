//! A TCP proxy on loopback that misbehaves when it is told to: what passes through it can be held
//! back, swallowed, or cut off, each way by itself.
//!
//! It sees only bytes. "After the broker has stored and before its ack" is: answers are held, and
//! the test looks into the broker by another way.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flow {
    /// They pass.
    Pass,
    /// They wait, and pass later.
    Hold,
    /// They are read and forgotten.
    Swallow,
}

/// How often a pump that is held back looks again.
const LOOK: Duration = Duration::from_millis(2);

/// The two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    There,
    /// From the server to the client.
    Back,
}

/// A proxy. Its connections end with it.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    flows: [AtomicU8; 2],
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// A proxy in front of that address.
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            upstream,
            flows: [AtomicU8::new(0), AtomicU8::new(0)],
            ended: AtomicBool::new(false),
            open: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What becomes of the bytes of one direction from now on, on every connection.
    pub fn set(&self, way: Way, flow: Flow) {
        self.shared.flows[way as usize].store(flow as u8, Ordering::SeqCst);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        [Way::There, Way::Back].into_iter().for_each(|way| self.set(way, Flow::Pass));
    }

    /// Resets every connection there is; what is held back on them is gone.
    pub fn cut(&self) {
        self.shared.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.cut();
        // Wakes the thread that accepts. It may have ended by itself.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            // A server that is down closes the client's connection, as it would without a proxy.
            let Ok(server) = TcpStream::connect(self.upstream) else { continue };
            for stream in [&client, &server] {
                stream.set_nodelay(true).expect("an open socket takes an option");
                self.open.lock().push(clone(stream));
            }
            self.pump(Way::There, clone(&client), clone(&server));
            self.pump(Way::Back, server, client);
        }
    }

    fn pump(self: &Arc<Self>, way: Way, mut from: TcpStream, mut to: TcpStream) {
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                let flow = shared.wait_while_held(way, &from);
                if flow == Flow::Pass && to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            // Half a connection may go on; a socket that is closed already needs nothing.
            let _ = to.shutdown(Shutdown::Write);
        });
    }

    /// The flow, once it is not to hold any more or the connection was cut.
    fn wait_while_held(&self, way: Way, from: &TcpStream) -> Flow {
        loop {
            let flow = self.flow(way);
            if flow != Flow::Hold {
                return flow;
            }
            // A socket that was shut down has no peer any more.
            if self.ended.load(Ordering::SeqCst) || from.peer_addr().is_err() {
                return Flow::Swallow;
            }
            std::thread::sleep(LOOK);
        }
    }

    fn flow(&self, way: Way) -> Flow {
        match self.flows[way as usize].load(Ordering::SeqCst) {
            0 => Flow::Pass,
            1 => Flow::Hold,
            _ => Flow::Swallow,
        }
    }

    fn cut(&self) {
        for stream in self.open.lock().drain(..) {
            // The other end may have closed it before.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a socket can be shared")
}
