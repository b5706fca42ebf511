//! What is known of the server: written by the client's events and the monitor.
//!
//! Whether there is a connection is the client's own [`State`]; its events become log lines, metrics and
//! wake-ups. The client drops events when its channel is full, so its state is compared with them
//! periodically ([`Health::reconcile`]).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ClientError, Event, ServerError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::errors::with_advice;
use super::permissions::{Violation, Violations};
use crate::metrics::BusMetrics;
use crate::pipeline::publish::{BrokerIdentity, BusState, PublishError};

/// The same error is logged again after this.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// How often the client's state is compared with its events.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);
/// So many acks in a row that do not come in time make the monitor look.
const TIMEOUTS: u64 = 3;

#[derive(Default)]
pub(super) struct Known {
    /// By the events.
    connected: bool,
    /// Connections that `losses` accounts for.
    connects: u64,
    /// Connections at the last comparison, if it found one that no event had reported.
    unreported: Option<u64>,
    /// An attempt to connect has failed, or a connection was lost, since the last connection.
    failed: bool,
    reached: bool,
    /// The stream was inspected on this connection.
    inspected: bool,
    /// The last inspection found that the stream accepts every event. Readiness follows the stream, not the
    /// server: an outage does not change it.
    pub ready: bool,
    /// The client's last connection error.
    pub last_error: Option<Arc<str>>,
    logged: Option<Instant>,
    /// What answers in place of a NATS server.
    foreign: Option<Arc<str>>,
    pub verdict: Verdict,
    /// Which stream acknowledges.
    pub identity: Option<Arc<BrokerIdentity>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    /// Why the stream does not accept every event.
    pub invalid: Option<Arc<str>>,
    /// Whether nothing may be published, because an ack would be worth nothing.
    pub refuse: bool,
    /// What may lose events that the stream has acknowledged.
    pub warning: Option<Arc<str>>,
}

#[derive(Default)]
pub(super) struct Counters {
    /// Connections lost so far: a message that was enqueued before a loss gets no ack.
    losses: AtomicU64,
    /// Messages enqueued and not settled.
    pub in_flight: AtomicU64,
    /// The highest sequence that was acknowledged.
    pub acknowledged: AtomicU64,
    /// Acks that did not come in time, since the last one that did.
    timeouts: AtomicU64,
}

pub(super) struct Health {
    pub known: Mutex<Known>,
    pub counters: Counters,
    lost: Notify,
    servers: String,
    pub metrics: BusMetrics,
    wake_monitor: Notify,
    pub violations: Arc<Violations>,
}

impl Health {
    pub(super) fn new(servers: String, metrics: BusMetrics) -> Self {
        metrics.up.set(0);
        let (known, counters, lost, wake_monitor, violations) = Default::default();
        Self { known, counters, lost, servers, metrics, wake_monitor, violations }
    }

    pub(super) fn state(&self, connection: State) -> BusState {
        let known = self.known.lock();
        match connection {
            _ if !known.ready => BusState::Starting,
            State::Connected if known.inspected => BusState::Up,
            _ => BusState::Down,
        }
    }

    pub(super) fn may_publish(&self, connection: State) -> Result<(), PublishError> {
        let is_connected = connection == State::Connected;
        if let Some(detail) = self.unavailable_reason(connection) {
            return Err(PublishError::Unavailable { detail });
        }
        if is_connected && self.violations.no_acks() {
            return Err(PublishError::Refused { detail: Violation::Acks.advice().into() });
        }
        let Known { inspected, verdict, .. } = &*self.known.lock();
        match &verdict.invalid {
            Some(detail) if verdict.refuse => Err(PublishError::Refused { detail: Arc::clone(detail) }),
            _ if !inspected => {
                let detail = "the stream has not been inspected on this connection yet".into();
                Err(PublishError::Unavailable { detail })
            }
            _ => Ok(()),
        }
    }

    /// Why nothing can be published, while the client is not connected.
    fn unavailable_reason(&self, connection: State) -> Option<Arc<str>> {
        let known = match connection {
            State::Connected => return None,
            State::Disconnected => self.known.lock(),
            // Unknown until the first attempt has failed.
            State::Pending => Some(self.known.lock()).filter(|known| known.failed)?,
        };
        let error = known.last_error.as_deref().unwrap_or("the connection was lost");
        let cause = known.foreign.as_deref().map_or_else(|| with_advice(error), str::to_owned);
        Some(format!("no server of {} can be reached: {cause}", self.servers).into())
    }

    pub(super) fn not_ready_reason(&self, connection: State) -> Option<Arc<str>> {
        let no_acks = || self.violations.no_acks().then(|| Violation::Acks.advice().into());
        let invalid = || self.known.lock().verdict.invalid.clone();
        self.unavailable_reason(connection).or_else(no_acks).or_else(invalid)
    }

