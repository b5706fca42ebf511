//! Watches the client from a thread of its own, where calls may wait for the broker.
//!
//! It keeps asking for a broker while none is reached (an idle client would not connect by itself),
//! looks after the topics, refreshes the client's view of topics that refused a message, and builds
//! the client anew after a fatal error. It sleeps until it is nudged where none of that is to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::KafkaError;
use rdkafka::producer::{Producer, PurgeConfig, ThreadedProducer};

use super::alone::{Alone, Suspects};
use super::context::Context;
use super::health::{Health, Nudge};
use super::topics::{self, Found, Keeper, NO_TOPIC};
use super::trouble::Looker;

/// The client, with this adapter's callbacks.
pub(super) type Client = ThreadedProducer<Context>;

/// How long one try to reach a broker waits.
const PROBE: Duration = Duration::from_secs(1);

/// Between two tries.
const PROBE_AGAIN: Duration = Duration::from_millis(100);

/// Between two looks at topics that are missing.
const TOPICS_AGAIN: Duration = Duration::from_secs(1);

/// Between two refreshes of topics that refused a message.
const REFRESH_AGAIN: Duration = Duration::from_millis(250);

/// Between two clients: one that may not publish at all dies within half a second of its birth.
const REBUILD_AGAIN: Duration = Duration::from_secs(2);

/// When nothing is to do and nobody nudges.
const IDLE: Duration = Duration::from_secs(5);

/// Between two questions to a broker that is reached: often enough that nothing on the way closes
/// the connection as idle, which would look like a loss.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long a client that is replaced may take to give its messages back.
const RETIREMENT: Duration = Duration::from_secs(5);

/// Makes one client.
pub(super) fn build(
    config: &ClientConfig,
    health: &Arc<Health>,
    generation: u64,
    suspects: &Suspects,
) -> Result<Client, KafkaError> {
    Client::from_config_and_context(config, Context::new(health.clone(), generation, suspects.clone()))
}

/// Makes the client that sends single messages.
pub(super) fn build_alone(config: &ClientConfig, health: &Arc<Health>) -> Result<Client, KafkaError> {
    Client::from_config_and_context(config, Context::alone(health.clone()))
}

/// Watches the client.
pub(super) struct Monitor {
    pub config: ClientConfig,
    pub client: Arc<ArcSwap<Client>>,
    pub health: Arc<Health>,
    pub looker: Looker,
    /// What was refused in company.
    pub suspects: Suspects,
    /// Sends it again, each message alone.
    pub alone: Alone,
    /// Gone once every topic is there.
    pub keeper: Option<Keeper>,
    /// When a broker was last asked.
    pub asked: Instant,
    pub refreshed: Option<Instant>,
    pub rebuilt: Option<Instant>,
}

impl Monitor {
    /// Runs until the bus is gone, then ends the client.
    pub(super) fn run(mut self) {
        let mut next = Duration::ZERO;
        loop {
            match self.health.sleep(next) {
                Nudge::Stop => break,
                nudge => next = self.round(nudge == Nudge::Doubt),
            }
        }
        self.end();
    }

