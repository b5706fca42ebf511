//! The monitor thread, where calls may block on the broker. While no broker is reached it probes (an idle client
//! would not connect by itself). It reconciles the topics, refreshes the metadata of topics that refused a message, sends single messages again, and
//! replaces the producer after a fatal error. Otherwise it waits for a signal.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;

use super::callbacks::RetrySet;
use super::health::{Health, Signal};
use super::producer::{
    CUT_OFF, FATAL, NEW_LOGIN, Producer, RENEWALS, SingleMessageProducer, UNREACHED, WITHOUT_TOKEN,
};
use super::relogin::{Trial, Trials, Wanted};
use super::topics::{self, TopicReconciler, TopicState};

/// How long one probe waits.
const PROBE: Duration = Duration::from_secs(1);
/// Between two probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// Between two rounds while a connected broker is not confirmed.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(20);
/// Between two rounds while topics are not ready.
const TOPICS_INTERVAL: Duration = Duration::from_secs(1);
/// Between two refreshes of topics that refused a message.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);
/// Between two producers: one without any publish permission fails within half a second.
const REBUILD_INTERVAL: Duration = Duration::from_secs(2);
/// The same after several that failed before their first ack.
const REBUILD_MAX: Duration = Duration::from_secs(16);
/// How long other bridges may take to reconnect to a cluster that has changed: several times the longest backoff.
const SETTLEMENT: Duration = Duration::from_secs(2);
/// How long the brokers of such a cluster may take to tell the ends of all partitions: one of them may never.
const END_OFFSETS: Duration = Duration::from_secs(15);
/// Between two rounds when there is nothing to do.
const IDLE: Duration = Duration::from_secs(5);
/// Between two requests to the broker that was used last, and to those that were used within the same second: often
/// enough that no firewall drops an idle connection, on which the next delivery would wait for a timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long a client that was cut off is waited for until nothing is pending.
const RENEWAL: Duration = Duration::from_secs(3);
/// How long a new client may take to connect and log in.
const CONNECTING: Duration = Duration::from_secs(10);
/// Between two looks at the topics' settings, which anybody may change.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

pub(super) struct Monitor {
    /// That of the client in use.
    config: Arc<ArcSwap<ClientConfig>>,
    wanted: Wanted,
    trials: Trials,
    producer: Arc<ArcSwap<Producer>>,
    health: Arc<Health>,
    single: SingleMessageProducer,
    topics: TopicReconciler,
    topics_ready: bool,
    last_request: Instant,
    /// When the client last reached a broker, or was created.
    last_contact: Instant,
    last_look: Instant,
    /// When the client was cut off last, and since when it is connected again.
    back_since: Option<(Instant, Instant)>,
    /// How long a client may reach no broker.
    patience: Duration,
    last_refresh: Option<Instant>,
    last_rebuild: Option<Instant>,
    rebuild_pause: Duration,
    /// When the resent messages of other bridges have arrived in a cluster that has changed.
    settles_at: Option<Instant>,
}

impl Monitor {
    pub(super) fn new(
        config: Arc<ArcSwap<ClientConfig>>,
        wanted: Wanted,
        producer: Arc<ArcSwap<Producer>>,
        health: Arc<Health>,
        retries: RetrySet,
        topics: TopicReconciler,
    ) -> Self {
        let settings = config.load_full();
        let (single, patience) = (SingleMessageProducer::new(&settings, retries), patience(&settings));
        Self {
            config,
            wanted,
            trials: Trials::default(),
            producer,
            health,
            single,
            topics,
            topics_ready: false,
            last_request: Instant::now(),
            last_contact: Instant::now(),
            last_look: Instant::now(),
            back_since: None,
            patience,
            last_refresh: None,
            last_rebuild: None,
            rebuild_pause: REBUILD_INTERVAL,
            settles_at: None,
        }
    }

    /// Runs until the bus is dropped, then ends the producer. Panics with a polling thread that panicked.
    pub(super) fn run(mut self) {
        let mut next = Duration::ZERO;
        loop {
            let signal = self.health.wait(next);
            if let Some(panic) = self.health.take_panic() {
                resume_unwind(panic);
            }
            match signal {
                Signal::Stop => break,
                signal => next = self.round(signal == Signal::Probe),
            }
        }
        self.shut_down();
    }

