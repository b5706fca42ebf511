//! A small HTTP proxy: it records the head of each request, and connects every CONNECT to one address.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;

/// A proxy on a loopback port.
pub struct ConnectProxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl ConnectProxy {
    /// Tunnels every CONNECT to `upstream`.
    pub fn start(upstream: SocketAddr) -> Self {
        Self::serve(move |mut client| {
            let server = TcpStream::connect(upstream).unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
            let (up, down) = ((client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client));
            std::thread::spawn(move || copy(up.0, up.1));
            copy(down.0, down.1);
        })
    }

    /// Answers every request with this status line.
    pub fn refusing(status: &'static str) -> Self {
        Self::serve(move |mut client| {
            let _ = client.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes());
        })
    }

    fn serve(then: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, heads) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&heads);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, seen, then) = (client.unwrap(), Arc::clone(&seen), then.clone());
                std::thread::spawn(move || {
                    if let Some(head) = head(&mut client) {
                        seen.lock().push(head);
                        then(client);
                    }
                });
            }
        });
        Self { address, heads }
    }

    /// Its URL, with these credentials if they are not empty.
    pub fn url(&self, credentials: &str) -> String {
        let at = if credentials.is_empty() { "" } else { "@" };
        format!("http://{credentials}{at}{}", self.address)
    }

    /// The heads of the requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().clone()
    }
}

/// Up to the empty line, byte by byte: what follows belongs to the tunnel.
fn head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}
