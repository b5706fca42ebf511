//! Looks after the stream: until it fits, and again when a message was refused.
//!
//! It logs only changes, and never changes a stream that is there.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{
    ContextBuilder, GetStreamByNameErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, Info};

use super::health::Health;
use super::options::{Ensure, Stream};
use super::stream::{self, Found};
use crate::pipeline::publish::Destination;

/// Between two looks at a stream that does not fit.
const AGAIN: Duration = Duration::from_secs(1);

/// When nothing is to do and nobody nudges.
const IDLE: Duration = Duration::from_secs(3600);

/// One request to JetStream.
const REQUEST: Duration = Duration::from_secs(2);

/// JetStream's own code for a stream that is not there.
const NO_STREAM: u64 = 10059;

/// Looks after the stream.
pub(super) struct Monitor {
    context: Context,
    health: Arc<Health>,
    options: Stream,
    destinations: Vec<Arc<Destination>>,
    /// What was logged last, so that only changes are.
    said: Option<Found>,
}

impl Monitor {
    pub(super) fn new(
        client: Client,
        health: Arc<Health>,
        options: Stream,
        destinations: Vec<Arc<Destination>>,
    ) -> Self {
        let context = ContextBuilder::new().timeout(REQUEST).build(client);
        Self { context, health, options, destinations, said: None }
    }

    /// Runs until the bus is gone.
    pub(super) async fn run(mut self) {
        if self.options.ensure == Ensure::Off {
            return self.health.fit();
        }
        loop {
            let next = match self.context.client().connection_state() {
                State::Connected => self.round().await,
                State::Pending | State::Disconnected => IDLE,
            };
            self.health.sleep(next).await;
            // Many refusals make one look.
            if next == IDLE {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// One look; then how long to sleep if nobody nudges.
    async fn round(&mut self) -> Duration {
        let found = match self.look().await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "nats: cannot ask about the stream");
                return AGAIN;
            }
        };
        let fit = found.unfit.is_empty();
        if fit {
            self.health.fit();
        }
        self.say(found);
        if fit { IDLE } else { AGAIN }
    }

    async fn look(&self) -> Result<Found, RequestError> {
        let name = &self.options.name;
        let subject = format!("STREAM.INFO.{name}");
        let refusal = self.health.refusals.watch();
        let refused = format!("$JS.API.{subject}");
        let answer: Result<Response<Info>, RequestError> = tokio::select! {
            answer = self.context.request(subject, &()) => answer,
            advice = refusal.of(&refused) => return Ok(unseen(name, &advice)),
        };
        match answer {
            Ok(Response::Ok(info)) => self.judge(&info.config).await,
            Ok(Response::Err { error }) if error.error_code().0 == NO_STREAM => self.missing().await,
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
    async fn judge(&self, there: &Config) -> Result<Found, RequestError> {
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
        Ok(found)
    }

    /// The stream is not there: makes it where that is wanted.
    async fn missing(&self) -> Result<Found, RequestError> {
        let name = &self.options.name;
        if self.options.ensure == Ensure::Create {
            let wanted = stream::wanted(&self.options, &self.destinations);
            return match self.context.create_stream(wanted).await {
                Ok(made) => {
                    tracing::info!(stream = name, "nats: stream made");
                    Ok(stream::compare(&made.cached_info().config, &self.options, &self.destinations))
                }
                Err(error) => {
                    let other = self.others().await;
                    Ok(Found::unfit(format!("stream {name} cannot be made: {error}{other}")))
                }
            };
        }
        let subjects = stream::subjects(&self.destinations).join(", ");
        let other = self.others().await;
        Ok(Found::unfit(format!(
            "stream {name} does not exist{other}: create it with the subjects {subjects}, or set \
             nats.stream.ensure to \"create\""
        )))
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

    /// Logs what is wrong, once a change.
    fn say(&mut self, now: Found) {
        if self.said.as_ref() == Some(&now) {
            return;
        }
        let name = &self.options.name;
        for reason in &now.unfit {
            tracing::error!(stream = name, "nats: events cannot be stored: {reason}");
        }
        if !now.different.is_empty() {
            let differences = now.different.join("; ");
            tracing::warn!(stream = name, "nats: the stream is not as configured: {differences}");
        }
        if now.unfit.is_empty() {
            tracing::info!(stream = name, "nats: the stream takes every event");
        }
        self.said = Some(now);
    }
}

/// Nobody may look, which keeps nobody from publishing.
fn unseen(name: &str, advice: &str) -> Found {
    let different =
        format!("stream {name} cannot be looked at: {advice}, or set nats.stream.ensure to \"off\"");
    Found { different: vec![different], ..Found::default() }
}
