//! What is known of the broker: written by the client's callbacks and the monitor, read by everyone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::complaints::{Complaints, News, Puzzle};
use crate::metrics::BusMetrics;
use crate::pipeline::publish::BusState;

/// Wakes the monitor. In the order of their weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Nudge {
    /// Something changed.
    Look,
    /// No connection is open, though the broker counts as reached.
    Doubt,
    /// The bus is gone.
    Stop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Unknown,
    Up,
    Down,
}

struct Known {
    reach: Reach,
    /// Times that every broker was lost: a probe that began before the last loss proves nothing.
    losses: u64,
    warm: bool,
    topics_there: bool,
    /// Once true, stays: readiness does not follow the broker after the first contact.
    ready: bool,
    complaints: Complaints,
    down_detail: Arc<str>,
    suspects: BTreeSet<Arc<str>>,
    /// What keeps the topics from taking events.
    trouble: Option<Arc<str>>,
}

/// What is known of the broker.
pub(super) struct Health {
    known: Mutex<Known>,
    /// Which client's callbacks count: a client that was replaced has nothing more to say.
    generation: AtomicU64,
    /// Messages handed to any client and not settled.
    pending: AtomicU64,
    bootstrap: String,
    metrics: BusMetrics,
    /// The weightiest nudge that the monitor has not heard yet.
    nudged: Mutex<Option<Nudge>>,
    wake: Condvar,
}

impl Health {
    pub(super) fn new(bootstrap: String, metrics: BusMetrics) -> Self {
        metrics.up.set(0);
        let known = Known {
            reach: Reach::Unknown,
            losses: 0,
            warm: false,
            topics_there: false,
            ready: false,
            complaints: Complaints::default(),
            down_detail: "".into(),
            suspects: BTreeSet::new(),
            trouble: None,
        };
        let (generation, pending) = (AtomicU64::new(0), AtomicU64::new(0));
        Self {
            known: Mutex::new(known),
            generation,
            pending,
            bootstrap,
            metrics,
            nudged: Mutex::new(None),
            wake: Condvar::new(),
        }
    }

    pub(super) fn state(&self) -> BusState {
        let known = self.known.lock();
        match (known.ready, known.reach) {
            (true, Reach::Down) => BusState::Down,
            (true, _) => BusState::Up,
            (false, _) => BusState::Starting,
        }
    }

    /// Why nothing can be published now, while every broker is known to be away.
    pub(super) fn down(&self) -> Option<Arc<str>> {
        let known = self.known.lock();
        (known.reach == Reach::Down).then(|| known.down_detail.clone())
    }

    pub(super) fn is_reached(&self) -> bool {
        self.known.lock().reach == Reach::Up
    }

    /// What last kept the client from a broker.
    pub(super) fn cause(&self) -> Option<Arc<str>> {
        self.known.lock().complaints.cause()
    }

    /// Every broker is away.
    pub(super) fn lost(&self) {
        let mut known = self.known.lock();
        known.losses += 1;
        known.complaints.silent();
        let before = std::mem::replace(&mut known.reach, Reach::Down);
        known.down_detail = self.down_detail(&known);
        let detail = known.down_detail.clone();
        drop(known);
        self.metrics.up.set(0);
        if before != Reach::Down {
            tracing::warn!(%detail, "kafka: no broker can be reached; answering 503 until one is back");
        }
        self.nudge(Nudge::Look);
    }

    /// To be taken before a probe, and handed to [`Self::reached`] after it.
    pub(super) fn losses(&self) -> u64 {
        self.known.lock().losses
    }

    /// A broker has answered, unless it was lost again meanwhile.
    pub(super) fn reached(&self, losses_before: u64) {
        let mut known = self.known.lock();
        if known.losses != losses_before || known.reach == Reach::Up {
            return;
        }
        let before = std::mem::replace(&mut known.reach, Reach::Up);
        known.complaints = Complaints::default();
        self.metrics.up.set(1);
        Self::settle_readiness(&mut known);
        drop(known);
        match before {
            Reach::Down => tracing::info!("kafka: a broker is back"),
            _ => tracing::info!(brokers = self.bootstrap, "kafka: first contact"),
        }
    }

