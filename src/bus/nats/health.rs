//! What is known of the server: written by the client's events and the monitor, read by everyone.
//!
//! Whether there is a connection is the client's own word ([`State`]); its events make log lines, metrics
//! and nudges of it. It drops events that come faster than they are read, so now and then its word is
//! compared with what its events have told ([`Health::compare`]).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ClientError, Event, ServerError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::refusals::{self, Refusals};
use crate::metrics::BusMetrics;
use crate::pipeline::publish::BusState;

/// The same complaint of the client is logged again after this.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// Between two comparisons of what the client's events have told with the client's own word.
const COMPARE_AGAIN: Duration = Duration::from_secs(1);

struct Known {
    /// What the events have told.
    connected: bool,
    /// Connections that `losses` accounts for.
    connects: u64,
    /// Connections at the last comparison, where it found one that no event had reported.
    unreported: Option<u64>,
    /// A try to connect has failed, or a connection was lost, since the last connection.
    failed: bool,
    contact: bool,
    fit: bool,
    /// Once true, stays: readiness does not follow the server after the first contact.
    ready: bool,
    cause: Option<Arc<str>>,
    complained: Option<Instant>,
    /// What keeps the stream from taking every event.
    unfit: Option<Arc<str>>,
}

/// What is known of the server.
pub(super) struct Health {
    known: Mutex<Known>,
    /// Connections lost so far: an ack that was lost with one is no time-out.
    losses: AtomicU64,
    lost: Notify,
    /// Messages handed to the client and not settled.
    pending: AtomicU64,
    servers: String,
    metrics: BusMetrics,
    nudged: Notify,
    pub refusals: Arc<Refusals>,
}

impl Health {
    pub(super) fn new(servers: String, metrics: BusMetrics) -> Self {
        metrics.up.set(0);
        let known = Known {
            connected: false,
            connects: 0,
            unreported: None,
            failed: false,
            contact: false,
            fit: false,
            ready: false,
            cause: None,
            complained: None,
            unfit: None,
        };
        Self {
            known: Mutex::new(known),
            losses: AtomicU64::new(0),
            lost: Notify::new(),
            pending: AtomicU64::new(0),
            servers,
            metrics,
            nudged: Notify::new(),
            refusals: Arc::default(),
        }
    }

    pub(super) fn state(&self, connection: State) -> BusState {
        match (self.known.lock().ready, connection) {
            (true, State::Connected) => BusState::Up,
            (true, State::Pending | State::Disconnected) => BusState::Down,
            (false, _) => BusState::Starting,
        }
    }

    /// Why nothing can be published now, while the client has no connection.
    pub(super) fn down(&self, connection: State) -> Option<Arc<str>> {
        let known = match connection {
            State::Connected => return None,
            State::Disconnected => self.known.lock(),
            // Before the first try has failed nobody knows.
            State::Pending => Some(self.known.lock()).filter(|known| known.failed)?,
        };
        let cause = known.cause.as_deref().unwrap_or("the connection was lost");
        Some(format!("no server of {} can be reached: {cause}{}", self.servers, advice(cause)).into())
    }

    /// What last kept the client from a server.
    pub(super) fn cause(&self) -> Option<Arc<str>> {
        self.known.lock().cause.clone()
    }

    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Waits until a connection is lost after that many.
    pub(super) async fn lost_since(&self, losses: u64) {
        loop {
            let mut next = pin!(self.lost.notified());
            // From here on no loss is missed, so the count may be looked at.
            next.as_mut().enable();
            if self.losses() != losses {
                return;
            }
            next.await;
        }
    }

    /// The client tells something. Never waits.
    pub(super) fn event(&self, event: &Event) {
        match event {
            Event::Connected => self.reached(),
            Event::Disconnected => self.lost(),
            Event::LameDuckMode => {
                tracing::info!("nats: the server is about to stop; the client moves to another when it does");
            }
            Event::ServerError(error) => self.server_error(error),
            Event::ClientError(ClientError::Other(cause)) => {
                self.known.lock().failed = true;
                // The client tells more when it tries again; this is all there is until then.
                if self.cause().is_none() {
                    self.complain(cause);
                }
            }
            Event::ClientError(error) => self.complain(&error.to_string()),
            Event::SlowConsumer(_) | Event::Draining | Event::Closed => {
                tracing::debug!(%event, "nats: the client tells");
            }
        }
    }

    fn server_error(&self, error: &ServerError) {
        let ServerError::Other(text) = error else { return self.complain(&error.to_string()) };
        match refusals::parse(text) {
            Some(refusal) => self.refusals.add(&refusal, text),
            None => self.complain(text),
        }
    }

