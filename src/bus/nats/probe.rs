//! Asking JetStream about the stream.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{
    ContextBuilder, GetStreamByNameErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::Info;
use serde_json::json;

use super::connect::connect_once;
use super::options::{Options, Stream};
use super::permissions::{Violation, Violations};
use super::stream::{Findings, compare, covers, every_subject, some_of, stream_config, subjects};
use crate::bus::error::StartError;
use crate::pipeline::publish::Destination;

/// One request to JetStream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// JetStream's error code for a stream that does not exist.
const STREAM_NOT_FOUND: u64 = 10059;

/// Why JetStream did not describe the stream.
pub(super) enum NoInfo {
    /// It is not permitted to ask, or to hear the reply.
    Denied(Violation),
    /// There was no reply, or an unusable one.
    Silent(RequestError),
}

/// Asks JetStream about the stream.
pub(super) struct Probe {
    pub client: Client,
    context: Context,
    options: Stream,
    pub destinations: Vec<Arc<Destination>>,
    pub violations: Arc<Violations>,
}

impl Probe {
    pub(super) fn new(
        client: Client,
        options: Stream,
        destinations: Vec<Arc<Destination>>,
        violations: Arc<Violations>,
    ) -> Self {
        let context = ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone());
        Self { client, context, options, destinations, violations }
    }

    /// A probe on a connection of its own. The inner error is why no server can be reached.
    pub(super) async fn connect(
        options: &Options,
        destinations: Vec<Arc<Destination>>,
    ) -> Result<Result<Self, String>, StartError> {
        let violations = Arc::<Violations>::default();
        let heard = Arc::clone(&violations);
        let client = connect_once(options, move |event| heard.on_event(&event)).await?;
        Ok(client.map(|client| Self::new(client, options.stream.clone(), destinations, violations)))
    }

    /// A request to JetStream, or why it is not permitted.
    async fn request<T: serde::de::DeserializeOwned>(
        &self,
        request: String,
        payload: &impl serde::Serialize,
    ) -> Result<Response<T>, NoInfo> {
        let (since, subject) = (self.violations.count(), format!("$JS.API.{request}"));
        tokio::select! {
            reply = self.context.request(request, payload) => reply.map_err(NoInfo::Silent),
            violation = self.violations.on(since, &subject) => Err(NoInfo::Denied(violation)),
        }
    }

    /// The stream, with the list of its deleted messages if asked for.
    pub(super) async fn info(&self, deleted: bool) -> Result<Response<Info>, NoInfo> {
        let request = format!("STREAM.INFO.{}", self.options.name);
        self.request(request, &json!({ "deleted_details": deleted })).await
    }

    /// Whether acks are received on this connection, and these subjects may be published to.
    pub(super) async fn is_permitted(&self, subjects: &[Arc<str>]) -> bool {
        let heard = match self.info(false).await {
            Ok(_) => true,
            Err(NoInfo::Denied(violation)) => violation != Violation::Acks,
            // Without JetStream there is a reply too.
            Err(NoInfo::Silent(error)) => error.kind() == RequestErrorKind::NoResponders,
        };
        heard && self.violations.denied(&self.client, subjects).await.is_some_and(|denied| denied.is_empty())
    }

    /// Reads the stream and compares it with the configuration. The error is why that is not known now.
    pub(super) async fn probe(&self) -> Result<Findings, String> {
        let name = &self.options.name;
        if self.client.try_server_info().is_some_and(|server| !server.headers) {
            let reason = "the server has headers turned off: remove no_header_support from its configuration";
            return Ok(Findings { refuse: true, ..Findings::invalid(reason.into()) });
        }
        match self.info(false).await {
            Ok(Response::Ok(info)) => Ok(self.existing(info).await),
            Ok(Response::Err { error }) if error.error_code().0 == STREAM_NOT_FOUND => {
                Ok(self.absent().await)
            }
            // No leader, or JetStream is starting.
            Ok(Response::Err { error }) if matches!(error.error_code().0, 10008 | 10009) => {
                Err(error.to_string())
            }
            Ok(Response::Err { error }) => Ok(Findings::invalid(format!(
                "JetStream refuses to describe stream {name}: {error}: enable JetStream for this account"
            ))),
            Err(NoInfo::Denied(Violation::Acks)) => {
                Ok(Findings { refuse: true, ..Findings::invalid(Violation::Acks.advice()) })
            }
            // This does not keep events from being stored.
            Err(NoInfo::Denied(violation)) => Ok(Findings {
                differences: vec![format!(
                    "stream {name} cannot be checked: {}, or set nats.stream.ensure to \"off\"",
                    violation.advice()
                )],
                ..Findings::default()
            }),
            Err(NoInfo::Silent(error)) if error.kind() == RequestErrorKind::NoResponders => {
                Ok(Findings::invalid(
                    "JetStream does not reply: enable it on the server, or wait until it has started".into(),
                ))
            }
            Err(NoInfo::Silent(error)) => Err(error.to_string()),
        }
    }

    async fn existing(&self, info: Info) -> Findings {
        let clustered = self.client.server_info().cluster.is_some();
        let covered =
            |subject: &Arc<str>| info.config.subjects.iter().any(|pattern| covers(pattern, subject));
        let mut uncovered = every_subject(&self.destinations);
        uncovered.retain(|subject| !covered(subject));
        let mut found = compare(info, clustered, &self.options);
        // A mirror has no subjects.
        if let Some(first) = uncovered.first().filter(|_| !found.refuse) {
            let other = match self.stream_of(first).await {
                Some(other) => format!("; stream {other} accepts the first: take it from there"),
                None => String::new(),
            };
            let name = &self.options.name;
            let uncovered = some_of(&uncovered);
            found
                .invalid
                .push(format!("stream {name} does not accept {uncovered}: add the subjects to it{other}"));
        }
        found
    }

    async fn absent(&self) -> Findings {
        let name = &self.options.name;
        let subjects = subjects(&self.destinations).join(", ");
        let other = self.other_stream().await;
        let taken = other.is_some();
        let reason = match other {
            Some(advice) => format!("stream {name} does not exist, and {advice}"),
            None => format!(
                "stream {name} does not exist: create it with the subjects {subjects}, as `attio-bridge topics` prints \
                 it, or set nats.stream.ensure to \"create\""
            ),
        };
        Findings { missing: true, taken, ..Findings::invalid(reason) }
    }

    /// Creates the stream.
    pub(super) async fn create(&self) -> Findings {
        let name = &self.options.name;
        let wanted = stream_config(&self.options, &self.destinations);
        let clustered = self.client.server_info().cluster.is_some();
        match self.request::<Info>(format!("STREAM.CREATE.{name}"), &wanted).await {
            Ok(Response::Ok(created)) => {
                tracing::info!(stream = name, "nats: stream created");
                compare(created, clustered, &self.options)
            }
            Ok(Response::Err { error }) => {
                let other = self.other_stream().await.map(|advice| format!("; {advice}")).unwrap_or_default();
                Findings::invalid(format!("stream {name} cannot be created: {error}{other}"))
            }
            Err(NoInfo::Denied(violation)) => {
                Findings::invalid(format!("stream {name} cannot be created: {}", violation.advice()))
            }
            Err(NoInfo::Silent(error)) => {
                Findings::invalid(format!("stream {name} cannot be created: {error}"))
            }
        }
    }

    /// That another stream accepts some of the subjects, and what to do about it.
    async fn other_stream(&self) -> Option<String> {
        for subject in every_subject(&self.destinations) {
            if let Some(other) = self.stream_of(&subject).await {
                return Some(format!(
                    "stream {other} accepts {subject}: set nats.stream.name to \"{other}\", or take the subjects from it"
                ));
            }
        }
        None
    }

    async fn stream_of(&self, subject: &str) -> Option<String> {
        match self.context.stream_by_subject(subject).await {
            Ok(name) => Some(name),
            Err(error) => {
                if error.kind() != GetStreamByNameErrorKind::NotFound {
                    tracing::debug!(%error, "nats: cannot find the stream of {subject}");
                }
                None
            }
        }
    }
}
