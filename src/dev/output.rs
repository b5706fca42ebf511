//! What is shown of a run, and where.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::client::Answered;
use super::cloud::Received;
use super::ledger::Match;
use super::planned::Planned;
use super::tally::Tally;

/// The bridge that is tried out, and its broker.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where deliveries go.
    pub http: SocketAddr,
    /// Where readiness and metrics are.
    pub admin: SocketAddr,
    /// `kafka`, `nats` or `stdout`.
    pub bus: &'static str,
    /// The broker: `host:port` of Kafka, a URL of NATS, nothing of standard output.
    pub address: String,
    /// True where the broker is this process's own.
    pub embedded: bool,
    /// The secret that deliveries are signed with.
    pub secret: String,
}

/// How to go about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// One round and no more; any event that was not sent is a difference.
    pub once: bool,
    /// Deliveries per second; as fast as they are answered where absent.
    pub rate: Option<f64>,
}

/// One delivery with all that is known of it.
#[derive(Debug)]
pub struct Block {
    /// Its number, from 1.
    pub number: u64,
    /// When it was made.
    pub at: OffsetDateTime,
    /// What it is.
    pub planned: Planned,
    /// The answer, or why there is none.
    pub answered: Result<Answered, String>,
    /// What was read back.
    pub read: Vec<Received>,
    /// What is not as expected.
    pub differences: Vec<String>,
    /// When its answer came.
    pub since: Instant,
}

impl Block {
    /// Whether all its events were read, or have been waited for long enough.
    pub fn is_complete(&self, patience: Duration) -> bool {
        self.read.len() >= self.planned.events.len() || self.since.elapsed() >= patience
    }
}

/// Where a run is shown.
pub trait Output {
    /// The run begins.
    fn start(&mut self, target: &Target, options: Options) -> io::Result<()>;
    /// A delivery is complete, or has waited long enough.
    fn delivery(&mut self, block: &Block, so_far: &Tally) -> io::Result<()>;
    /// An event that belongs to no delivery that is still to be shown.
    fn stray(&mut self, received: &Received, what: &Match) -> io::Result<()>;
    /// Some time has passed.
    fn tick(&mut self, so_far: &Tally) -> io::Result<()>;
    /// The run has ended.
    fn finish(&mut self, options: Options, tally: &Tally) -> io::Result<()>;
}