    /// Ends the client here, because dropping it waits for its thread.
    fn end(self) {
        let Self { client: mut shared, alone, health, .. } = self;
        let client = loop {
            match Arc::try_unwrap(shared) {
                Ok(client) => break client.into_inner(),
                // The bus is being dropped, field by field.
                Err(still) => shared = still,
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        retire(client);
        // After the first client, which may still hand it something.
        alone.end(&health);
    }

    /// One look at everything; then how long to sleep if nobody nudges.
    fn round(&mut self, doubt: bool) -> Duration {
        let mut next = IDLE;
        self.alone.send(&self.health, Instant::now());
        if self.client.load().client().fatal_error().is_some() {
            next = next.min(self.rebuild());
        }
        if doubt || !self.health.is_reached() {
            self.probe();
        } else if self.asked.elapsed() > KEEP_ALIVE {
            self.keep_alive();
        }
        if !self.health.is_reached() {
            self.explain();
            return next.min(PROBE_AGAIN);
        }
        if self.keeper.is_some() {
            next = next.min(self.keep_topics());
        }
        if self.health.has_suspects() {
            next = next.min(self.refresh());
        }
        next
    }

    /// Asks any broker for anything, which also makes the client connect.
    fn probe(&mut self) {
        let losses = self.health.losses();
        match self.ask() {
            Ok(()) => self.health.reached(losses),
            // Only news where the broker counted as reached; else the client has told already.
            Err(_) if self.health.is_reached() => self.health.lost(),
            Err(error) => tracing::debug!(%error, "kafka: no broker answers yet"),
        }
    }

    /// Where the client has too few words for what keeps it away, looks for more.
    fn explain(&self) {
        if let Some(puzzle) = self.health.puzzle() {
            let found = self.looker.explain(puzzle.server.as_deref());
            self.health.explain(puzzle, found.map(|(_, why)| why));
        }
    }

    /// A broker that is slow to answer this is still connected: nothing follows from it.
    fn keep_alive(&mut self) {
        if let Err(error) = self.ask() {
            tracing::debug!(%error, "kafka: a broker is slow to answer");
        }
    }

    fn ask(&mut self) -> Result<(), KafkaError> {
        self.asked = Instant::now();
        self.client.load().client().fetch_metadata(Some(NO_TOPIC), PROBE).map(drop)
    }

    fn keep_topics(&mut self) -> Duration {
        let Some(keeper) = &mut self.keeper else { return IDLE };
        let client = self.client.load();
        let there = if keeper.is_off() { Ok(true) } else { keeper.round(client.client(), &self.config) };
        self.health.topics_lack(keeper.trouble());
        match there {
            Ok(true) => {
                self.health.topics_there();
                self.keeper = None;
                IDLE
            }
            Ok(false) => TOPICS_AGAIN,
            Err(error) => {
                tracing::debug!(%error, "kafka: cannot ask about the topics");
                TOPICS_AGAIN
            }
        }
    }

    /// Looks again at topics that refused a message: the client keeps a refusal until it hears anew.
    fn refresh(&mut self) -> Duration {
        if let Some(at) = self.refreshed
            && at.elapsed() < REFRESH_AGAIN
        {
            return REFRESH_AGAIN.saturating_sub(at.elapsed());
        }
        let deadline = Instant::now() + topics::ROUND;
        for topic in self.health.take_suspects() {
            let left = deadline.saturating_duration_since(Instant::now());
            let found = topics::look(self.client.load().client(), &topic, left);
            if !matches!(found, Ok(Found::There)) {
                self.health.keep_suspect(topic);
            }
        }
        self.refreshed = Some(Instant::now());
        if self.health.has_suspects() { TOPICS_AGAIN } else { IDLE }
    }

    /// Replaces a client that is dead; then how long to wait for the next try, if it is too early.
    fn rebuild(&mut self) -> Duration {
        if let Some(at) = self.rebuilt
            && at.elapsed() < REBUILD_AGAIN
        {
            return REBUILD_AGAIN.saturating_sub(at.elapsed());
        }
        self.rebuilt = Some(Instant::now());
        let generation = self.health.generation() + 1;
        let fresh = match build(&self.config, &self.health, generation, &self.suspects) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "kafka: cannot build the client anew; trying again");
                return REBUILD_AGAIN;
            }
        };
        let fatal = self.client.load().client().fatal_error();
        let cause = fatal.map(|(_, text)| text).unwrap_or_default();
        tracing::error!(cause, "kafka: fatal error of the client: built anew");
        self.health.rebuilt(generation);
        retire(self.client.swap(Arc::new(fresh)));
        // The new client has made no contact; asking makes it connect and get its producer id.
        self.probe();
        IDLE
    }
}

/// Ends a client: every message it has gets its verdict, and its threads are gone.
pub(super) fn retire(client: Arc<Client>) {
    client.purge(PurgeConfig::default().queue().inflight());
    let deadline = Instant::now() + RETIREMENT;
    // A publish that is under way may still hold it for a moment; it must not be the last to,
    // because dropping a client waits for its thread.
    let in_use =
        |client: &Arc<Client>| Arc::strong_count(client) > 1 || client.client().context().pending() > 0;
    while in_use(&client) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let left = client.client().context().pending();
    if left > 0 {
        tracing::error!(left, "kafka: a client that was replaced keeps messages without a verdict");
    }
    drop(client);
}
