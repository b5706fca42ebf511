//! The monitor thread, where calls may block on the broker.
//!
//! While no broker is reached it probes (an idle client would not connect by itself). It reconciles the
//! topics, refreshes the metadata of topics that refused a message, sends single messages again, and
//! replaces the producer after a fatal error. Otherwise it waits for a signal.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;

use super::context::{Context, RetrySet};
use super::health::{Health, Signal};
use super::producer::{Producer, SingleMessageProducer};
use super::topics::{self, TopicReconciler, TopicState};

/// How long one probe waits.
const PROBE: Duration = Duration::from_secs(1);

/// Between two probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// Between two rounds while topics are not ready.
const TOPICS_INTERVAL: Duration = Duration::from_secs(1);

/// Between two refreshes of topics that refused a message.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);

/// Between two producers: one without any publish permission fails within half a second.
const REBUILD_INTERVAL: Duration = Duration::from_secs(2);

/// Between two rounds when there is nothing to do.
const IDLE: Duration = Duration::from_secs(5);

/// Between two requests to a broker that is reached: often enough that nothing in the network closes
/// the connection as idle, which would count as a lost connection.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The monitor.
pub(super) struct Monitor {
    config: ClientConfig,
    producer: Arc<ArcSwap<Producer>>,
    health: Arc<Health>,
    retries: RetrySet,
    single: SingleMessageProducer,
    /// None once every topic exists.
    topics: Option<TopicReconciler>,
    last_request: Instant,
    last_refresh: Option<Instant>,
    last_rebuild: Option<Instant>,
}

impl Monitor {
    pub(super) fn new(
        config: ClientConfig,
        producer: Arc<ArcSwap<Producer>>,
        health: Arc<Health>,
        retries: RetrySet,
        topics: TopicReconciler,
    ) -> Self {
        let single = SingleMessageProducer::new(&config, retries.clone());
        Self {
            config,
            producer,
            health,
            retries,
            single,
            topics: Some(topics),
            last_request: Instant::now(),
            last_refresh: None,
            last_rebuild: None,
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
        self.end();
    }

    /// Ends the producer on this thread, because dropping it blocks.
    fn end(self) {
        let Self { producer: mut shared, single, health, .. } = self;
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
        single.end(&health);
    }

    /// One round; returns how long to wait if no signal comes.
    fn round(&mut self, probe: bool) -> Duration {
        let mut next = IDLE;
        self.single.send_all(&self.health, Instant::now());
        if self.producer.load().get().client().fatal_error().is_some() {
            next = next.min(self.rebuild());
        }
        if probe || !self.health.is_up() {
            self.probe();
        } else if self.last_request.elapsed() > KEEP_ALIVE {
            self.keep_alive();
        }
        if !self.health.is_up() {
            return next.min(PROBE_INTERVAL);
        }
        if self.topics.is_some() {
            next = next.min(self.reconcile_topics());
        }
        if self.health.has_stale_topics() {
            next = next.min(self.refresh_topics());
        }
        next
    }

    /// Sends a request to any broker, which makes the client connect.
    fn probe(&mut self) {
        let losses = self.health.losses();
        match self.request() {
            Ok(()) => self.health.reached(losses),
            // While it was up this is new; else the client has reported it.
            Err(_) if self.health.is_up() => self.health.lost(),
            Err(error) => tracing::debug!(%error, "kafka: no broker answers yet"),
        }
    }

    /// A broker that answers this slowly is still connected.
    fn keep_alive(&mut self) {
        if let Err(error) = self.request() {
            tracing::debug!(%error, "kafka: a broker is slow to answer");
        }
    }

    fn request(&mut self) -> Result<(), KafkaError> {
        self.last_request = Instant::now();
        self.producer.load().get().client().fetch_metadata(Some(topics::NO_TOPIC), PROBE).map(drop)
    }

    fn reconcile_topics(&mut self) -> Duration {
        let Some(topics) = &mut self.topics else { return IDLE };
        let producer = self.producer.load();
        let ready = topics.round(producer.get().client(), &self.config);
        self.health.set_topics_problem(topics.problem());
        match ready {
            Ok(true) => {
                self.health.topics_ready();
                self.topics = None;
                IDLE
            }
            Ok(false) => TOPICS_INTERVAL,
            Err(error) => {
                tracing::debug!(%error, "kafka: cannot fetch the topics' metadata");
                TOPICS_INTERVAL
            }
        }
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

    /// Replaces a dead producer; returns how long to wait if it is too early for that.
    fn rebuild(&mut self) -> Duration {
        if let Some(at) = self.last_rebuild
            && at.elapsed() < REBUILD_INTERVAL
        {
            return REBUILD_INTERVAL.saturating_sub(at.elapsed());
        }
        self.last_rebuild = Some(Instant::now());
        let generation = self.health.generation() + 1;
        let context = Context::new(Arc::clone(&self.health), generation, self.retries.clone());
        let fresh = match Producer::new(&self.config, context) {
            Ok(producer) => producer,
            Err(error) => {
                tracing::error!(%error, "kafka: cannot replace the dead producer; trying again");
                return REBUILD_INTERVAL;
            }
        };
        let fatal = self.producer.load().get().client().fatal_error();
        let cause = fatal.map(|(_, text)| text).unwrap_or_default();
        tracing::error!(cause, "kafka: fatal error: the producer is replaced");
        self.health.rebuilt(generation);
        self.producer.swap(Arc::new(fresh)).retire();
        // The new producer is not connected; a probe makes it connect and get its producer id.
        self.probe();
        IDLE
    }
}
