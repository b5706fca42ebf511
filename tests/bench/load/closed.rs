//! So many connections, each sending its next request as soon as it has the answer to the last.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Traffic, response};
use crate::body::Deliveries;

/// When a connection stops.
#[derive(Clone, Copy)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After so many requests on each connection.
    Count(u64),
}

/// Runs on this thread alone, so that one core of the machine is left to the server.
pub fn run(address: SocketAddr, deliveries: &Arc<Deliveries>, connections: usize, until: Until) -> Traffic {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let opened = join_all((0..connections).map(|_| TcpStream::connect(address))).await;
        let opened: io::Result<Vec<TcpStream>> = opened.into_iter().collect();
        let begun = Instant::now();
        let clients = opened.expect("the server accepts").into_iter();
        let clients: Vec<_> =
            clients.map(|stream| tokio::spawn(client(stream, Arc::clone(deliveries), until))).collect();
        let mut all = Traffic::default();
        for traffic in join_all(clients).await {
            all.join(traffic.expect("a client does not panic"));
        }
        all.took = begun.elapsed();
        all
    })
}

async fn client(mut stream: TcpStream, deliveries: Arc<Deliveries>, until: Until) -> Traffic {
    stream.set_nodelay(true).expect("a TCP socket");
    let mut traffic = Traffic::default();
    let (mut request, mut received) = (Vec::new(), vec![0; 4096]);
    let begun = Instant::now();
    loop {
        let over = match until {
            Until::Time(time) => begun.elapsed() >= time,
            Until::Count(count) => traffic.answered + traffic.failed >= count,
        };
        if over {
            return traffic;
        }
        deliveries.next_into(&mut request);
        let sent = Instant::now();
        let answer = ask(&mut stream, &request, &mut received).await;
        traffic.count(*answer.as_ref().unwrap_or(&false), sent.elapsed());
        if answer.is_err() {
            return traffic;
        }
    }
}

async fn ask(stream: &mut TcpStream, request: &[u8], received: &mut [u8]) -> io::Result<bool> {
    stream.write_all(request).await?;
    let mut filled = 0;
    loop {
        match stream.read(&mut received[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
        if let Some((_, good)) = response(&received[..filled]) {
            return Ok(good);
        }
    }
}
