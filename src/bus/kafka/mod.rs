//! Kafka: one long-lived idempotent producer, acks from all in-sync replicas.
//!
//! [`Kafka::publish`] hands a message to the client and returns. The client's polling thread settles
//! the handle ([`context`]); what keeps the client fit runs on a thread of its own ([`monitor`]).

mod alone;
mod client_config;
mod complaints;
mod context;
mod health;
mod inspect;
mod monitor;
pub mod options;
pub mod properties;
mod read;
mod record;
mod tls;
mod topics;
mod trouble;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rdkafka::producer::{BaseRecord, Producer};

pub use client_config::check;
pub use inspect::inspect;
pub use options::Options;
pub(super) use read::read;
pub(super) use record::encode;
pub(super) use topics::settings as topic_settings;

use super::error::StartError;
use crate::cloudevent::ContentMode;
use crate::metrics::BusMetrics;
use crate::pipeline::publish::{BoxFuture, Bus, BusState, Message, PublishError, PublishHandle};
use crate::supervise::Supervisor;
use alone::{Alone, Suspects};
use context::Pending;
use health::{Health, Nudge};
use monitor::{Client, Monitor};
use topics::Keeper;
use trouble::Looker;

/// The Kafka bus.
pub struct Kafka {
    client: Arc<ArcSwap<Client>>,
    health: Arc<Health>,
    content_mode: ContentMode,
}

impl Kafka {
    /// Makes the client and begins to look for a broker. `topics` are all addresses that events can
    /// go to. Fails only for settings that no client can be made of, never for want of a broker.
    pub fn start(
        options: Options,
        topics: Vec<Arc<str>>,
        content_mode: ContentMode,
        metrics: BusMetrics,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, StartError> {
        let config = client_config::client_config(&options)?;
        let looker = Looker::new(&options);
        let health = Arc::new(Health::new(options.bootstrap_servers.clone(), metrics));
        let suspects = Suspects::default();
        let client = monitor::build(&config, &health, 0, &suspects)
            .map_err(|error| client_config::creation_error(&options, &config, error))?;
        let client = Arc::new(ArcSwap::from_pointee(client));
        let monitor = Monitor {
            alone: Alone::new(&config, suspects.clone()),
            suspects,
            config,
            client: client.clone(),
            health: health.clone(),
            looker,
            keeper: Some(Keeper::new(topics, options.topics)),
            asked: Instant::now(),
            refreshed: None,
            rebuilt: None,
        };
        let thread = supervisor.spawn_thread("kafka monitor", move || monitor.run());
        thread.map_err(|source| StartError::Thread { thread: "kafka monitor", source })?;
        Ok(Arc::new(Self { client, health, content_mode }))
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
        let layout = record::layout(&message, self.content_mode);
        let topic = message.destination.address.clone();
        let pending = Box::new(Pending { handle, destination: message.destination.clone() });
        let mut record = BaseRecord::<str, [u8], _>::with_opaque_to(&topic, pending)
            .payload(layout.value.as_ref())
            .headers(layout.headers);
        record.key = layout.key;
        let client = self.client.load();
        let context = client.client().context();
        context.handed_over();
        if let Err((error, record)) = client.send(record) {
            context.settle(*record.delivery_opaque, Err(error.rdkafka_error_code()));
        }
    }

    fn state(&self) -> BusState {
        self.health.state()
    }

    fn not_ready_reason(&self) -> Option<Arc<str>> {
        self.health.not_ready_reason()
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, u64> {
        let deadline = Instant::now() + within;
        let (client, health) = (self.client.load_full(), self.health.clone());
        Box::pin(async move {
            let waiting = tokio::task::spawn_blocking(move || wait_for_all(&client, &health, deadline));
            // The task is only ever cancelled before it ran, when the runtime is going down.
            waiting.await.unwrap_or_else(|_| self.health.pending())
        })
    }
}

/// Waits for every verdict; then the number of those still missing.
fn wait_for_all(client: &Client, health: &Health, deadline: Instant) -> u64 {
    let left = || deadline.saturating_duration_since(Instant::now());
    // Sends what lingers. That time ran out is told by the count.
    let _ = client.flush(left());
    // Messages of a client that was just replaced are not in that queue.
    while health.pending() > 0 && !left().is_zero() {
        std::thread::sleep(Duration::from_millis(5).min(left()));
    }
    health.pending()
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.health.nudge(Nudge::Stop);
    }
}

#[cfg(test)]
mod tests;
