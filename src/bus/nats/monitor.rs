//! Watching the stream for `serve`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use time::OffsetDateTime;

use super::connect::foreign_peer;
use super::health::{Health, Verdict};
use super::permissions::Violation;
use super::stream::{Findings, Probe, every_subject, some_of};
use super::{Ensure, Options};
use crate::pipeline::publish::BrokerIdentity;

/// How often an invalid stream is probed.
const INVALID_INTERVAL: Duration = Duration::from_secs(1);
/// How often a valid stream is probed without a nudge.
const VALID_INTERVAL: Duration = Duration::from_secs(10);
/// The same where the user may not ask: the server logs every refusal.
const DENIED_INTERVAL: Duration = Duration::from_secs(3600);
/// How often, at most, a second connection tries what this one is not permitted.
const PERMISSION_INTERVAL: Duration = Duration::from_secs(1);
/// After this it is first looked for what listens in place of a server: what is found is told before the client's
/// own error, which knows less.
const FOREIGN_DELAY: Duration = Duration::from_millis(200);
/// How often it is looked for again.
const FOREIGN_INTERVAL: Duration = Duration::from_secs(3);
/// Several nudges within this cause one probe.
const NUDGE_DELAY: Duration = Duration::from_millis(20);

/// Probes the stream periodically, on every new connection, and after messages were refused or timed out. Logs
/// only changes. Never changes a stream that exists.
pub(super) struct Monitor {
    probe: Probe,
    /// For a second connection.
    options: Options,
    health: Arc<Health>,
    logged: Option<[Vec<String>; 3]>,
    /// When the stream that acknowledges was created: another one of its name has another time.
    created: Option<OffsetDateTime>,
    was_invalid: bool,
}

impl Monitor {
    pub(super) fn new(probe: Probe, options: Options, health: Arc<Health>) -> Self {
        Self { probe, options, health, logged: None, created: None, was_invalid: false }
    }

    pub(super) async fn run(mut self) {
        let mut pause = FOREIGN_DELAY;
        loop {
            match self.probe.client.connection_state() {
                State::Connected => {
                    pause = FOREIGN_DELAY;
                    let interval = self.check().await;
                    self.health.nudged(interval).await;
                }
                // A new connection is inspected at once.
                State::Pending | State::Disconnected => tokio::select! {
                    () = self.health.nudged(DENIED_INTERVAL) => {}
                    () = self.find_foreign(pause) => pause = FOREIGN_INTERVAL,
                },
            }
            tokio::time::sleep(NUDGE_DELAY).await;
        }
    }

    async fn find_foreign(&self, pause: Duration) {
        tokio::time::sleep(pause).await;
        if let Some(peer) = foreign_peer(&self.options).await {
            self.health.found_foreign(&peer);
        }
    }

