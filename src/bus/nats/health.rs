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

use super::errors::{Violation, Violations, advice};
use crate::metrics::BusMetrics;
use crate::pipeline::publish::BusState;

/// The same error is logged again after this.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How often the client's state is compared with its events.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Known {
    /// By the events.
    connected: bool,
    /// Connections that `losses` accounts for.
    connects: u64,
    /// Connections at the last comparison, if it found one that no event had reported.
    unreported: Option<u64>,
    /// An attempt to connect has failed, or a connection was lost, since the last connection.
    failed: bool,
    reached: bool,
    stream_valid: bool,
    /// Never false again: readiness does not follow the server.
    ready: bool,
    last_error: Option<Arc<str>>,
    logged: Option<Instant>,
    /// Why the stream does not accept every event.
    stream_invalid: Option<Arc<str>>,
}

/// What is known of the server.
pub(super) struct Health {
    known: Mutex<Known>,
    /// Connections lost so far: a message that was enqueued before a loss gets no ack.
    losses: AtomicU64,
    lost: Notify,
    in_flight: AtomicU64,
    servers: String,
    metrics: BusMetrics,
    wake_monitor: Notify,
    pub violations: Arc<Violations>,
}

impl Health {
    pub(super) fn new(servers: String, metrics: BusMetrics) -> Self {
        metrics.up.set(0);
        let (known, losses, lost, in_flight, wake_monitor, violations) = Default::default();
        Self { known, losses, lost, in_flight, servers, metrics, wake_monitor, violations }
    }

    pub(super) fn state(&self, connection: State) -> BusState {
        match (self.known.lock().ready, connection) {
            (true, State::Connected) => BusState::Up,
            (true, State::Pending | State::Disconnected) => BusState::Down,
            (false, _) => BusState::Starting,
        }
    }

    /// Why nothing can be published, while the client is not connected.
    pub(super) fn unavailable_reason(&self, connection: State) -> Option<Arc<str>> {
        let known = match connection {
            State::Connected => return None,
            State::Disconnected => self.known.lock(),
            // Unknown until the first attempt has failed.
            State::Pending => Some(self.known.lock()).filter(|known| known.failed)?,
        };
        let error = known.last_error.as_deref().unwrap_or("the connection was lost");
        Some(format!("no server of {} can be reached: {error}{}", self.servers, advice(error)).into())
    }

    /// Why the bus is not ready, if that is known.
    pub(super) fn not_ready_reason(&self, connection: State) -> Option<Arc<str>> {
        self.unavailable_reason(connection).or_else(|| self.known.lock().stream_invalid.clone())
    }

