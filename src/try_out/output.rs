//! What is shown of a run, and where.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::cloud::Received;
use super::ledger::Match;
use super::planned::{Answered, Planned};
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
    /// Where the fake Attio's API is.
    pub attio: String,
    /// The key that it accepts.
    pub key: &'static str,
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
    /// When it was made; of one that was tried again, when the last try ended.
    pub at: OffsetDateTime,
    /// What it is.
    pub planned: Planned,
    /// The answer, or why there is none.
    pub answered: Result<Answered, String>,
    /// How often it was tried.
    pub tries: u32,
    /// What was read back.
    pub read: Vec<Received>,
    /// What is not as expected.
    pub differences: Vec<String>,
    /// When it was tried for the last time; none while it is under way.
    pub since: Option<Instant>,
}

impl Block {
    /// A delivery that is made now.
    pub fn new(number: u64, planned: Planned) -> Self {
        Self {
            number,
            at: OffsetDateTime::now_utc(),
            planned,
            answered: Err("not delivered, the webhook is deleted or inactive".to_owned()),
            tries: 0,
            read: Vec::new(),
            differences: Vec::new(),
            since: None,
        }
    }

    /// Whether it is over, and all its events were read or have been waited for long enough.
    pub fn is_complete(&self, patience: Duration) -> bool {
        let waited = |since: Instant| since.elapsed() >= patience;
        self.since.is_some_and(|since| self.read.len() >= self.planned.events.len() || waited(since))
    }

    /// Whether the answer is the one that must come.
    pub fn is_answered_as_expected(&self) -> bool {
        self.answered.as_ref().is_ok_and(|got| got.answer.is_as(&self.planned.answer, self.tries > 1))
    }

    /// The answer, or why there is none.
    pub fn said(&self) -> String {
        self.answered.as_ref().map_or_else(Clone::clone, |got| got.answer.to_string())
    }

    /// Something about it, as it stands among others.
    pub fn named(&self, text: &str) -> String {
        format!("#{} {}: {text}", self.number, self.planned.label)
    }
}

/// Where a run is shown.
pub trait Output {
    /// The run begins.
    fn start(&mut self, target: &Target, options: Options) -> io::Result<()>;
    /// The bridge is not ready; this is what its `/readyz` says.
    fn waiting(&mut self, target: &Target, answer: &str) -> io::Result<()>;
    /// A try has failed; the next one is made after a while.
    fn again(&mut self, block: &Block, wait: Duration) -> io::Result<()>;
    /// A delivery is complete, or has waited long enough.
    fn delivery(&mut self, block: &Block, so_far: &Tally) -> io::Result<()>;
    /// An event that belongs to no delivery that is still to be shown.
    fn stray(&mut self, received: &Received, what: &Match) -> io::Result<()>;
    /// Some time has passed.
    fn tick(&mut self, so_far: &Tally) -> io::Result<()>;
    /// The run has ended.
    fn finish(&mut self, options: Options, tally: &Tally) -> io::Result<()>;
}
