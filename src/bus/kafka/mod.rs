//! Kafka: one long-lived idempotent producer, acks from all in-sync replicas.
//!
//! [`Kafka::publish`] enqueues a [`record`] with the [`producer`] and returns; the client's
//! [`callbacks`] settle the handle when the ack is in. The [`monitor`] thread reconnects, reconciles
//! [`topics`] and replaces a dead producer; [`health`] is what they know of the cluster.
//! Beside it: [`mod@read`], [`mod@inspect`] and [`diagnose`], which the publishing part does not use.

mod callbacks;
mod diagnose;
mod end_offsets;
mod errors;
mod health;
mod cluster_identity;
mod inspect;
mod monitor;
pub mod options;
mod producer;
mod read;
mod record;
mod relogin;
mod repeats;
pub mod state;
mod tokens;
mod told;
mod topics;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rdkafka::producer::{BaseRecord, Producer as _};

pub use inspect::inspect;
pub use options::{Options, check};
pub(super) use read::read;
pub(super) use record::encode;
pub(super) use topics::{compacted_settings as compacted_topic_settings, settings as topic_settings};

use crate::bus::error::StartError;
use crate::bus::inspect::Requirements;
use crate::cloudevent::ContentMode;
use crate::metrics::BusMetrics;
use crate::pipeline::publish::{
    BoxFuture, BrokerIdentity, Bus, BusState, Message, PublishError, PublishHandle,
};
use crate::supervise::Supervisor;
use callbacks::{Callbacks, RetrySet};
use diagnose::Probe;
use health::{Health, Signal};
use monitor::Monitor;
use producer::Producer;
use record::Pending;
use relogin::{Login, Wanted};
use tokens::Tokens;
use topics::TopicReconciler;

/// The Kafka bus.
pub struct Kafka {
    login: Mutex<Login>,
    wanted: Wanted,
    producer: Arc<ArcSwap<Producer>>,
    health: Arc<Health>,
    content_mode: ContentMode,
}

impl Kafka {
    /// Creates the producer and begins to connect. Fails only for settings that no client can be created
    /// from, never for an unreachable broker.
    pub fn start(
        options: Options,
        requirements: &Requirements,
        content_mode: ContentMode,
        metrics: BusMetrics,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, StartError> {
        let probe = Probe::new(&options);
        let explain = move |server: Option<&str>| probe.explain(server).map(|(_, reason)| reason);
        Self::start_with(options, requirements, content_mode, metrics, supervisor, explain)
    }

    /// The same; `explain` diagnoses a listener.
    fn start_with(
        options: Options,
        requirements: &Requirements,
        content_mode: ContentMode,
        metrics: BusMetrics,
        supervisor: &Supervisor,
        explain: impl Fn(Option<&str>) -> Option<String> + Send + 'static,
    ) -> Result<Arc<Self>, StartError> {
        let config = options::producer_config(&options, requirements)?;
        let spawn = |thread: &'static str, work: Box<dyn FnOnce() + Send>| {
            let spawned = supervisor.spawn_thread(thread, work).map(drop);
            spawned.map_err(|source| StartError::Thread { thread, source })
        };
        let (health, tasks) = Health::new(options.bootstrap_servers.clone(), metrics);
        if let Some(source) = options.oauth.clone() {
            let thread = tokens::THREAD;
            let tokens = Tokens::start(source, |work| supervisor.spawn_thread(thread, work).map(drop));
            let tokens = tokens.map_err(|source| StartError::Thread { thread, source })?;
            // It is new, so there are none yet.
            let _ = health.tokens.set(tokens);
        }
        let retries = RetrySet::default();
        let producer = Producer::new(&config, Callbacks::new(Arc::clone(&health), 0, Some(retries.clone())))
            .map_err(|error| options::creation_error(&options, &config, error))?;
        let producer = Arc::new(ArcSwap::from_pointee(producer));
        let topics = TopicReconciler::new(requirements.addresses.clone(), options.topics.clone());
        let config = Arc::new(ArcSwap::from_pointee(config));
        let risks = {
            let (config, requirements) = (Arc::clone(&config), requirements.clone());
            move || inspect::find_risks(&config.load(), &requirements)
        };
        let (wanted, login) = (Wanted::default(), Login::new(options, requirements.clone()));
        let (shared, known) = (Arc::clone(&producer), Arc::clone(&health));
        let monitor = Monitor::new(config, wanted.clone(), shared, known, retries, topics);
        let diagnosed = Arc::clone(&health);
        // Dropped on an error, it ends what has been started.
        let login = Mutex::new(login);
        let bus = Arc::new(Self { login, wanted, producer, health, content_mode });
        spawn("kafka-monitor", Box::new(move || monitor.run()))?;
        let diagnosis = move || diagnose::run(&tasks, &diagnosed, explain, risks);
        spawn("kafka-diagnosis", Box::new(diagnosis))?;
        Ok(bus)
    }
}