    /// Compares for ever.
    pub(super) async fn keep_true(self: Arc<Self>, client: Client) {
        let statistics = client.statistics();
        loop {
            tokio::time::sleep(COMPARE_AGAIN).await;
            self.compare(client.connection_state(), statistics.connects.load(Ordering::Relaxed));
        }
    }

    /// Compares what the events have told with the client's own word and the connections it has made so
    /// far: what it had no room to tell is made up for.
    pub(super) fn compare(&self, connection: State, connects: u64) {
        let mut known = self.known.lock();
        let connected = known.connected;
        let is_new = connects > known.connects;
        // Events in the channel report it before the next comparison, unless they were dropped.
        let dropped = known.unreported.take() == Some(connects);
        match (connected, connection) {
            (false, State::Connected) => {
                drop(known);
                self.reached();
            }
            (true, State::Disconnected) => {
                drop(known);
                self.lost();
                return;
            }
            (true, State::Connected) if is_new && !dropped => {
                known.unreported = Some(connects);
                return;
            }
            (true, State::Connected) if is_new => {
                drop(known);
                self.lost();
                self.reached();
            }
            (true, State::Connected) => drop(known),
            _ => return,
        }
        self.known.lock().connects = connects;
    }

    fn reached(&self) {
        let mut known = self.known.lock();
        if std::mem::replace(&mut known.connected, true) {
            return;
        }
        known.connects += 1;
        let again = std::mem::replace(&mut known.contact, true);
        known.failed = false;
        known.cause = None;
        known.complained = None;
        self.metrics.up.set(1);
        Self::settle_readiness(&mut known);
        drop(known);
        if again {
            tracing::info!("nats: connected again");
        } else {
            tracing::info!(servers = self.servers, "nats: first contact");
        }
        self.nudge();
    }

    fn lost(&self) {
        let mut known = self.known.lock();
        if !std::mem::replace(&mut known.connected, false) {
            return;
        }
        known.failed = true;
        self.metrics.up.set(0);
        drop(known);
        self.losses.fetch_add(1, Ordering::AcqRel);
        self.lost.notify_waiters();
        tracing::warn!(servers = self.servers, "nats: connection lost; answering 503 until one is back");
    }

    /// Remembers what keeps the client from a server; logs it once a change.
    pub(super) fn complain(&self, cause: &str) {
        let mut known = self.known.lock();
        let same = known.cause.as_deref() == Some(cause);
        let news = !same || known.complained.is_none_or(|at| at.elapsed() > LOG_AGAIN);
        known.cause = Some(cause.into());
        if news {
            known.complained = Some(Instant::now());
        }
        drop(known);
        if news {
            let cause = format!("{cause}{}", advice(cause));
            tracing::warn!(cause, servers = self.servers, "nats: trouble with a server");
        }
    }

    /// The stream does not take every event.
    pub(super) fn unfit(&self, reasons: &[String]) {
        self.known.lock().unfit = Some(reasons.join("; ").into());
    }

    /// What is waited for before the bus is ready, where that is known.
    pub(super) fn not_ready_reason(&self, connection: State) -> Option<Arc<str>> {
        self.down(connection).or_else(|| self.known.lock().unfit.clone())
    }

    /// The stream takes every event, or nobody asked.
    pub(super) fn fit(&self) {
        let mut known = self.known.lock();
        known.fit = true;
        Self::settle_readiness(&mut known);
    }

