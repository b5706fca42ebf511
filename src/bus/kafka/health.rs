//! The state of the connection to the cluster: written by the client's callbacks, the monitor and the
//! diagnosis, read by everyone.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::errors::{advise, after_contact, without_suffix};
use super::repeats::Repeats;
use super::tokens::Tokens;
use crate::metrics::BusMetrics;
use crate::pipeline::publish::BusState;

/// Wakes the monitor. The greater ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
    /// Something changed.
    Check,
    /// No connection is open although the state is up.
    Probe,
    /// The bus is dropped.
    Stop,
}

/// Work for the thread of the diagnosis.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Find out why a connection failed after so many contacts with a broker. The error is librdkafka's name and text for
    /// it; none if all brokers are down and the client reported none.
    Failure { contacts: u64, error: Option<(String, String)> },
    /// Look at the settings of the topics.
    Settings,
}

/// Tasks that wait for the diagnosis. The client repeats its failures, so more may be dropped.
const TASKS: usize = 64;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Connection {
    #[default]
    Unknown,
    Up,
    Down,
}

#[derive(Default)]
struct State {
    connection: Connection,
    /// How often all brokers were lost: a probe that began before the last loss proves nothing.
    disconnects: u64,
    contacts: u64,
    /// The client has its producer id.
    warm: bool,
    topics_ready: bool,
    /// Stays true: readiness does not follow the broker after the first contact.
    ready: bool,
    /// What last kept the client from a broker.
    cause: Option<Arc<str>>,
    /// Topics whose metadata the client must fetch again.
    stale_topics: BTreeSet<Arc<str>>,
    topics_problem: Option<Arc<str>>,
    /// What makes acks worth less.
    risks: Vec<String>,
}

pub(super) struct Health {
    state: Mutex<State>,
    /// The client whose callbacks count; those of a replaced client are ignored.
    generation: AtomicU64,
    /// Messages handed to any client and not settled.
    pending: AtomicU64,
    /// `kafka.bootstrap_servers`.
    pub(super) bootstrap: String,
    /// What the clients log in with, if it is tokens.
    pub(super) tokens: OnceLock<Tokens>,
    metrics: BusMetrics,
    /// The greatest signal that the monitor has not seen.
    signal: Mutex<Option<Signal>>,
    wake: Condvar,
    /// Closed at the end, which ends the diagnosis.
    tasks: Mutex<Option<SyncSender<Task>>>,
    /// The panic of a polling thread, until the monitor resumes it.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    pub(super) repeats: Repeats,
}

impl Health {
    /// The state before the first contact, and where failures to diagnose are received.
    pub(super) fn new(bootstrap: String, metrics: BusMetrics) -> (Arc<Self>, Receiver<Task>) {
        metrics.up.set(0);
        let (tasks, receiver) = sync_channel(TASKS);
        let (state, generation, pending, signal, wake, panic) = Default::default();
        let health = Self {
            state,
            generation,
            pending,
            bootstrap,
            tokens: OnceLock::new(),
            metrics,
            signal,
            wake,
            tasks: Mutex::new(Some(tasks)),
            panic,
            repeats: Repeats::default(),
        };
        (Arc::new(health), receiver)
    }

    pub(super) fn bus_state(&self) -> BusState {
        let state = self.state.lock();
        match (state.ready, state.connection) {
            (true, Connection::Down) => BusState::Down,
            (true, _) => BusState::Up,
            (false, _) => BusState::Starting,
        }
    }

    /// Why nothing can be published, while all brokers are down.
    pub(super) fn down(&self) -> Option<Arc<str>> {
        let state = self.state.lock();
        let cause = state.cause.as_deref().unwrap_or("all brokers are down");
        let detail = || format!("no broker of {} can be reached: {cause}", self.bootstrap).into();
        (state.connection == Connection::Down).then(detail)
    }

    pub(super) fn is_up(&self) -> bool {
        self.state.lock().connection == Connection::Up
    }

    /// What last kept the client from a broker.
    pub(super) fn cause(&self) -> Option<Arc<str>> {
        self.state.lock().cause.clone()
    }

    pub(super) fn lost(&self) {
        let mut state = self.state.lock();
        state.disconnects += 1;
        let before = std::mem::replace(&mut state.connection, Connection::Down);
        let (contacts, silent) = (state.contacts, state.cause.is_none());
        drop(state);
        self.metrics.up.set(0);
        if before != Connection::Down {
            let detail = self.down().unwrap_or_default();
            tracing::warn!(%detail, "kafka: no broker can be reached; answering 503 until one is back");
        }
        if silent {
            self.send(Task::Failure { contacts, error: None });
        }
        self.signal(Signal::Check);
    }

    /// How often [`Self::data_lost`] was called.
    pub(super) fn data_losses(&self) -> u64 {
        self.metrics.data_losses.get()
    }

