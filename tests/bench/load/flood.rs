//! The same request again and again, at about a rate; nobody looks at the answers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

/// Each sends once a tick.
const TICK: Duration = Duration::from_millis(2);

/// Until it is over; then how many were answered.
pub fn run(address: SocketAddr, request: &[u8], rate: u32, over: &AtomicBool) -> f64 {
    let clients = rate * u32::try_from(TICK.as_millis()).unwrap_or(1) / 1000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let answered = runtime.block_on(join_all((0..clients).map(|_| client(address, request, over))));
    answered.iter().sum::<u32>().into()
}

async fn client(address: SocketAddr, request: &[u8], over: &AtomicBool) -> u32 {
    let mut stream = TcpStream::connect(address).await.expect("the server accepts");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut answered = 0;
    let mut answer = [0; 1024];
    while !over.load(Ordering::Relaxed) {
        tick.tick().await;
        // An answer is one segment.
        if stream.write_all(request).await.is_err() || stream.read(&mut answer).await.unwrap_or(0) == 0 {
            return answered;
        }
        answered += 1;
    }
    answered
}