    fn settle_readiness(known: &mut Known) {
        if known.contact && known.fit && !known.ready {
            known.ready = true;
            tracing::info!("nats: ready to publish");
        }
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

    /// Wakes the monitor.
    pub(super) fn nudge(&self) {
        self.nudged.notify_one();
    }

    /// Waits for a nudge, at most so long.
    pub(super) async fn sleep(&self, at_most: Duration) {
        // Nobody nudged in time.
        let _ = tokio::time::timeout(at_most, self.nudged.notified()).await;
    }
}

/// What to do about a cause, where the client's own words do not say it.
pub(super) fn advice(cause: &str) -> &'static str {
    let cause = cause.to_ascii_lowercase();
    if cause.contains("authorization violation") || cause.contains("authentication") {
        ": check nats.creds_file, nats.nkey_file, nats.token or nats.username and nats.password"
    } else if cause.contains("corrupt message") {
        ": what answers there seems to speak no TLS: check nats.servers, and tls in the server's configuration"
    } else if cause.contains("tls") || cause.contains("certificate") {
        ": check nats.ca_file, nats.cert_file and nats.key_file, and the server's certificate"
    } else if cause.contains("connection refused") {
        ": check the address in nats.servers, and that the server runs"
    } else if cause.contains("dns error") {
        ": check the names in nats.servers"
    } else if cause.contains("timed out") || cause.contains("no answer") {
        ": check the address in nats.servers, and the firewalls on the way"
    } else {
        ""
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
    fn up_needs_contact_and_a_stream_that_fits() {
        let (health, metrics) = health();
        health.fit();
        assert_eq!(health.state(State::Pending), BusState::Starting);
        health.event(&Event::Connected);
        assert_eq!((health.state(State::Connected), metrics.up.get()), (BusState::Up, 1));
    }

    #[test]
    fn a_server_that_is_away_at_the_start_refuses_at_once_but_is_still_starting() {
        let (health, _) = health();
        assert_eq!(health.down(State::Pending), None, "nobody knows before the first try has failed");
        health.event(&Event::ClientError(ClientError::Other("IO error".into())));
        assert_eq!(health.state(State::Pending), BusState::Starting);
        let told = || health.down(State::Pending).unwrap();
        assert_eq!(&*told(), "no server of nats:4222 can be reached: IO error");
        health.complain("IO error: connection refused");
        health.event(&Event::ClientError(ClientError::Other("IO error".into())));
        assert!(
            told()
                .ends_with("connection refused: check the address in nats.servers, and that the server runs")
        );
    }

    #[test]
    fn what_keeps_a_client_out_is_told_with_what_to_do() {
        let table = [
            ("IO error: Connection refused (os error 111)", "that the server runs"),
            ("DNS error: failed to lookup address information: Name or service not known", "the names in"),
            ("timed out", "firewalls"),
            ("no answer within 6s", "firewalls"),
            ("TLS error: invalid peer certificate: UnknownIssuer", "nats.ca_file"),
        ];
        for (cause, part) in table {
            assert!(advice(cause).starts_with(": check ") && advice(cause).contains(part), "{cause}");
        }
    }

    #[test]
    fn down_and_up_again_once_ready() {
        let (health, metrics) = health();
        health.fit();
        health.event(&Event::Connected);
        health.event(&Event::Disconnected);
        assert_eq!((health.state(State::Disconnected), metrics.up.get()), (BusState::Down, 0));
        assert_eq!(health.losses(), 1);
        health.event(&Event::ServerError(ServerError::AuthorizationViolation));
        let detail = health.down(State::Disconnected).unwrap();
        assert!(detail.contains("authorization violation: check nats.creds_file"), "{detail}");
        health.event(&Event::Connected);
        assert_eq!((health.state(State::Connected), metrics.up.get()), (BusState::Up, 1));
        assert_eq!((health.cause(), health.down(State::Connected)), (None, None));
    }

    #[test]
    fn what_the_client_had_no_room_to_tell_is_made_up_for() {
        let (health, metrics) = health();
        health.fit();
        health.compare(State::Pending, 0);
        assert_eq!((metrics.up.get(), health.losses()), (0, 0), "there was nothing to tell");
        health.compare(State::Connected, 1);
        assert_eq!((health.state(State::Connected), metrics.up.get()), (BusState::Up, 1));
        health.compare(State::Disconnected, 1);
        assert_eq!((metrics.up.get(), health.losses()), (0, 1));
        health.event(&Event::Connected);
        health.compare(State::Connected, 2);
        assert_eq!((metrics.up.get(), health.losses()), (1, 1), "all of this was told");
        health.compare(State::Connected, 3);
        health.compare(State::Connected, 3);
        assert_eq!((metrics.up.get(), health.losses()), (1, 2), "lost and made again between two looks");
        health.event(&Event::Connected);
        health.compare(State::Connected, 3);
        assert_eq!((metrics.up.get(), health.losses()), (1, 2), "what is told late changes nothing");
    }

    #[test]
    fn loss_whose_events_come_after_a_comparison_counts_once() {
        let (health, _) = health();
        health.event(&Event::Connected);
        health.compare(State::Connected, 1);
        // The connection is lost and made again; the events are still in the client's channel.
        health.compare(State::Connected, 2);
        health.event(&Event::Disconnected);
        health.event(&Event::Connected);
        health.compare(State::Connected, 2);
        assert_eq!(health.losses(), 1);
        // The events of the next loss are dropped.
        health.compare(State::Connected, 3);
        health.compare(State::Connected, 3);
        assert_eq!(health.losses(), 2);
    }
}
