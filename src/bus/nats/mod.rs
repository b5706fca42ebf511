//! NATS JetStream: every message with its id, and an ack awaited for each.
//!
//! [`Nats::publish`] puts a message into the client's bounded queue and returns; one task receives every ack
//! and settles the handles ([`publish`]). [`permissions`] keeps what the server does not permit. [`health`]
//! tracks the connection, [`monitor`] whether the stream accepts every event. [`mod@read`] and [`mod@inspect`]
//! serve other verbs and share nothing with publishing but [`connect`], [`errors`], [`permissions`], [`probe`]
//! and [`stream`].

mod connect;
mod errors;
mod health;
mod inspect;
mod monitor;
pub mod options;
mod permissions;
mod probe;
mod publish;
mod read;
mod record;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, unconstrained};

pub use connect::check;
pub use inspect::inspect;
pub use options::Options;
pub(super) use read::read;
pub(super) use record::encode;
pub(super) use stream::stream_config;

use super::error::StartError;
use crate::cloudevent::ContentMode;
use crate::metrics::BusMetrics;
use crate::pipeline::publish::{BoxFuture, Bus, BusState, Destination, Message, PublishError, PublishHandle};
use crate::supervise::Supervisor;
use health::Health;
use monitor::Monitor;
use probe::Probe;
use publish::{InFlight, Link, Publisher};

/// The NATS bus.
pub struct Nats {
    publisher: Arc<Publisher>,
    link: Arc<Link>,
    content_mode: ContentMode,
    tasks: [AbortHandle; 5],
}

impl Nats {
    /// Creates the client and starts to connect, on the current runtime. `destinations` are all that events
    /// can go to. An unreachable server is not an error.
    pub fn start(
        options: Options,
        destinations: Vec<Arc<Destination>>,
        content_mode: ContentMode,
        metrics: BusMetrics,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, StartError> {
        let no_client = |reason: String| StartError::Client { bus: "nats", reason };
        Handle::try_current().map_err(|error| no_client(error.to_string()))?;
        let health = Arc::new(Health::new(connect::server_names(&options)?, metrics));
        // Unconstrained: tokio's cooperative budget may otherwise delay a future that is ready.
        let client = unconstrained(connect::connect(&options, &health))
            .now_or_never()
            .expect("a client that retries its first connect is there at once")?;
        let stream = Arc::from(options.stream.name.as_str());
        let link = Arc::new(Link { client: client.clone(), health: Arc::clone(&health), stream });
        let (publisher, acks) =
            unconstrained(Publisher::subscribe(Arc::clone(&link), options.publish_timeout))
                .now_or_never()
                .expect("the queue of a new client is empty")
                .map_err(|error| no_client(error.to_string()))?;
        let probe = || {
            let (stream, violations) = (options.stream.clone(), Arc::clone(&health.violations));
            Probe::new(client.clone(), stream, destinations.clone(), violations)
        };
        let verified = Arc::clone(&publisher).verify(probe(), options.clone());
        let monitor = Monitor::new(probe(), options.clone(), Arc::clone(&health));
        let tasks = [
            supervisor.spawn("nats acks", Arc::clone(&publisher).receive_acks(acks)),
            supervisor.spawn("nats ack timeouts", Arc::clone(&publisher).expire()),
            supervisor.spawn("nats verification", verified),
            supervisor.spawn("nats monitor", monitor.run()),
            supervisor.spawn("nats health", health.reconcile_periodically(client)),
        ];
        Ok(Arc::new(Self { publisher, link, content_mode, tasks }))
    }
}

impl Bus for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn publish(&self, message: Message, handle: PublishHandle) {
        let Link { client, health, stream } = &*self.link;
        if let Err(error) = health.may_publish(client.connection_state()) {
            return handle.settle(Err(error));
        }
        match record::encode_record(&message, self.content_mode, stream) {
            Ok(record) => {
                self.publisher.enqueue(InFlight::new(handle, message.destination, &self.link), record);
            }
            Err(error) => handle.settle(Err(PublishError::Rejected { detail: error.to_string().into() })),
        }
    }

    fn state(&self) -> BusState {
        self.link.health.state(self.link.client.connection_state())
    }

    fn not_ready_reason(&self) -> Option<Arc<str>> {
        self.link.health.not_ready_reason(self.link.client.connection_state())
    }

    fn warning(&self) -> Option<Arc<str>> {
        self.link.health.warning()
    }

    fn data_losses(&self) -> u64 {
        self.link.health.data_losses()
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, u64> {
        let deadline = Instant::now() + within;
        let health = &self.link.health;
        Box::pin(async move {
            while health.in_flight() > 0 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            health.in_flight()
        })
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
mod tests;
