//! Proves refusals: a broker refuses a whole batch for one of its messages, and says the same of each.
//!
//! What comes back as "too large" or "invalid" is therefore sent again by a second client whose
//! batches hold one message. Only what is refused there is the message's own fault.

use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::message::OwnedMessage;
use rdkafka::producer::{BaseRecord, Producer};

use super::context::Pending;
use super::health::Health;
use super::monitor::{self, Client};
use crate::pipeline::publish::PublishError;

/// A message that was refused in company.
pub(super) struct Suspect {
    /// Whose verdict is still to come.
    pub pending: Pending,
    /// Its bytes.
    pub message: OwnedMessage,
}

/// Messages that wait to be sent alone.
#[derive(Clone, Default)]
pub(super) struct Suspects(Arc<Mutex<Vec<Suspect>>>);

/// A refused batch has 64 KiB at most, so this is room for many of them.
const MAX_SUSPECTS: usize = 4096;

impl Suspects {
    /// Takes a message in, or gives back whose verdict it was where there is no more room.
    pub(super) fn add(&self, suspect: Suspect) -> Result<(), Pending> {
        let mut waiting = self.0.lock();
        if waiting.len() >= MAX_SUSPECTS {
            return Err(suspect.pending);
        }
        waiting.push(suspect);
        Ok(())
    }

    fn take(&self) -> Vec<Suspect> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// The second client, made when it is first needed.
pub(super) struct Alone {
    config: ClientConfig,
    suspects: Suspects,
    client: Option<Arc<Client>>,
}

impl Alone {
    pub(super) fn new(config: &ClientConfig, suspects: Suspects) -> Self {
        let mut config = config.clone();
        config.set("batch.num.messages", "1");
        Self { config, suspects, client: None }
    }

    /// Sends what waits. Their verdicts come by the client's own callbacks.
    pub(super) fn send(&mut self, health: &Arc<Health>) {
        if let Some(dead) = self.client.take_if(|client| client.client().fatal_error().is_some()) {
            monitor::retire(dead);
        }
        for suspect in self.suspects.take() {
            match self.client(health) {
                Some(client) => send(client, suspect),
                None => give_up(health, suspect),
            }
        }
    }

    fn client(&mut self, health: &Arc<Health>) -> Option<&Client> {
        if self.client.is_none() {
            match monitor::build_alone(&self.config, health) {
                Ok(client) => self.client = Some(Arc::new(client)),
                Err(error) => {
                    tracing::error!(%error, "kafka: cannot make the client that sends single messages")
                }
            }
        }
        self.client.as_deref()
    }

    /// Ends the client; whatever still waits gets a verdict.
    pub(super) fn end(mut self, health: &Health) {
        if let Some(client) = self.client.take() {
            monitor::retire(client);
        }
        self.suspects.take().into_iter().for_each(|suspect| give_up(health, suspect));
    }
}

fn send(client: &Client, suspect: Suspect) {
    let Suspect { pending, mut message } = suspect;
    let headers = message.detach_headers();
    let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(message.topic(), Box::new(pending));
    record.key = message.key();
    record.payload = message.payload();
    record.headers = headers;
    let context = client.client().context();
    context.taken_over();
    if let Err((error, record)) = client.send(record) {
        context.settle(*record.delivery_opaque, Err(error.rdkafka_error_code()));
    }
}

fn give_up(health: &Health, suspect: Suspect) {
    let detail = "refused in a batch, and not sent again alone".into();
    suspect.pending.ticket.settle(Err(PublishError::Unavailable { detail }));
    health.settled();
}