    /// Another cluster answers, or a topic was created anew: nothing is published until a new client is up.
    pub(super) fn data_lost(&self, reason: &str) {
        self.metrics.data_losses.inc();
        tracing::error!(
            reason,
            servers = self.bootstrap,
            "kafka: these brokers do not hold what they acknowledged before; answering 503 until a new client is \
             connected"
        );
        self.unconfirmed(reason);
    }

    /// No ack of the client counts any more: nothing is published until a new client is up.
    pub(super) fn unconfirmed(&self, reason: &str) {
        let mut state = self.state.lock();
        state.disconnects += 1;
        state.connection = Connection::Down;
        state.cause = Some(reason.into());
        drop(state);
        self.metrics.up.set(0);
    }

    /// To be read before a probe and passed to [`Self::reached`] after it.
    pub(super) fn disconnects(&self) -> u64 {
        self.state.lock().disconnects
    }

    /// A broker answered, unless all were lost meanwhile.
    pub(super) fn reached(&self, disconnects_before: u64) {
        let mut state = self.state.lock();
        if state.disconnects != disconnects_before || state.connection == Connection::Up {
            return;
        }
        let before = std::mem::replace(&mut state.connection, Connection::Up);
        state.contacts += 1;
        state.cause = None;
        self.metrics.up.set(1);
        Self::update_readiness(&mut state);
        drop(state);
        match before {
            Connection::Down => tracing::info!("kafka: reconnected"),
            _ => tracing::info!(brokers = self.bootstrap, "kafka: connected"),
        }
    }

    pub(super) fn set_topics_problem(&self, problem: Option<String>) {
        self.state.lock().topics_problem = problem.map(Arc::from);
    }

    pub(super) fn not_ready_reason(&self) -> Option<Arc<str>> {
        self.down().or_else(|| {
            let state = self.state.lock();
            let cause = state.cause.as_ref().filter(|_| state.connection != Connection::Up);
            cause.or(state.topics_problem.as_ref()).cloned()
        })
    }

    /// Every topic exists, or none is checked.
    pub(super) fn topics_ready(&self) {
        let mut state = self.state.lock();
        state.topics_ready = true;
        Self::update_readiness(&mut state);
        drop(state);
        self.look_at_settings();
    }

    /// Has the topics' settings looked at.
    pub(super) fn look_at_settings(&self) {
        self.send(Task::Settings);
    }

    /// Sets what makes acks worth less, and logs what is new.
    pub(super) fn set_risks(&self, risks: Vec<String>) {
        let before = std::mem::replace(&mut self.state.lock().risks, risks.clone());
        for risk in risks.iter().filter(|risk| !before.contains(risk)) {
            tracing::warn!("kafka: acks are worth less: {risk}");
        }
    }

    /// What makes acks worth less, for the operator.
    pub(super) fn warning(&self) -> Option<Arc<str>> {
        let state = self.state.lock();
        (!state.risks.is_empty()).then(|| state.risks.join("; ").into())
    }

    /// The client has its producer id, which would delay the first message by half a second.
    pub(super) fn warm(&self) {
        let mut state = self.state.lock();
        state.warm = true;
        Self::update_readiness(&mut state);
    }

    fn update_readiness(state: &mut State) {
        let ready = state.connection == Connection::Up && state.topics_ready && state.warm;
        if ready && !state.ready {
            state.ready = true;
            tracing::info!("kafka: ready to publish");
        }
    }

    /// Records an error that keeps the client from a broker, and has it diagnosed.
    pub(super) fn connection_error(&self, code: String, text: &str) {
        let mut state = self.state.lock();
        if state.cause.is_none() {
            let (_, advice) = advise(without_suffix(text), &self.bootstrap);
            state.cause = Some(if state.contacts > 0 { after_contact(&advice) } else { advice }.into());
        }
        let contacts = state.contacts;
        drop(state);
        self.send(Task::Failure { contacts, error: Some((code, text.to_owned())) });
    }

    /// Replaces the cause by a better text, unless a broker was reached since that failure.
    pub(super) fn explain(&self, contacts: u64, cause: Arc<str>) {
        let mut state = self.state.lock();
        if state.contacts == contacts {
            state.cause = Some(cause);
        }
    }

    fn send(&self, task: Task) {
        if let Some(tasks) = &*self.tasks.lock() {
            // The client repeats what is dropped.
            let _ = tasks.try_send(task);
        }
    }

    /// The client must fetch this topic's metadata again.
    pub(super) fn mark_stale(&self, topic: &Arc<str>) {
        if self.state.lock().stale_topics.insert(topic.clone()) {
            self.signal(Signal::Check);
        }
    }

    pub(super) fn has_stale_topics(&self) -> bool {
        !self.state.lock().stale_topics.is_empty()
    }