    /// What keeps the topics from taking events, as found now.
    pub(super) fn topics_lack(&self, trouble: Option<String>) {
        self.known.lock().trouble = trouble.map(Arc::from);
    }

    /// What is waited for before the bus is ready, where that is known.
    pub(super) fn not_ready_reason(&self) -> Option<Arc<str>> {
        self.down().or_else(|| self.known.lock().trouble.clone())
    }

    /// Every topic that events can go to is there, or nobody asked.
    pub(super) fn topics_there(&self) {
        let mut known = self.known.lock();
        known.topics_there = true;
        Self::settle_readiness(&mut known);
    }

    /// The client has its producer id: the next message needs no extra half second.
    pub(super) fn warm(&self) {
        let mut known = self.known.lock();
        known.warm = true;
        Self::settle_readiness(&mut known);
    }

    fn settle_readiness(known: &mut Known) {
        let ready = known.reach == Reach::Up && known.topics_there && known.warm;
        if ready && !known.ready {
            known.ready = true;
            tracing::info!("kafka: ready to publish");
        }
    }

    /// Remembers what keeps the client from a broker; logs it once a change.
    pub(super) fn complain(&self, code: &str, reason: &str) {
        let mut known = self.known.lock();
        let news = known.complaints.add(reason);
        self.retell(&mut known);
        drop(known);
        match news {
            News::None => {}
            News::Said(reason) => tracing::warn!(code, %reason, "kafka: trouble with a broker"),
            News::Puzzle => self.nudge(Nudge::Look),
        }
    }

    /// What a look at the listener may explain.
    pub(super) fn puzzle(&self) -> Option<Puzzle> {
        self.known.lock().complaints.puzzle()
    }

    /// The explanation of a puzzle, if there is one.
    pub(super) fn explain(&self, puzzle: Puzzle, explanation: Option<String>) {
        let mut known = self.known.lock();
        if known.reach == Reach::Up {
            return;
        }
        let reason = known.complaints.explain(puzzle, explanation);
        self.retell(&mut known);
        drop(known);
        tracing::warn!(%reason, "kafka: trouble with a broker");
    }

    fn retell(&self, known: &mut Known) {
        if known.reach == Reach::Down {
            known.down_detail = self.down_detail(known);
        }
    }

    fn down_detail(&self, known: &Known) -> Arc<str> {
        let cause = known.complaints.cause();
        let cause = cause.as_deref().unwrap_or("all brokers are down");
        format!("no broker of {} can be reached: {cause}", self.bootstrap).into()
    }

    /// The client's view of this topic is to be refreshed.
    pub(super) fn suspect(&self, topic: &Arc<str>) {
        if self.known.lock().suspects.insert(topic.clone()) {
            self.nudge(Nudge::Look);
        }
    }

    pub(super) fn has_suspects(&self) -> bool {
        !self.known.lock().suspects.is_empty()
    }

    pub(super) fn take_suspects(&self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.known.lock().suspects)
    }

    pub(super) fn keep_suspect(&self, topic: Arc<str>) {
        self.known.lock().suspects.insert(topic);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A new client takes over.
    pub(super) fn rebuilt(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
        self.metrics.rebuilds.inc();
    }

    pub(super) fn handed_over(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn settled(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    pub(super) fn nudge(&self, nudge: Nudge) {
        let mut nudged = self.nudged.lock();
        *nudged = (*nudged).max(Some(nudge));
        self.wake.notify_one();
    }

    /// Waits for a nudge, at most so long; many nudges make one, the weightiest of them.
    pub(super) fn sleep(&self, at_most: Duration) -> Nudge {
        let mut nudged = self.nudged.lock();
        if nudged.is_none() {
            self.wake.wait_for(&mut nudged, at_most);
        }
        nudged.take().unwrap_or(Nudge::Look)
    }
}

#[cfg(test)]
mod tests;