    /// Ends the producer on this thread, because dropping it blocks.
    fn shut_down(self) {
        let Self { producer: mut shared, single, health, mut trials, .. } = self;
        trials.end();
        let producer = loop {
            match Arc::try_unwrap(shared) {
                Ok(producer) => break producer.into_inner(),
                // The bus is being dropped, field by field.
                Err(still) => shared = still,
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        producer.retire();
        // After the first one, which may still add to its retry set.
        single.shut_down(&health);
    }

    /// One round; returns how long to wait if no signal comes.
    fn round(&mut self, probe: bool) -> Duration {
        let mut next = IDLE;
        self.single.send_all(&self.health, Instant::now());
        // Not in the condition, where the former producer would be in use while it is replaced.
        let failure = self.producer.load().failure();
        if let Some(cause) = failure {
            next = next.min(self.rebuild(&cause));
        }
        if self.health.is_up() && self.producer.load().get().context().identity.is_unconfirmed() {
            // A client that is up has a new connection. Failures are tried again.
            let _ = self.confirm();
            next = next.min(CONFIRM_INTERVAL);
        }
        if self.single.confirm(PROBE) {
            next = next.min(CONFIRM_INTERVAL);
        }
        if probe || !self.health.is_up() {
            self.probe();
        } else if self.last_request.elapsed() > KEEP_ALIVE {
            self.keep_alive();
        }
        if self.is_renewable() {
            next = next.min(self.rebuild(CUT_OFF));
        }
        if self.has_token_now() {
            next = next.min(self.rebuild(WITHOUT_TOKEN));
        }
        self.wanted.take().into_iter().for_each(|config| self.trials.begin(config));
        if self.trials.are_due() {
            self.try_login();
            next = next.min(PROBE_INTERVAL);
        }
        if !self.health.is_up() {
            if self.last_contact.elapsed() > self.patience {
                next = next.min(self.rebuild(UNREACHED));
            }
            return next.min(PROBE_INTERVAL);
        }
        self.last_contact = Instant::now();
        if !self.producer.load().identify(&self.topics.topics, PROBE) {
            next = next.min(PROBE_INTERVAL);
        }
        if !self.topics_ready {
            next = next.min(self.reconcile_topics());
        }
        if self.health.has_stale_topics() {
            next = next.min(self.refresh_topics());
        }
        next
    }

    fn is_new(&self) -> bool {
        self.last_rebuild.is_some_and(|at| at.elapsed() < CONNECTING)
    }

    /// Whether the client was cut off and is still to be replaced before anything new is published. Not for long:
    /// what was pending is settled soon after the connection is back.
    fn awaits_renewal(&mut self) -> bool {
        let Some(cut_off) = self.producer.load().get().context().identity.cut_off() else { return false };
        let known = self.back_since.filter(|(of, _)| *of == cut_off);
        let (_, since) = *self.back_since.insert(known.unwrap_or_else(|| (cut_off, Instant::now())));
        since.elapsed() < RENEWAL
    }

    /// Whether the client was cut off, is connected again, and has nothing pending.
    fn is_renewable(&self) -> bool {
        let producer = self.producer.load();
        let context = producer.get().context();
        context.identity.cut_off().is_some() && context.identity.is_confirmed() && context.pending() == 0
    }

    /// Takes a new login into use: once it works, or at once where no broker is connected anyway.
    fn try_login(&mut self) {
        if !self.health.is_up() {
            if let Some(config) = self.trials.give_in() {
                self.log_in_by(config);
                self.last_rebuild = None;
                self.rebuild(NEW_LOGIN);
            }
            return;
        }
        let generation = self.health.generation() + 1;
        let current = self.producer.load_full();
        let successor = || current.get().context().successor(generation);
        if let Some(Trial { config, producer, .. }) = self.trials.step(successor, &self.topics.topics) {
            drop(current);
            tracing::info!("kafka: connected with the new login");
            self.log_in_by(config);
            self.replace(producer, generation, NEW_LOGIN);
        }
    }

    fn log_in_by(&mut self, config: ClientConfig) {
        self.single.log_in_by(&config);
        self.config.store(Arc::new(config));
    }

    /// Whether there is a token, and was none when the client asked for one.
    fn has_token_now(&self) -> bool {
        let lacks_token = || self.producer.load().get().context().lacks_token.load(Ordering::Relaxed);
        self.health.tokens.get().is_some_and(|tokens| lacks_token() && tokens.has_token())
    }

    /// Sends a request to any broker, which makes the client connect.
    fn probe(&mut self) {
        let disconnects = self.health.disconnects();
        match self.confirm() {
            Ok(true) if !self.awaits_renewal() && self.set_baseline() => self.health.reached(disconnects),
            Ok(_) => {}
            // While it was up this is new; else the client has reported it. A new client may still be connecting.
            Err(_) if self.health.is_up() && !self.is_new() => self.health.lost(),
            Err(error) => tracing::debug!(%error, "kafka: no broker answers yet"),
        }
    }

    /// Has a new client note the ends of all partitions before it publishes: another bridge may have the same
    /// producer id from a cluster that is gone, and what it resends may be there. After the cluster has changed under
    /// this bridge, first waits until the others have reconnected and resent. False if it is too early.
    fn set_baseline(&self) -> bool {
        let (producer, settles_at) = (self.producer.load(), self.settles_at);
        let context = producer.get().context();
        if settles_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        if !context.identity.has_baseline() {
            let (offsets, complete) = topics::end_offsets(producer.get().client(), &self.topics.topics);
            if !complete && settles_at.is_some_and(|at| at.elapsed() < END_OFFSETS) {
                return false;
            }
            context.set_baseline(offsets);
        }
        true
    }

    /// A timeout here is only logged: the connection is still up. The client compares the ids of the topics that it
    /// asks for.
    fn keep_alive(&mut self) {
        let confirmed = self.confirm().and_then(|_| {
            let (producer, deadline) = (self.producer.load(), Instant::now() + topics::ROUND);
            for topic in producer.get().context().identity.topics() {
                let left = deadline.saturating_duration_since(Instant::now());
                producer.get().client().fetch_metadata(Some(&topic), left)?;
            }
            Ok(())
        });
        if let Err(error) = confirmed {
            tracing::debug!(%error, "kafka: a broker is slow to answer");
        }
        if self.last_look.elapsed() > LOOK_INTERVAL {
            self.last_look = Instant::now();
            self.health.look_at_settings();
        }
    }

    fn confirm(&mut self) -> Result<bool, KafkaError> {
        self.last_request = Instant::now();
        self.producer.load().confirm(PROBE)
    }

    fn reconcile_topics(&mut self) -> Duration {
        let producer = self.producer.load();
        let ready = self.topics.round(producer.get().client(), &self.config.load());
        self.health.set_topics_problem(self.topics.problem());
        if let Err(error) = &ready {
            tracing::debug!(%error, "kafka: cannot fetch the topics' metadata");
        }
        self.topics_ready = ready.unwrap_or(false);
        if !self.topics_ready {
            return TOPICS_INTERVAL;
        }
        self.health.topics_ready();
        IDLE
    }

    /// Fetches the metadata of topics that refused a message: the client caches a refusal until then.
    fn refresh_topics(&mut self) -> Duration {
        if let Some(at) = self.last_refresh
            && at.elapsed() < REFRESH_INTERVAL
        {
            return REFRESH_INTERVAL.saturating_sub(at.elapsed());
        }
        let deadline = Instant::now() + topics::ROUND;
        for topic in self.health.take_stale_topics() {
            let left = deadline.saturating_duration_since(Instant::now());
            let state = topics::fetch(self.producer.load().get().client(), &topic, left);
            if !matches!(state, Ok(TopicState::Ready)) {
                self.health.still_stale(topic);
            }
        }
        self.last_refresh = Some(Instant::now());
        if self.health.has_stale_topics() { TOPICS_INTERVAL } else { IDLE }
    }

    /// Replaces a producer that is dead or whose acks do not count; returns how long to wait if it is too early.
    fn rebuild(&mut self, cause: &str) -> Duration {
        if let Some(at) = self.last_rebuild
            && at.elapsed() < self.rebuild_pause
        {
            return self.rebuild_pause.saturating_sub(at.elapsed());
        }
        let has_acked = self.producer.load().get().context().has_acked.load(Ordering::Relaxed);
        self.rebuild_pause =
            if has_acked { REBUILD_INTERVAL } else { self.rebuild_pause * 2 }.min(REBUILD_MAX);
        self.last_rebuild = Some(Instant::now());
        self.last_contact = Instant::now();
        self.back_since = None;
        // A client that is tried would have the same generation.
        self.trials.end();
        let generation = self.health.generation() + 1;
        let context = self.producer.load().get().context().successor(generation);
        let fresh = match Producer::new(&self.config.load(), context) {
            Ok(producer) => producer,
            Err(error) => {
                tracing::error!(%error, "kafka: cannot replace the producer; trying again");
                return self.rebuild_pause;
            }
        };
        let renewed = RENEWALS.contains(&cause);
        if renewed {
            tracing::debug!(cause, "kafka: the producer is replaced");
        } else if let Some(repeated) = self.health.repeats.pass("replaced") {
            // The diagnosis may know more about a fatal error.
            let known = self.health.cause().filter(|_| cause.starts_with(FATAL));
            let cause = known.as_deref().unwrap_or(cause);
            tracing::error!(cause, repeated, "kafka: the producer is replaced");
        }
        if self.producer.load().get().context().identity.invalid().is_some_and(|invalid| invalid.changed) {
            // Nothing is known about another cluster.
            self.settles_at = Some(Instant::now() + SETTLEMENT);
            self.topics.restart();
            self.topics_ready = false;
        }
        self.replace(Arc::new(fresh), generation, cause);
        IDLE
    }

    /// Has another client take over.
    fn replace(&mut self, fresh: Arc<Producer>, generation: u64, cause: &str) {
        self.health.rebuilt(generation, RENEWALS.contains(&cause));
        let former = self.producer.swap(fresh);
        if [CUT_OFF, NEW_LOGIN].contains(&cause) {
            // A message may have come meanwhile.
            former.flush(PROBE);
        }
        former.retire();
        // It knows the same cluster as the former producer, so it is replaced too.
        self.single.replace();
        // A new producer is not connected; a probe makes it connect and get its producer id.
        self.probe();
    }
}

/// How long a client may reach no broker before it is replaced: every message that it had has failed by then.
fn patience(config: &ClientConfig) -> Duration {
    let messages = config.get("message.timeout.ms").and_then(|text| text.parse().ok());
    messages.map_or(Duration::from_secs(300), Duration::from_millis) + Duration::from_secs(5)
}