    pub(super) fn losses(&self) -> u64 {
        self.counters.losses.load(Ordering::Acquire)
    }

    pub(super) async fn lost_since(&self, losses: u64) {
        loop {
            let mut next = pin!(self.lost.notified());
            // Enabled before the count is read, so that no loss is missed.
            next.as_mut().enable();
            if self.losses() != losses {
                return;
            }
            next.await;
        }
    }

    /// Handles an event of the client. Never waits.
    pub(super) fn on_event(&self, event: &Event) {
        match event {
            Event::Connected => self.connected(),
            Event::Disconnected => self.disconnected(),
            Event::LameDuckMode => {
                tracing::info!("nats: the server is shutting down; the client will move to another");
            }
            Event::ServerError(ServerError::Other(text)) => match Violation::parse(text) {
                Some(violation) => {
                    if self.violations.add(&violation) {
                        tracing::error!(text, "nats: {}", violation.advice());
                    }
                    self.nudge_monitor();
                }
                None => self.on_error(text),
            },
            Event::ServerError(error) => self.on_error(&error.to_string()),
            Event::ClientError(ClientError::Other(error)) => {
                self.known.lock().failed = true;
                // The next attempt reports a more precise one.
                if self.known.lock().last_error.is_none() {
                    self.on_error(error);
                }
            }
            Event::ClientError(error) => self.on_error(&error.to_string()),
            Event::SlowConsumer(_) | Event::Draining | Event::Closed => {
                tracing::debug!(%event, "nats: client event");
            }
        }
    }

    pub(super) async fn reconcile_periodically(self: Arc<Self>, client: Client) {
        let statistics = client.statistics();
        loop {
            tokio::time::sleep(RECONCILE_INTERVAL).await;
            self.reconcile(client.connection_state(), statistics.connects.load(Ordering::Relaxed));
        }
    }

    /// Makes up for dropped events: compares what the events reported with the client's state and the number of
    /// connections it has made.
    fn reconcile(&self, connection: State, connects: u64) {
        let mut known = self.known.lock();
        // The events may still be in the channel: they were dropped if the next comparison finds the same.
        let dropped = known.unreported.take() == Some(connects);
        let (reconnected, is_connected) = (connects > known.connects, connection == State::Connected);
        let (lost, made) = match (known.connected, connection) {
            (true, State::Disconnected) => (true, false),
            (true, State::Connected) if reconnected && !dropped => {
                known.unreported = Some(connects);
                return;
            }
            (true, State::Connected) => (reconnected, reconnected),
            (false, State::Connected) => (false, true),
            (false, State::Disconnected) | (_, State::Pending) => return,
        };
        drop(known);
        if lost {
            self.disconnected();
        }
        if made {
            self.connected();
        }
        if is_connected {
            self.known.lock().connects = connects;
        }
    }

    fn connected(&self) {
        let mut known = self.known.lock();
        if std::mem::replace(&mut known.connected, true) {
            return;
        }
        known.connects += 1;
        let again = std::mem::replace(&mut known.reached, true);
        (known.failed, known.inspected) = (false, false);
        (known.last_error, known.logged, known.foreign) = (None, None, None);
        drop(known);
        self.violations.connected();
        self.counters.timeouts.store(0, Ordering::Relaxed);
        if again {
            tracing::info!("nats: reconnected");
        } else {
            tracing::info!(servers = self.servers, "nats: connected");
        }
        self.nudge_monitor();
    }

    fn disconnected(&self) {
        let mut known = self.known.lock();
        if !std::mem::replace(&mut known.connected, false) {
            return;
        }
        (known.failed, known.inspected) = (true, false);
        self.metrics.up.set(0);
        drop(known);
        self.counters.losses.fetch_add(1, Ordering::AcqRel);
        self.lost.notify_waiters();
        tracing::warn!(servers = self.servers, "nats: connection lost; answering 503 until reconnected");
    }

    /// Remembers a connection error; logs it when it changes.
    pub(super) fn on_error(&self, error: &str) {
        let mut known = self.known.lock();
        let same = known.last_error.as_deref() == Some(error);
        let log =
            known.foreign.is_none() && (!same || known.logged.is_none_or(|at| at.elapsed() > LOG_INTERVAL));
        known.last_error = Some(error.into());
        if log {
            known.logged = Some(Instant::now());
            drop(known);
            tracing::warn!(cause = with_advice(error), servers = self.servers, "nats: connection error");
        }
    }

