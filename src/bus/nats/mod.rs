//! NATS JetStream: every message with its id, every ack waited for.
//!
//! [`Nats::publish`] hands a message to the client's own bounded queue and returns; a task of this
//! adapter waits for the ack and settles the ticket. Whether there is a server is the client's own
//! word ([`health`]); whether a stream takes the events is looked at by [`monitor`].

mod acks;
mod auth;
mod connect;
mod health;
mod inspect;
mod look;
mod monitor;
pub mod options;
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
use async_nats::connection::State;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

pub use connect::{StartError, check};
pub use inspect::inspect;
pub use options::Options;
pub(super) use read::read;
pub(super) use record::laid;
pub(super) use stream::wanted as wanted_stream;

use crate::cloudevent::ContentMode;
use crate::metrics::BusMetrics;
use crate::pipeline::publish::{
    BoxFuture, Bus, BusState, Destination, Message, PublishError, Receipt, Ticket, Verdict,
};
use acks::{Acks, Failure, Waiting};
use health::Health;
use look::Look;
use monitor::Monitor;
use refusals::Watch;
use verdict::Circumstances;

/// The NATS bus.
pub struct Nats {
    acks: Arc<Acks>,
    link: Arc<Link>,
    content_mode: ContentMode,
    publish_timeout: Duration,
    runtime: Handle,
    tasks: [AbortHandle; 3],
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
    ) -> Result<Arc<Self>, StartError> {
        let runtime = Handle::try_current().map_err(|_| StartError::Runtime)?;
        let health = Arc::new(Health::new(connect::names(&options)?, metrics));
        let client = at_once(connect::connect(&options, &health))
            .expect("a client that retries its first connect is there at once")?;
        let stream = Arc::from(options.stream.name.as_str());
        let (acks, replies) = at_once(Acks::new(client.clone(), Arc::clone(&stream)))
            .expect("the queue of a new client has room")
            .map_err(|error| StartError::Setting { key: "nats", reason: error.to_string() })?;
        let look = Look::new(client.clone(), options.stream, destinations, Arc::clone(&health.refusals));
        let monitor = Monitor::new(look, Arc::clone(&health));
        let tasks = [
            runtime.spawn(Arc::clone(&acks).hear(replies)).abort_handle(),
            runtime.spawn(monitor.run()).abort_handle(),
            runtime.spawn(Arc::clone(&health).keep_true(client.clone())).abort_handle(),
        ];
        let publish_timeout = options.publish_timeout;
        let link = Arc::new(Link { client, health, stream });
        Ok(Arc::new(Self { acks, link, content_mode, publish_timeout, runtime, tasks }))
    }
}

impl Bus for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn publish(&self, message: Message, ticket: Ticket) {
        let Link { client, health, stream } = &*self.link;
        if let Some(detail) = health.down(client.connection_state()) {
            return ticket.settle(Err(PublishError::Unavailable { detail }));
        }
        let layout = match record::layout(&message, self.content_mode, stream) {
            Ok(layout) => layout,
            Err(error) => {
                return ticket.settle(Err(PublishError::Rejected { detail: error.to_string().into() }));
            }
        };
        let pending = Pending::new(ticket, message.destination, &self.link);
        let refusal = health.refusals.watch();
        match self.acks.send(&pending.destination.subject, layout) {
            Ok(waiting) => {
                let waited = wait_for(waiting, self.publish_timeout, refusal, pending);
                drop(self.runtime.spawn(waited));
            }
            Err(failure) => pending.fail(&failure),
        }
    }

    fn state(&self) -> BusState {
        self.link.health.state(self.link.client.connection_state())
    }

    fn lacks(&self) -> Option<Arc<str>> {
        self.link.health.lacks(self.link.client.connection_state())
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

/// A message that the client has and that has no verdict yet.
struct Pending {
    /// Gone once settled.
    ticket: Option<Ticket>,
    destination: Arc<Destination>,
    link: Arc<Link>,
    /// Connections lost before it was handed over.
    losses: u64,
}

impl Pending {
    fn new(ticket: Ticket, destination: Arc<Destination>, link: &Arc<Link>) -> Self {
        link.health.handed_over();
        Self { ticket: Some(ticket), destination, losses: link.health.losses(), link: Arc::clone(link) }
    }

    fn fail(self, failure: &Failure) {
        let Link { client, health, stream } = &*self.link;
        let lost = health.losses() != self.losses || client.connection_state() != State::Connected;
        let cause = health.cause();
        let subject = &self.destination.subject;
        let at = Circumstances { subject, stream, lost, cause: cause.as_deref() };
        let error = verdict::sort(failure, at);
        self.settle(Err(error));
    }

    fn settle(mut self, verdict: Verdict) {
        if matches!(verdict, Err(PublishError::Refused { .. })) {
            self.link.health.nudge();
        }
        if let Some(ticket) = self.ticket.take() {
            ticket.settle(verdict);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Before the count, so that a flush that sees none has seen every verdict.
        drop(self.ticket.take());
        self.link.health.settled();
    }
}

/// Waits for the server's word on one message. Nothing ends it but that word, the loss of the connection
/// it would have come on, and the publish time-out. What was lost may be stored: its retry carries the
/// same message id, so the server stores it once.
async fn wait_for(waiting: Waiting, at_most: Duration, refusal: Watch, pending: Pending) {
    let subject = Arc::clone(&pending.destination.subject);
    let (link, losses) = (Arc::clone(&pending.link), pending.losses);
    tokio::select! {
        biased;
        ack = waiting.ack(at_most) => match ack {
            Ok(ack) => pending.settle(Ok(Receipt { duplicate: ack.duplicate })),
            Err(failure) => pending.fail(&failure),
        },
        () = link.health.lost_since(losses) => pending.fail(&Failure::ConnectionLost),
        advice = refusal.of(&subject) => {
            pending.settle(Err(PublishError::Refused { detail: advice.into() }));
        }
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
