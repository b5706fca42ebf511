//! Between a client and a broker: something is done before each request of one kind goes on.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

/// The request that asks where a partition begins or ends, or which of its records is as young as a time.
pub const LIST_OFFSETS: i16 = 2;

/// Listens until the test process ends; returns where. A request is its length and its kind, both big-endian, and the rest:
/// <https://kafka.apache.org/protocol>.
pub fn gate(broker: SocketAddr, kind: i16, before: impl FnMut() + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let before = Arc::new(Mutex::new(before));
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(broker) else { continue };
            let (mut answers, mut asked) =
                (server.try_clone().expect("one more"), client.try_clone().expect("one more"));
            let before = Arc::clone(&before);
            thread::spawn(move || {
                drop(requests(&client, &server, kind, || before.lock()()));
                server.shutdown(Shutdown::Both)
            });
            thread::spawn(move || {
                drop(io::copy(&mut answers, &mut asked));
                asked.shutdown(Shutdown::Both)
            });
        }
    });
    addr
}

fn requests(mut client: &TcpStream, mut server: &TcpStream, kind: i16, before: impl Fn()) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        client.read_exact(&mut request)?;
        if request.starts_with(&kind.to_be_bytes()) {
            before();
        }
        server.write_all(&length)?;
        server.write_all(&request)?;
    }
}
