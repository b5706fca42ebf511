//! Traffic: closed (as fast as the answers come) and open (at a rate, whatever the answers do).

pub mod closed;
pub mod flood;
pub mod open;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::body::Deliveries;

/// What became of some traffic.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Answered 200.
    pub answered: u64,
    /// Anything else, a broken connection included.
    pub failed: u64,
    /// How long it took in all.
    pub took: Duration,
    /// Nanoseconds from the time a request was due to its answer.
    pub latencies: Vec<u64>,
}

impl Traffic {
    /// Two stretches of the same traffic as one.
    pub fn join(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.took += other.took;
        self.latencies.extend(other.latencies);
    }

    /// Counts one answer.
    pub fn count(&mut self, good: bool, latency: Duration) {
        if good {
            self.answered += 1;
            self.latencies.push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        } else {
            self.failed += 1;
        }
    }

    /// Milliseconds that this share of the answers did not exceed.
    pub fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(at.max(1) - 1).map_or(0.0, |nanoseconds| *nanoseconds as f64 / 1e6)
    }
}

/// Sends to a server that somebody else has started, for a profiler to watch.
pub fn alone(address: SocketAddr, events: usize, connections: usize, time: Duration) {
    let deliveries = Arc::new(Deliveries::new(events));
    let Traffic { answered, failed, .. } =
        closed::run(address, &deliveries, connections, closed::Until::Time(time));
    println!("{answered} answered 200, {failed} not");
}

/// The length of the response at the front of these bytes and whether it is a 200, once it is whole.
fn response(bytes: &[u8]) -> Option<(usize, bool)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let length = bytes[..head].split(|byte| *byte == b'\n').find_map(length).unwrap_or(0);
    (bytes.len() >= head + length).then(|| (head + length, bytes.starts_with(b"HTTP/1.1 200")))
}

fn length(line: &[u8]) -> Option<usize> {
    let (name, value) = line.split_at_checked(15)?;
    let value = name.eq_ignore_ascii_case(b"content-length:").then_some(value)?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}
