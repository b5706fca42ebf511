//! NATS JetStream: every message with its id, and an ack awaited for each.
//!
//! [`Nats::publish`] puts a message into the client's bounded queue; one task receives every ack and settles the
//! handles ([`publish`]). [`permissions`] keeps what the server does not permit, [`health`] the connection; [`monitor`]
//! watches whether the [`stream`] accepts every event. [`mod@read`] and [`mod@inspect`] serve other verbs.

mod connect;
mod errors;
mod health;
mod inspect;
pub(super) mod kept;
mod monitor;
mod permissions;
mod publish;
mod read;
pub mod state;
mod stream;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, unconstrained};

pub use super::inspect::Ensure;
pub use connect::{check, client};
pub use inspect::inspect;
pub(super) use publish::encode;
pub(super) use read::read;
pub(super) use stream::stream_config;

use super::error::StartError;
use crate::cloudevent::ContentMode;
use crate::metrics::BusMetrics;
use crate::pipeline::publish::{
    BoxFuture, BrokerIdentity, Bus, BusState, Destination, Message, PublishError, PublishHandle,
};
use crate::supervise::Supervisor;
use health::Health;
use monitor::Monitor;
use publish::{InFlight, Link, Publisher};
use stream::Probe;

/// How to reach NATS and publish to it: `[nats]`.
#[derive(Clone, Debug)]
pub struct Options {
    pub servers: Vec<String>,
    pub auth: Option<Auth>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub ignore_discovered_servers: bool,
    pub publish_timeout: Duration,
    pub stream: Stream,
}

/// A login.
#[derive(Clone, Debug)]
pub enum Auth {
    CredsFile(PathBuf),
    NkeyFile(PathBuf),
    Token(Renewable),
    User { username: String, password: Renewable },
}

/// A secret that may be replaced while clients use it: every connection logs in with the present one. Its clones are
/// replaced with it.
#[derive(Clone)]
pub struct Renewable(Arc<ArcSwap<SecretString>>);

impl From<SecretString> for Renewable {
    fn from(secret: SecretString) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(secret)))
    }
}

impl From<String> for Renewable {
    fn from(secret: String) -> Self {
        SecretString::from(secret).into()
    }
}

impl fmt::Debug for Renewable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.load().fmt(f)
    }
}

impl Renewable {
    fn text(&self) -> String {
        self.0.load().expose_secret().to_owned()
    }

    /// Replaces it; whether it was another one.
    fn renew(&self, other: &Self) -> bool {
        let is_new = self.text() != other.text();
        self.0.store(other.0.load_full());
        is_new
    }
}

/// The stream that stores the events: `[nats.stream]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub name: String,
    pub ensure: Ensure,
    pub duplicate_window: Duration,
    /// Unlimited where zero.
    pub max_age: Duration,
    /// The server's default where absent.
    pub replicas: Option<usize>,
}

/// The NATS bus.
pub struct Nats {
    auth: Option<Auth>,
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
        Ok(Arc::new(Self { auth: options.auth, publisher, link, content_mode, tasks }))
    }

    /// Has the next connections log in with the password or the token of other options. They read files anyway.
    pub fn renew(&self, other: &Options) {
        let is_new = match (&self.auth, &other.auth) {
            (Some(Auth::Token(ours)), Some(Auth::Token(new))) => ours.renew(new),
            (
                Some(Auth::User { username: user, password: ours }),
                Some(Auth::User { username, password: new }),
            ) if user == username => ours.renew(new),
            _ => false,
        };
        if is_new {
            tracing::info!("nats: the login has changed: the next connection uses the new one");
        }
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
        match publish::encode_record(&message, self.content_mode, stream) {
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
        self.link.health.known.lock().verdict.warning.clone()
    }

    fn identity(&self) -> Option<Arc<BrokerIdentity>> {
        self.link.health.known.lock().identity.clone()
    }

    fn data_losses(&self) -> u64 {
        self.link.health.metrics.data_losses.get()
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, u64> {
        let deadline = Instant::now() + within;
        let in_flight = || self.link.health.counters.in_flight.load(Ordering::Relaxed);
        Box::pin(async move {
            while in_flight() > 0 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            in_flight()
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
