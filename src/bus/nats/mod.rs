//! NATS JetStream: every message with its id, every ack waited for.
//!
//! [`Nats::publish`] hands a message to the client's own bounded queue and returns; the one task that
//! hears the acks settles the tickets ([`acks`]). Whether there is a server is the client's own
//! word ([`health`]); whether a stream takes the events is looked at by [`monitor`].

mod acks;
mod auth;
mod connect;
mod health;
mod inspect;
mod look;
mod monitor;
pub mod options;
mod pending;
mod permission;
mod read;
mod record;
mod refusals;
mod stream;
mod verdict;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use async_nats::Client;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

pub use connect::check;
pub use inspect::inspect;
pub use options::Options;
pub(super) use read::read;
pub(super) use record::encode;
pub(super) use stream::wanted as wanted_stream;

use super::error::StartError;
use crate::cloudevent::ContentMode;
use crate::metrics::BusMetrics;
use crate::pipeline::publish::{BoxFuture, Bus, BusState, Destination, Message, PublishError, PublishHandle};
use crate::supervise::Supervisor;
use acks::Acks;
use health::Health;
use look::Look;
use monitor::Monitor;
use pending::Pending;

/// The NATS bus.
pub struct Nats {
    acks: Arc<Acks>,
    link: Arc<Link>,
    content_mode: ContentMode,
    tasks: [AbortHandle; 4],
}

/// The client, and what is known beside it.
struct Link {
    client: Client,
    health: Arc<Health>,
    stream: Arc<str>,
}

impl Nats {
    /// Makes the client and begins to look for a server, on the runtime it is called in.
    /// `destinations` are all that events can go to. Fails only for options that no client can be
    /// made of, never for want of a server.
    pub fn start(
        options: Options,
        destinations: Vec<Arc<Destination>>,
        content_mode: ContentMode,
        metrics: BusMetrics,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, StartError> {
        Handle::try_current()
            .map_err(|error| StartError::Client { bus: "nats", reason: error.to_string() })?;
        let health = Arc::new(Health::new(connect::names(&options)?, metrics));
        let client = at_once(connect::connect(&options, &health))
            .expect("a client that retries its first connect is there at once")?;
        let stream = Arc::from(options.stream.name.as_str());
        let link = Arc::new(Link { client: client.clone(), health: Arc::clone(&health), stream });
        let (acks, replies) = at_once(Acks::new(Arc::clone(&link), options.publish_timeout))
            .expect("the queue of a new client has room")
            .map_err(|error| StartError::Client { bus: "nats", reason: error.to_string() })?;
        let look = Look::new(client.clone(), options.stream, destinations, Arc::clone(&health.refusals));
        let monitor = Monitor::new(look, Arc::clone(&health));
        let tasks = [
            supervisor.spawn("nats acks", Arc::clone(&acks).hear(replies)),
            supervisor.spawn("nats ack timeouts", Arc::clone(&acks).end()),
            supervisor.spawn("nats monitor", monitor.run()),
            supervisor.spawn("nats health", health.keep_true(client)),
        ];
        Ok(Arc::new(Self { acks, link, content_mode, tasks }))
    }
}

impl Bus for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn publish(&self, message: Message, handle: PublishHandle) {
        let Link { client, health, stream } = &*self.link;
        if let Some(detail) = health.down(client.connection_state()) {
            return handle.settle(Err(PublishError::Unavailable { detail }));
        }
        let layout = match record::layout(&message, self.content_mode, stream) {
            Ok(layout) => layout,
            Err(error) => {
                return handle.settle(Err(PublishError::Rejected { detail: error.to_string().into() }));
            }
        };
        self.acks.send(Pending::new(handle, message.destination, &self.link), layout);
    }

    fn state(&self) -> BusState {
        self.link.health.state(self.link.client.connection_state())
    }

    fn not_ready_reason(&self) -> Option<Arc<str>> {
        self.link.health.not_ready_reason(self.link.client.connection_state())
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, u64> {
        let deadline = Instant::now() + within;
        let health = &self.link.health;
        Box::pin(async move {
            while health.pending() > 0 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            health.pending()
        })
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What a future gives without waiting; none where it would wait.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    // Else tokio may make it wait for no reason but fairness.
    let future = pin!(tokio::task::unconstrained(future));
    match future.poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests;