    /// No NATS server answers, but something else does.
    pub(super) fn found_foreign(&self, peer: &str) {
        let mut known = self.known.lock();
        if !known.connected && known.foreign.as_deref() != Some(peer) {
            known.foreign = Some(peer.into());
            drop(known);
            tracing::error!(servers = self.servers, "nats: {peer}");
        }
    }

    /// The stream was inspected on the connection before which there were so many losses.
    pub(super) fn inspected(&self, losses: u64, verdict: Verdict) {
        let mut known = self.known.lock();
        if self.losses() != losses || !known.connected {
            return;
        }
        let ready = verdict.invalid.is_none();
        if ready && !known.ready {
            tracing::info!("nats: ready to publish");
        }
        (known.ready, known.inspected, known.verdict) = (ready, true, verdict);
        self.metrics.up.set(1);
    }

    /// Notes an ack. A sequence that was acknowledged before is one of another stream with the same name.
    pub(super) fn acknowledged(&self, sequence: u64) {
        self.counters.timeouts.store(0, Ordering::Relaxed);
        if self.counters.acknowledged.fetch_max(sequence, Ordering::AcqRel) >= sequence {
            self.nudge_monitor();
        }
    }

    /// Notes that an ack did not come in time. After several in a row the monitor looks.
    pub(super) fn timed_out(&self) {
        if self.counters.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS {
            self.nudge_monitor();
        }
    }

    /// Whether several acks in a row did not come; they are counted anew.
    pub(super) fn take_timeouts(&self) -> bool {
        let timeouts = &self.counters.timeouts;
        timeouts.load(Ordering::Relaxed) >= TIMEOUTS && timeouts.swap(0, Ordering::Relaxed) >= TIMEOUTS
    }

    /// Notes which stream acknowledges; none while there is none.
    pub(super) fn identified(&self, identity: Option<BrokerIdentity>) {
        let mut known = self.known.lock();
        if known.identity.as_deref() != identity.as_ref() {
            known.identity = identity.map(Arc::new);
        }
    }

    /// The stream does not have what it had acknowledged.
    pub(super) fn data_lost(&self) {
        self.counters.acknowledged.store(0, Ordering::Release);
        self.metrics.data_losses.inc();
    }

    pub(super) fn nudge_monitor(&self) {
        self.wake_monitor.notify_one();
    }

