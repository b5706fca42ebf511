//! Asks JetStream for the stream, and who else takes its subjects.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{
    ContextBuilder, GetStreamByNameErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, Info};

use super::options::Stream;
use super::refusals::Refusals;
use super::stream::{self, Found};
use crate::pipeline::publish::Destination;

/// One request to JetStream.
const REQUEST: Duration = Duration::from_secs(2);

/// JetStream's own code for a stream that is not there.
const NO_STREAM: u64 = 10059;

/// Who asks, and for what.
pub(super) struct Look {
    pub client: Client,
    context: Context,
    pub options: Stream,
    destinations: Vec<Arc<Destination>>,
    refusals: Arc<Refusals>,
}

impl Look {
    pub(super) fn new(
        client: Client,
        options: Stream,
        destinations: Vec<Arc<Destination>>,
        refusals: Arc<Refusals>,
    ) -> Self {
        let context = ContextBuilder::new().timeout(REQUEST).build(client.clone());
        Self { client, context, options, destinations, refusals }
    }

    /// Asks for the stream and compares it with the configuration.
    pub(super) async fn look(&self) -> Result<Found, RequestError> {
        let name = &self.options.name;
        let subject = format!("STREAM.INFO.{name}");
        let refusal = self.refusals.watch();
        let refused = format!("$JS.API.{subject}");
        let answer: Result<Response<Info>, RequestError> = tokio::select! {
            answer = self.context.request(subject, &()) => answer,
            advice = refusal.of(&refused) => return Ok(unseen(name, &advice)),
        };
        match answer {
            Ok(Response::Ok(info)) => Ok(self.judge(&info.config).await),
            Ok(Response::Err { error }) if error.error_code().0 == NO_STREAM => Ok(self.missing().await),
            Ok(Response::Err { error }) => Ok(Found::unfit(format!(
                "JetStream does not tell of stream {name}: {error}: enable JetStream for this account"
            ))),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(Found::unfit(
                "JetStream does not answer: enable it on the server, or wait until it has started".into(),
            )),
            Err(error) => Err(error),
        }
    }

    /// The stream is there.
    async fn judge(&self, there: &Config) -> Found {
        let mut found = stream::compare(there, &self.options, &self.destinations);
        if !found.uncovered.is_empty() {
            let name = &self.options.name;
            let other = self.owner_of(&found.uncovered[0]).await;
            let other = other.map(|other| format!("; stream {other} takes the first")).unwrap_or_default();
            found.unfit.push(format!(
                "stream {name} does not take {}{other}: add the subjects to it",
                stream::some_of(&found.uncovered)
            ));
        }
        found.there = Some(there.clone());
        found
    }

    /// The stream is not there.
    async fn missing(&self) -> Found {
        let name = &self.options.name;
        let subjects = stream::subjects(&self.destinations).join(", ");
        let other = self.others().await;
        let reason = format!(
            "stream {name} does not exist{other}: create it with the subjects {subjects}, or set \
             nats.stream.ensure to \"create\""
        );
        Found { missing: true, ..Found::unfit(reason) }
    }

    /// Makes the stream; then what is wrong with it.
    pub(super) async fn make(&self) -> Found {
        let name = &self.options.name;
        let wanted = stream::wanted(&self.options, &self.destinations);
        match self.context.create_stream(wanted).await {
            Ok(made) => {
                tracing::info!(stream = name, "nats: stream made");
                stream::compare(&made.cached_info().config, &self.options, &self.destinations)
            }
            Err(error) => {
                let other = self.others().await;
                Found::unfit(format!("stream {name} cannot be made: {error}{other}"))
            }
        }
    }

    /// Other streams that take some of the subjects, as a part of a sentence.
    async fn others(&self) -> String {
        for to in &self.destinations {
            if let Some(other) = self.owner_of(&to.subject).await {
                return format!(" (stream {other} takes {})", to.subject);
            }
        }
        String::new()
    }

    async fn owner_of(&self, subject: &str) -> Option<String> {
        match self.context.stream_by_subject(subject).await {
            Ok(name) => Some(name),
            Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => None,
            Err(error) => {
                tracing::debug!(%error, "nats: cannot ask which stream takes {subject}");
                None
            }
        }
    }
}

/// Nobody may look, which keeps nobody from publishing.
fn unseen(name: &str, advice: &str) -> Found {
    let different =
        format!("stream {name} cannot be looked at: {advice}, or set nats.stream.ensure to \"off\"");
    Found { different: vec![different], ..Found::default() }
}
