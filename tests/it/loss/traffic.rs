//! What all senders share. Each takes the next delivery and sends it, as Attio does, until it is answered 200 or
//! 202, always under the same key; some are sent twice at once, some again after their 200, and some
//! senders leave before the answer. Every attempt is recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::fleet::{Fleet, Target};
use super::options::Options;
use super::plan::Plan;
use super::results::Results;
use super::sender::Sender;

/// How an attempt ended, as the sender saw it. A connection that was refused is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// An answer with this status.
    Answered(u16),
    /// The connection ended without an answer.
    Lost,
    /// The sender timed out.
    Silence,
    /// The sender closed after it sent the whole request.
    Left,
    /// The sender reset the connection after it sent the whole request, which may be unread.
    Reset,
    /// The sender closed within its request.
    Cut,
    /// The bridge had accepted the head (`100 Continue`), and the connection ended without an answer.
    Dropped,
}

impl Outcome {
    /// Whether the sender counts its delivery as done.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Answered(200 | 202))
    }
}

/// One attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub delivery: u32,
    pub process: u32,
    pub outcome: Outcome,
    /// The results of its events in the answer.
    pub answered: Results,
}

/// The sending side of a run.
pub struct Traffic {
    pub(super) options: Options,
    pub(super) plan: Arc<Plan>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) next: AtomicU32,
    begun: Instant,
    /// Elements acknowledged so far.
    pub acknowledged: AtomicU64,
    attempts: Mutex<Vec<Attempt>>,
    /// No new delivery is begun once this many events are acknowledged, until the next fault.
    gate: AtomicU64,
    /// When the last fault was over.
    calm: Mutex<Option<Instant>>,
    /// The longest that a delivery waited for its 200 after that.
    slowest: Mutex<Duration>,
}

impl Traffic {
    pub fn new(options: &Options, plan: Arc<Plan>, fleet: Arc<Fleet>) -> Arc<Self> {
        Arc::new(Self {
            options: options.clone(),
            plan,
            fleet,
            next: AtomicU32::new(0),
            begun: Instant::now(),
            acknowledged: AtomicU64::new(0),
            attempts: Mutex::new(Vec::new()),
            gate: AtomicU64::new(u64::MAX),
            calm: Mutex::new(None),
            slowest: Mutex::new(Duration::ZERO),
        })
    }

    /// Holds new deliveries back from that many acknowledged events on.
    pub fn hold_at(&self, acknowledged: u64) {
        self.gate.store(acknowledged, Ordering::Relaxed);
    }

    /// Waits until the gate is open.
    pub(super) async fn pass(&self) {
        while self.acknowledged.load(Ordering::Relaxed) >= self.gate.load(Ordering::Relaxed)
            && self.begun.elapsed() < self.options.limit
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// No more faults follow.
    pub fn calm_down(&self) {
        *self.calm.lock() = Some(Instant::now());
    }

    /// Sends everything; returns when the last delivery was acknowledged or given up.
    pub async fn flow(self: &Arc<Self>) {
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..self.options.senders {
            senders.spawn(Sender::new(Arc::clone(self)).run());
        }
        senders.join_all().await;
    }

    /// Every attempt that was made, and how long the slowest took once it was calm.
    pub fn finish(&self) -> (Vec<Attempt>, Duration) {
        (std::mem::take(&mut self.attempts.lock()), *self.slowest.lock())
    }

    pub(super) fn note(&self, delivery: u32, target: Target, outcome: Outcome, answered: Results) {
        let process = u32::try_from(target.number).expect("few processes");
        self.attempts.lock().push(Attempt { delivery, process, outcome, answered });
    }

    /// Whether a delivery that was first tried then may be tried again.
    pub(super) fn may_go_on(&self, first: Instant) -> bool {
        let since = self.calm.lock().map(|calm| calm.max(first));
        since.is_none_or(|since| since.elapsed() < self.options.budget)
            && self.begun.elapsed() < self.options.limit
    }

    pub(super) fn arrived(&self, delivery: u32, first: Instant) {
        self.acknowledged.fetch_add(self.plan.stored(delivery) as u64, Ordering::Relaxed);
        if let Some(calm) = *self.calm.lock() {
            let mut slowest = self.slowest.lock();
            *slowest = slowest.max(calm.max(first).elapsed());
        }
    }
}