    pub(super) async fn nudged(&self, timeout: Duration) {
        // The timeout is as good as a nudge.
        let _ = tokio::time::timeout(timeout, self.wake_monitor.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::metrics::{Labels, Metrics};

    fn health() -> (Health, BusMetrics) {
        let metrics = Metrics::new(Labels { bus: "nats", ..Labels::default() });
        (Health::new("nats:4222".into(), metrics.bus()), metrics.bus())
    }

    fn is_nudged(health: &Health) -> bool {
        health.wake_monitor.notified().now_or_never().is_some()
    }

    fn invalid(reason: &str, refuse: bool) -> Verdict {
        Verdict { invalid: Some(reason.into()), refuse, warning: None }
    }

    #[test]
    fn up_needs_a_connection_whose_stream_was_inspected() {
        let (health, metrics) = health();
        health.inspected(0, Verdict::default());
        assert_eq!(health.state(State::Pending), BusState::Starting);
        health.on_event(&Event::Connected);
        assert_eq!((health.state(State::Connected), metrics.up.get()), (BusState::Starting, 0));
        health.inspected(0, Verdict::default());
        assert_eq!((health.state(State::Connected), metrics.up.get()), (BusState::Up, 1));
        health.on_event(&Event::Disconnected);
        health.on_event(&Event::Connected);
        health.inspected(0, Verdict::default());
        assert_eq!(
            (health.state(State::Connected), metrics.up.get()),
            (BusState::Down, 0),
            "an old inspection"
        );
        assert_eq!(health.may_publish(State::Connected).unwrap_err().label(), "unavailable");
        health.inspected(1, Verdict::default());
        assert_eq!(
            (health.state(State::Connected), health.may_publish(State::Connected)),
            (BusState::Up, Ok(()))
        );
    }

    #[test]
    fn readiness_follows_the_stream() {
        let (health, _) = health();
        health.on_event(&Event::Connected);
        health.inspected(0, Verdict::default());
        health.inspected(0, invalid("does not exist", false));
        assert_eq!(health.state(State::Connected), BusState::Starting);
        assert_eq!(health.not_ready_reason(State::Connected).as_deref(), Some("does not exist"));
        assert_eq!(health.may_publish(State::Connected), Ok(()), "the server answers with the cause");
        health.inspected(0, invalid("persist_mode is async", true));
        assert_eq!(health.may_publish(State::Connected).unwrap_err().label(), "refused");
        health.inspected(0, Verdict::default());
        assert_eq!(health.state(State::Connected), BusState::Up);
    }

    #[test]
    fn acks_that_the_connection_may_not_receive_are_refused_until_the_next_connection() {
        let (health, _) = health();
        health.on_event(&Event::Connected);
        health.inspected(0, Verdict::default());
        let text = "Permissions Violation for Subscription to \"_INBOX.x.*\"";
        health.on_event(&Event::ServerError(ServerError::Other(text.into())));
        let refused = health.may_publish(State::Connected).unwrap_err();
        assert!(refused.label() == "refused" && refused.to_string().contains("_INBOX.>"), "{refused}");
        health.on_event(&Event::Disconnected);
        health.on_event(&Event::Connected);
        health.inspected(1, Verdict::default());
        assert_eq!(health.may_publish(State::Connected), Ok(()));
    }

    #[test]
    fn sequence_that_was_acknowledged_before_and_timeouts_in_a_row_wake_the_monitor() {
        let (health, _) = health();
        health.acknowledged(7);
        health.acknowledged(8);
        assert!(!is_nudged(&health));
        health.acknowledged(1);
        assert!(is_nudged(&health));
        for _ in 1..TIMEOUTS {
            health.timed_out();
        }
        assert!(!is_nudged(&health) && !health.take_timeouts());
        health.timed_out();
        assert!(is_nudged(&health) && health.take_timeouts() && !health.take_timeouts());
    }

    #[test]
    fn unreachable_server_at_start_is_unavailable_and_still_starting() {
        let (health, _) = health();
        assert_eq!(health.unavailable_reason(State::Pending), None, "before the first attempt has failed");
        health.on_event(&Event::ClientError(ClientError::Other("IO error".into())));
        assert_eq!(health.state(State::Pending), BusState::Starting);
        let reason = || health.unavailable_reason(State::Pending).unwrap();
        assert_eq!(&*reason(), "no server of nats:4222 can be reached: IO error");
        health.on_error("IO error: connection refused");
        health.on_event(&Event::ClientError(ClientError::Other("IO error".into())));
        assert!(
            reason()
                .ends_with("connection refused: check the address in nats.servers, and that the server runs")
        );
    }

    #[test]
    fn lost_connection_is_down_and_reconnected_is_up() {
        let (health, metrics) = health();
        health.on_event(&Event::Connected);
        health.inspected(0, Verdict::default());
        health.on_event(&Event::Disconnected);
        assert_eq!((health.state(State::Disconnected), metrics.up.get()), (BusState::Down, 0));
        assert_eq!(health.losses(), 1);
        health.on_event(&Event::ServerError(ServerError::AuthorizationViolation));
        let detail = health.unavailable_reason(State::Disconnected).unwrap();
        assert!(detail.contains("authorization violation: check nats.creds_file"), "{detail}");
        health.on_event(&Event::Connected);
        health.inspected(1, Verdict::default());
        assert_eq!((health.state(State::Connected), metrics.up.get()), (BusState::Up, 1));
        assert_eq!(
            (health.known.lock().last_error.clone(), health.unavailable_reason(State::Connected)),
            (None, None)
        );
    }

    #[test]
    fn events_that_the_client_dropped_are_made_up_for() {
        let (health, _) = health();
        let found = || (health.known.lock().connected, health.losses());
        health.reconcile(State::Pending, 0);
        assert_eq!(found(), (false, 0), "nothing has happened");
        health.reconcile(State::Connected, 1);
        assert_eq!(found(), (true, 0));
        health.reconcile(State::Disconnected, 1);
        assert_eq!(found(), (false, 1));
        health.on_event(&Event::Connected);
        health.reconcile(State::Connected, 2);
        assert_eq!(found(), (true, 1), "all of this was reported");
        health.reconcile(State::Connected, 3);
        health.reconcile(State::Connected, 3);
        assert_eq!(found(), (true, 2), "lost and reconnected between two comparisons");
        health.on_event(&Event::Connected);
        health.reconcile(State::Connected, 3);
        assert_eq!(found(), (true, 2), "a late event changes nothing");
    }

    #[test]
    fn loss_whose_events_come_after_a_comparison_counts_once() {
        let (health, _) = health();
        health.on_event(&Event::Connected);
        health.reconcile(State::Connected, 1);
        // The connection is lost and made again; the events are still in the client's channel.
        health.reconcile(State::Connected, 2);
        health.on_event(&Event::Disconnected);
        health.on_event(&Event::Connected);
        health.reconcile(State::Connected, 2);
        assert_eq!(health.losses(), 1);
        // The events of the next loss are dropped.
        health.reconcile(State::Connected, 3);
        health.reconcile(State::Connected, 3);
        assert_eq!(health.losses(), 2);
    }
}
