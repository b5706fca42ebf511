//! What is known of the broker: written by the client's callbacks and the monitor, read by everyone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::metrics::BusMetrics;
use crate::pipeline::publish::BusState;

/// The same complaint of the client is logged again after this.
const LOG_AGAIN: Duration = Duration::from_secs(60);

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
    cause: Option<Arc<str>>,
    down_detail: Arc<str>,
    complaints: HashMap<String, Instant>,
    suspects: BTreeSet<Arc<str>>,
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
            cause: None,
            down_detail: "".into(),
            complaints: HashMap::new(),
            suspects: BTreeSet::new(),
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
        self.known.lock().cause.clone()
    }

    /// Every broker is away.
    pub(super) fn lost(&self) {
        let mut known = self.known.lock();
        known.losses += 1;
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
        known.cause = None;
        known.complaints.clear();
        self.metrics.up.set(1);
        Self::settle_readiness(&mut known);
        drop(known);
        match before {
            Reach::Down => tracing::info!("kafka: a broker is back"),
            _ => tracing::info!(brokers = self.bootstrap, "kafka: first contact"),
        }
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
        let text = without_suffix(reason);
        let kind: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
        let mut known = self.known.lock();
        known.cause = Some(text.into());
        if known.reach == Reach::Down {
            known.down_detail = self.down_detail(&known);
        }
        known.complaints.retain(|_, at| at.elapsed() < LOG_AGAIN);
        let news = !known.complaints.contains_key(&kind);
        if news {
            known.complaints.insert(kind, Instant::now());
        }
        drop(known);
        if news {
            tracing::warn!(code, reason = text, "kafka: trouble with a broker");
        }
    }

    fn down_detail(&self, known: &Known) -> Arc<str> {
        let cause = known.cause.as_deref().unwrap_or("all brokers are down");
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

/// The client's text without its times and counters, which differ on every try.
fn without_suffix(reason: &str) -> &str {
    reason.split(" (after ").next().unwrap_or(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> (Health, BusMetrics) {
        let metrics = crate::bus::kafka::tests::bus_metrics();
        (Health::new("kafka:9092".into(), metrics.clone()), metrics)
    }

    #[test]
    fn up_needs_contact_topics_and_a_warm_client() {
        let (health, metrics) = health();
        health.topics_there();
        health.warm();
        assert_eq!(health.state(), BusState::Starting);
        health.reached(0);
        assert_eq!(health.state(), BusState::Up);
        assert_eq!(metrics.up.get(), 1);
    }

    #[test]
    fn a_broker_that_is_away_at_the_start_refuses_at_once_but_is_still_starting() {
        let (health, _) = health();
        health.complain("BrokerTransportFailure", "connect refused (after 3ms in state CONNECT)");
        health.lost();
        assert_eq!(health.state(), BusState::Starting);
        let detail = health.down().unwrap();
        assert_eq!(&*detail, "no broker of kafka:9092 can be reached: connect refused");
    }

    #[test]
    fn a_probe_that_began_before_the_loss_proves_nothing() {
        let (health, metrics) = health();
        let before = health.losses();
        health.lost();
        health.reached(before);
        assert!(health.down().is_some());
        health.reached(health.losses());
        assert!(health.down().is_none());
        assert_eq!(metrics.up.get(), 1);
    }

    #[test]
    fn down_and_up_again_once_ready() {
        let (health, metrics) = health();
        health.topics_there();
        health.warm();
        health.reached(0);
        health.lost();
        assert_eq!((health.state(), metrics.up.get()), (BusState::Down, 0));
        health.complain("Authentication", "wrong password");
        assert!(health.down().unwrap().ends_with("wrong password"));
        health.reached(health.losses());
        assert_eq!((health.state(), metrics.up.get()), (BusState::Up, 1));
        assert_eq!(health.cause(), None);
    }
}