    /// Probes once, and creates a missing stream if configured; returns the time to the next probe.
    async fn check(&mut self) -> Duration {
        let highest = self.health.counters.acknowledged.load(Ordering::Acquire);
        let (losses, ensure) = (self.health.losses(), self.options.stream.ensure);
        if let Some((violation, subjects)) = self.denied() {
            // Acks of the other subjects count only while the stream is what it was.
            let found = match !subjects.is_empty() && ensure != Ensure::Off {
                true => self.probe.probe().await,
                false => Ok(Findings { refuse: subjects.is_empty(), ..Findings::default() }),
            };
            if let Ok(mut found) = found {
                self.recognise(&found, highest);
                found.invalid.insert(0, violation.advice());
                self.report(losses, found);
            }
            self.mend(&subjects).await;
            return INVALID_INTERVAL;
        }
        if ensure == Ensure::Off {
            self.health.identified(Some(self.identity(None)));
            self.health.inspected(losses, Verdict::default());
            return VALID_INTERVAL;
        }
        let mut found = match self.probe.probe().await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(error, "nats: cannot probe the stream");
                self.reconnect_if_deaf().await;
                return INVALID_INTERVAL;
            }
        };
        self.recognise(&found, highest);
        if found.missing && !found.taken && ensure == Ensure::Create {
            found = self.probe.create().await;
            self.recognise(&found, 0);
        }
        let valid = found.invalid.is_empty();
        let was_invalid = std::mem::replace(&mut self.was_invalid, !valid);
        // JetStream of a server that starts is not complete at once.
        if !valid && !was_invalid && self.health.known.lock().ready && !found.refuse {
            return INVALID_INTERVAL;
        }
        let can_ask = found.info.is_some();
        if valid && !can_ask && self.created.is_none() {
            self.health.identified(Some(self.identity(None)));
        }
        self.report(losses, found);
        if !valid {
            return INVALID_INTERVAL;
        }
        self.reconnect_if_deaf().await;
        if can_ask { VALID_INTERVAL } else { DENIED_INTERVAL }
    }

    /// What this connection is not permitted of what serving needs, and which subjects that concerns.
    fn denied(&self) -> Option<(Violation, Vec<Arc<str>>)> {
        if self.probe.violations.no_acks() {
            return Some((Violation::Acks, Vec::new()));
        }
        let subjects = self.probe.violations.of_connection(&every_subject(&self.probe.destinations));
        (!subjects.is_empty()).then(|| (Violation::Publish(some_of(&subjects)), subjects))
    }

    /// Reconnects once a new connection is permitted what this one is not: the server tells a client once what it
    /// may not hear, and reads its credentials once.
    async fn mend(&self, subjects: &[Arc<str>]) {
        let fresh = Probe::connect(&self.options, Vec::new()).await;
        if let Ok(Ok(fresh)) = fresh
            && fresh.is_permitted(subjects).await
        {
            tracing::info!("nats: a new connection is permitted what this one is not: reconnecting");
            return self.reconnect().await;
        }
        tokio::time::sleep(PERMISSION_INTERVAL).await;
    }

    /// Reconnects if several acks in a row did not come though the stream looks well, or does not reply.
    async fn reconnect_if_deaf(&self) {
        if self.health.take_timeouts() {
            let stream = &self.options.stream.name;
            tracing::warn!(stream, "nats: several acks in a row did not come: reconnecting");
            self.reconnect().await;
        }
    }

    async fn reconnect(&self) {
        // A client that has ended is not connected either.
        let _ = self.probe.client.force_reconnect().await;
    }

    /// Notices a stream that does not have what was acknowledged: it was deleted, created anew, or its server's
    /// data was replaced. `highest` is a sequence that was acknowledged before the stream was asked.
    fn recognise(&mut self, found: &Findings, highest: u64) {
        let created = found.info.as_ref().map(|info| info.created);
        let last = found.info.as_ref().map_or(0, |info| info.state.last_sequence);
        if created.is_none() && !found.missing {
            return;
        }
        // Before the loss is counted: what is begun after it belongs to the new stream.
        self.health.identified(created.map(|created| self.identity(Some(created))));
        if self.created.is_some() && (created != self.created || last < highest) {
            let stream = &self.options.stream.name;
            let is_now = match created {
                Some(created) => format!("was created at {created} and ends with message {last}"),
                None => "does not exist".to_owned(),
            };
            tracing::warn!(
                stream,
                "nats: the stream does not have the events that it acknowledged up to message {highest}: it {is_now}; \
                 repeats of them will be published again"
            );
            self.health.data_lost();
        }
        self.created = created;
    }

    /// Without the time of its creation a stream is not told from one of its name that is created anew.
    fn identity(&self, created: Option<OffsetDateTime>) -> BrokerIdentity {
        let created = created.map_or_else(String::new, |created| format!(", created {created}"));
        let brokers = format!("nats {}{created}", self.options.stream.name);
        let addresses = self.probe.destinations.iter().map(|to| (to.address.to_string(), String::new()));
        BrokerIdentity { brokers, addresses: Some(addresses.collect()) }
    }

    fn report(&mut self, losses: u64, found: Findings) {
        let Findings { invalid, refuse, warnings, differences, .. } = found;
        let text = |texts: &[String]| (!texts.is_empty()).then(|| texts.join("; ").into());
        self.health.inspected(losses, Verdict { invalid: text(&invalid), refuse, warning: text(&warnings) });
        let found = [invalid, warnings, differences];
        if self.logged.as_ref() == Some(&found) {
            return;
        }
        let stream = &self.options.stream.name;
        let [invalid, warnings, differences] = &found;
        for reason in invalid {
            tracing::error!(stream, "nats: the stream cannot store events: {reason}");
        }
        for warning in warnings {
            tracing::warn!(stream, "nats: the stream may lose events that it has acknowledged: {warning}");
        }
        if !differences.is_empty() {
            let differences = differences.join("; ");
            tracing::warn!(stream, "nats: the stream differs from the configuration: {differences}");
        }
        if invalid.is_empty() {
            tracing::info!(stream, "nats: the stream accepts every event");
        }
        self.logged = Some(found);
    }
}