    pub(super) fn take_stale_topics(&self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.state.lock().stale_topics)
    }

    pub(super) fn still_stale(&self, topic: Arc<str>) {
        self.state.lock().stale_topics.insert(topic);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A new client takes over. `renewed`: the former had not failed.
    pub(super) fn rebuilt(&self, generation: u64, renewed: bool) {
        self.generation.store(generation, Ordering::Release);
        if !renewed {
            self.metrics.rebuilds.inc();
        }
    }

    pub(super) fn enqueued(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn settled(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Has the monitor panic too: without the polling thread no ack is received.
    pub(super) fn polling_panicked(&self, panic: Box<dyn Any + Send>) {
        *self.panic.lock() = Some(panic);
        self.signal(Signal::Check);
    }

    pub(super) fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().take()
    }

    /// Ends the monitor and the diagnosis.
    pub(super) fn stop(&self) {
        self.signal(Signal::Stop);
        self.tasks.lock().take();
    }

    pub(super) fn signal(&self, signal: Signal) {
        let mut waiting = self.signal.lock();
        *waiting = (*waiting).max(Some(signal));
        self.wake.notify_one();
    }

    /// Waits for a signal, at most so long; of several signals only the greatest is returned.
    pub(super) fn wait(&self, at_most: Duration) -> Signal {
        let mut signal = self.signal.lock();
        if signal.is_none() {
            self.wake.wait_for(&mut signal, at_most);
        }
        signal.take().unwrap_or(Signal::Check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> (Arc<Health>, Receiver<Task>, BusMetrics) {
        let metrics = crate::bus::kafka::tests::bus_metrics();
        let (health, failures) = Health::new("kafka:9092".into(), metrics.clone());
        (health, failures, metrics)
    }

    #[test]
    fn up_needs_contact_topics_and_a_producer_id() {
        let (health, _, metrics) = health();
        health.topics_ready();
        health.warm();
        assert_eq!(health.bus_state(), BusState::Starting);
        health.reached(0);
        assert_eq!(health.bus_state(), BusState::Up);
        assert_eq!(metrics.up.get(), 1);
    }

    #[test]
    fn a_broker_that_is_down_at_the_start_means_starting_and_unavailable() {
        let (health, failures, _) = health();
        health.connection_error("BrokerTransportFailure".into(), "connect refused");
        health.lost();
        assert_eq!(health.bus_state(), BusState::Starting);
        let detail = health.down().unwrap();
        assert_eq!(&*detail, "no broker of kafka:9092 can be reached: connect refused");
        let (code, text) = ("BrokerTransportFailure".into(), "connect refused".into());
        let failure = Task::Failure { contacts: 0, error: Some((code, text)) };
        assert_eq!(failures.try_iter().collect::<Vec<_>>(), [failure]);
    }

    #[test]
    fn a_loss_without_an_error_is_diagnosed_as_silent() {
        let (health, failures, _) = health();
        health.lost();
        assert_eq!(failures.try_recv(), Ok(Task::Failure { contacts: 0, error: None }));
        health.explain(0, "it closes the connection".into());
        assert!(health.down().unwrap().ends_with(": it closes the connection"));
        health.stop();
        assert!(failures.recv().is_err(), "the diagnosis ends");
    }

    #[test]
    fn failures_that_nobody_receives_are_dropped_beyond_a_bound() {
        let (health, failures, _) = health();
        (0..10 * TASKS).for_each(|_| health.connection_error("x".into(), "y"));
        assert_eq!(failures.try_iter().count(), TASKS);
    }

    #[test]
    fn a_probe_that_began_before_the_loss_is_ignored() {
        let (health, _, metrics) = health();
        let before = health.disconnects();
        health.lost();
        health.reached(before);
        assert!(health.down().is_some());
        health.reached(health.disconnects());
        assert!(health.down().is_none());
        assert_eq!(metrics.up.get(), 1);
    }

    #[test]
    fn down_and_up_again_once_ready() {
        let (health, _, metrics) = health();
        health.topics_ready();
        health.warm();
        health.reached(0);
        health.lost();
        assert_eq!((health.bus_state(), metrics.up.get()), (BusState::Down, 0));
        health.explain(1, "wrong password".into());
        assert!(health.down().unwrap().ends_with("wrong password"));
        health.reached(health.disconnects());
        health.connection_error("x".into(), "kafka:9092/1: 1 request(s) timed out: disconnect");
        let cause = health.cause().unwrap();
        assert!(cause.contains("answered before") && !cause.contains("firewall"), "{cause}");
        health.lost();
        health.reached(health.disconnects());
        assert_eq!((health.bus_state(), metrics.up.get()), (BusState::Up, 1));
        assert_eq!(health.cause(), None);
        health.explain(1, "too late".into());
        assert_eq!(health.cause(), None);
    }
}