    /// The client's last connection error.
    pub(super) fn last_error(&self) -> Option<Arc<str>> {
        self.known.lock().last_error.clone()
    }

    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Waits until there are other than `losses` losses.
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
                Some(violation) => self.violations.add(&violation, text),
                None => self.on_error(text),
            },
            Event::ServerError(error) => self.on_error(&error.to_string()),
            Event::ClientError(ClientError::Other(error)) => {
                self.known.lock().failed = true;
                // The next attempt reports a more precise one.
                if self.last_error().is_none() {
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
        let reconnected = connects > known.connects;
        match (known.connected, connection) {
            (true, State::Disconnected) => {
                drop(known);
                return self.disconnected();
            }
            (true, State::Connected) if reconnected && !dropped => {
                known.unreported = Some(connects);
                return;
            }
            (true, State::Connected) if reconnected => {
                drop(known);
                self.disconnected();
                self.connected();
            }
            (false, State::Connected) => {
                drop(known);
                self.connected();
            }
            (true, State::Connected) => drop(known),
            (false, State::Disconnected) | (_, State::Pending) => return,
        }
        self.known.lock().connects = connects;
    }

    fn connected(&self) {
        let mut known = self.known.lock();
        if std::mem::replace(&mut known.connected, true) {
            return;
        }
        known.connects += 1;
        let again = std::mem::replace(&mut known.reached, true);
        known.failed = false;
        known.last_error = None;
        known.logged = None;
        self.metrics.up.set(1);
        Self::update_readiness(&mut known);
        drop(known);
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
        known.failed = true;
        self.metrics.up.set(0);
        drop(known);
        self.losses.fetch_add(1, Ordering::AcqRel);
        self.lost.notify_waiters();
        tracing::warn!(servers = self.servers, "nats: connection lost; answering 503 until reconnected");
    }

    /// Remembers a connection error; logs it when it changes.
    pub(super) fn on_error(&self, error: &str) {
        let mut known = self.known.lock();
        let same = known.last_error.as_deref() == Some(error);
        let log = !same || known.logged.is_none_or(|at| at.elapsed() > LOG_INTERVAL);
        known.last_error = Some(error.into());
        if log {
            known.logged = Some(Instant::now());
            drop(known);
            let cause = format!("{error}{}", advice(error));
            tracing::warn!(cause, servers = self.servers, "nats: connection error");
        }
    }

    /// The stream does not accept every event.
    pub(super) fn mark_invalid(&self, reasons: &[String]) {
        self.known.lock().stream_invalid = Some(reasons.join("; ").into());
    }

    /// The stream accepts every event, or is not checked.
    pub(super) fn mark_valid(&self) {
        let mut known = self.known.lock();
        known.stream_valid = true;
        Self::update_readiness(&mut known);
    }

    fn update_readiness(known: &mut Known) {
        if known.reached && known.stream_valid && !known.ready {
            known.ready = true;
            tracing::info!("nats: ready to publish");
        }
    }

    pub(super) fn enqueued(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn settled(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Messages enqueued and not settled.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn nudge_monitor(&self) {
        self.wake_monitor.notify_one();
    }

    /// Waits until the monitor is nudged, at most `timeout`.
    pub(super) async fn nudged(&self, timeout: Duration) {
        // The timeout is as good as a nudge.
        let _ = tokio::time::timeout(timeout, self.wake_monitor.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Labels, Metrics};

    fn health() -> (Health, BusMetrics) {
        let metrics = Metrics::new(Labels { bus: "nats", ..Labels::default() });
        (Health::new("nats:4222".into(), metrics.bus()), metrics.bus())
    }

    #[test]
    fn up_needs_a_connection_and_a_valid_stream() {
        let (health, metrics) = health();
        health.mark_valid();
        assert_eq!(health.state(State::Pending), BusState::Starting);
        health.on_event(&Event::Connected);
        assert_eq!((health.state(State::Connected), metrics.up.get()), (BusState::Up, 1));
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
        health.mark_valid();
        health.on_event(&Event::Connected);
        health.on_event(&Event::Disconnected);
        assert_eq!((health.state(State::Disconnected), metrics.up.get()), (BusState::Down, 0));
        assert_eq!(health.losses(), 1);
        health.on_event(&Event::ServerError(ServerError::AuthorizationViolation));
        let detail = health.unavailable_reason(State::Disconnected).unwrap();
        assert!(detail.contains("authorization violation: check nats.creds_file"), "{detail}");
        health.on_event(&Event::Connected);
        assert_eq!((health.state(State::Connected), metrics.up.get()), (BusState::Up, 1));
        assert_eq!((health.last_error(), health.unavailable_reason(State::Connected)), (None, None));
    }

    #[test]
    fn events_that_the_client_dropped_are_made_up_for() {
        let (health, metrics) = health();
        health.mark_valid();
        health.reconcile(State::Pending, 0);
        assert_eq!((metrics.up.get(), health.losses()), (0, 0), "nothing has happened");
        health.reconcile(State::Connected, 1);
        assert_eq!((health.state(State::Connected), metrics.up.get()), (BusState::Up, 1));
        health.reconcile(State::Disconnected, 1);
        assert_eq!((metrics.up.get(), health.losses()), (0, 1));
        health.on_event(&Event::Connected);
        health.reconcile(State::Connected, 2);
        assert_eq!((metrics.up.get(), health.losses()), (1, 1), "all of this was reported");
        health.reconcile(State::Connected, 3);
        health.reconcile(State::Connected, 3);
        assert_eq!(
            (metrics.up.get(), health.losses()),
            (1, 2),
            "lost and reconnected between two comparisons"
        );
        health.on_event(&Event::Connected);
        health.reconcile(State::Connected, 3);
        assert_eq!((metrics.up.get(), health.losses()), (1, 2), "a late event changes nothing");
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