impl Kafka {
    /// Logs in with the credentials and files of other options, if they are others than before.
    pub fn renew(&self, other: &Options) {
        let mut login = self.login.lock();
        match login.renew(other) {
            Ok(None) => {}
            Ok(Some(config)) => {
                self.wanted.set(config);
                self.health.signal(Signal::Check);
            }
            Err(error) => tracing::error!(%error, "kafka: the new login is unusable; the former one stays"),
        }
        if let (Some(tokens), Some(source)) = (self.health.tokens.get(), login.options().oauth.clone()) {
            tokens.renew(source);
        }
    }
}

impl Bus for Kafka {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn publish(&self, message: Message, handle: PublishHandle) {
        if let Some(detail) = self.health.down() {
            return handle.settle(Err(PublishError::Unavailable { detail }));
        }
        let encoded = record::record(&message, self.content_mode);
        let topic = message.destination.address.clone();
        let pending = Box::new(Pending { handle, destination: message.destination.clone() });
        let mut record = BaseRecord::<str, [u8], _>::with_opaque_to(&topic, pending)
            .payload(encoded.value.as_ref())
            .headers(encoded.headers);
        record.key = encoded.key;
        let producer = self.producer.load();
        let producer = producer.get();
        producer.context().enqueued();
        if let Err((error, record)) = producer.send(record) {
            producer.context().failed(*record.delivery_opaque, error.rdkafka_error_code());
        }
    }

    fn state(&self) -> BusState {
        self.health.bus_state()
    }

    fn not_ready_reason(&self) -> Option<Arc<str>> {
        self.health.not_ready_reason()
    }

    fn warning(&self) -> Option<Arc<str>> {
        self.health.warning()
    }

    fn identity(&self) -> Option<Arc<BrokerIdentity>> {
        self.producer.load().get().context().identity.told()
    }

    fn data_losses(&self) -> u64 {
        self.health.data_losses()
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, u64> {
        let deadline = Instant::now() + within;
        let (producer, health) = (self.producer.load_full(), self.health.clone());
        Box::pin(async move {
            let flushed =
                tokio::task::spawn_blocking(move || wait_until_settled(&producer, &health, deadline));
            // The task is cancelled only before it ran, when the runtime shuts down.
            flushed.await.unwrap_or_else(|_| self.health.pending())
        })
    }
}

/// Waits until every message is settled; returns how many are not at the deadline.
fn wait_until_settled(producer: &Producer, health: &Health, deadline: Instant) -> u64 {
    let left = || deadline.saturating_duration_since(Instant::now());
    // Sends what lingers. A timeout shows in the count.
    producer.flush(left());
    // Messages of a producer that was just replaced are not in that queue.
    while health.pending() > 0 && !left().is_zero() {
        std::thread::sleep(Duration::from_millis(5).min(left()));
    }
    health.pending()
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.health.stop();
    }
}

#[cfg(test)]
mod tests;
