//! Looks after the stream: until it fits, and again when a message was refused.
//!
//! It logs only changes, and never changes a stream that is there.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::RequestError;

use super::health::Health;
use super::look::Look;
use super::options::Ensure;
use super::stream::Found;

/// Between two looks at a stream that does not fit.
const AGAIN: Duration = Duration::from_secs(1);

/// When nothing is to do and nobody nudges.
const IDLE: Duration = Duration::from_secs(3600);

/// Looks after the stream.
pub(super) struct Monitor {
    look: Look,
    health: Arc<Health>,
    /// What was logged last, so that only changes are.
    said: Option<Found>,
}

impl Monitor {
    pub(super) fn new(look: Look, health: Arc<Health>) -> Self {
        Self { look, health, said: None }
    }

    /// Runs until the bus is gone.
    pub(super) async fn run(mut self) {
        if self.look.options.ensure == Ensure::Off {
            self.health.fit();
            // A supervised task that returned would end the process.
            return std::future::pending().await;
        }
        loop {
            let next = match self.look.client.connection_state() {
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
        let found = match self.find().await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "nats: cannot ask about the stream");
                return AGAIN;
            }
        };
        if !found.unfit.is_empty() {
            self.health.unfit(&found.unfit);
            self.say(found);
            return AGAIN;
        }
        self.say(found);
        self.health.fit();
        IDLE
    }

    /// Looks, and makes the stream where it is missing and that is wanted.
    async fn find(&self) -> Result<Found, RequestError> {
        let found = self.look.look().await?;
        if found.missing && self.look.options.ensure == Ensure::Create {
            return Ok(self.look.make().await);
        }
        Ok(found)
    }

    /// Logs what is wrong, once a change.
    fn say(&mut self, now: Found) {
        if self.said.as_ref() == Some(&now) {
            return;
        }
        let name = &self.look.options.name;
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
