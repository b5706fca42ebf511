//! Requests at their times, whether or not earlier ones were answered: a latency begins when its
//! request was due, so a server that stalls is not given the time to recover.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Traffic, response};
use crate::body::Deliveries;

/// Requests that may be without an answer at once; each has a thread that does nothing else.
const CLIENTS: u64 = 32;

/// Sleeping ends this much late at most; the rest of the wait is spent awake.
const SLEEP_SLACK: Duration = Duration::from_micros(120);

/// So many requests a second for so long.
pub fn run(address: SocketAddr, deliveries: &Deliveries, rate: u32, time: Duration) -> Traffic {
    let pace = Pace::new(rate, time);
    let begun = Instant::now();
    let mut all = Traffic::default();
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| client(address, deliveries, &pace))).collect();
        for client in clients {
            all.join(client.join().expect("a client does not panic"));
        }
    });
    all.took = begun.elapsed();
    all
}

/// When each request is due.
pub struct Pace {
    begun: Instant,
    gap: Duration,
    count: u64,
    next: AtomicU64,
}

impl Pace {
    /// Evenly spaced.
    pub fn new(rate: u32, time: Duration) -> Self {
        let count = (time.as_secs_f64() * f64::from(rate)) as u64;
        let begun = Instant::now() + Duration::from_millis(50);
        Self { begun, gap: Duration::from_secs(1) / rate, count, next: AtomicU64::new(0) }
    }

    /// Waits for the next request's time, which it gives.
    pub fn next(&self) -> Option<Instant> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.count {
            return None;
        }
        let due = self.begun + self.gap * u32::try_from(number).unwrap_or(u32::MAX);
        let left = due.saturating_duration_since(Instant::now());
        std::thread::sleep(left.saturating_sub(SLEEP_SLACK));
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        Some(due)
    }
}

fn client(address: SocketAddr, deliveries: &Deliveries, pace: &Pace) -> Traffic {
    let connect = || {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_nodelay(true).expect("a TCP socket");
        stream
    };
    let mut stream = connect();
    let mut traffic = Traffic::default();
    let (mut request, mut received) = (Vec::new(), [0; 4096]);
    deliveries.next_into(&mut request);
    while let Some(due) = pace.next() {
        let good = ask(&mut stream, &request, &mut received);
        traffic.count(good.unwrap_or(false), due.elapsed());
        if good.is_none() {
            stream = connect();
        }
        deliveries.next_into(&mut request);
    }
    traffic
}

/// None where the connection ended.
fn ask(stream: &mut TcpStream, request: &[u8], received: &mut [u8]) -> Option<bool> {
    stream.write_all(request).ok()?;
    let mut filled = 0;
    loop {
        let count = stream.read(&mut received[filled..]).ok().filter(|count| *count > 0)?;
        filled += count;
        if let Some((_, good)) = response(&received[..filled]) {
            return Some(good);
        }
    }
}
