//! Proves refusals: a broker refuses a whole batch for one of its messages, and says the same of each.
//!
//! What comes back as "too large" or "invalid" is therefore sent again by a second client whose
//! batches hold one message. Only what is refused there is the message's own fault.

use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// The second client, made when it is needed and ended when it is not any more.
pub(super) struct Alone {
    config: ClientConfig,
    suspects: Suspects,
    client: Option<Arc<Client>>,
    /// When it was last needed.
    needed: Option<Instant>,
}

/// How long the client is kept for the next refusal.
const KEPT: Duration = Duration::from_secs(60);

impl Alone {
    pub(super) fn new(config: &ClientConfig, suspects: Suspects) -> Self {
        let mut config = config.clone();
        config.set("batch.num.messages", "1");
        Self { config, suspects, client: None, needed: None }
    }

    /// Sends what waits. Their verdicts come by the client's own callbacks. A client that is dead, or that
    /// nothing has needed for long, is ended.
    pub(super) fn send(&mut self, health: &Arc<Health>, now: Instant) {
        let suspects = self.suspects.take();
        if !suspects.is_empty() {
            self.needed = Some(now);
        }
        let idle = self.needed.is_none_or(|at| now.duration_since(at) >= KEPT);
        let useless = |client: &mut Arc<Client>| {
            let client = client.client();
            client.fatal_error().is_some() || idle && client.context().pending() == 0
        };
        if let Some(useless) = self.client.take_if(useless) {
            monitor::retire(useless);
        }
        for suspect in suspects {
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
    suspect.pending.handle.settle(Err(PublishError::Unavailable { detail }));
    health.settled();
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;
    use crate::bus::kafka::tests::{PATIENCE, TOPIC, bus_metrics, eventually, handle, label};
    use crate::bus::kafka::{Options, client_config};
    use crate::pipeline::publish::Destination;

    struct Bench {
        mock: MockCluster<'static, DefaultProducerContext>,
        health: Arc<Health>,
        alone: Alone,
        now: Instant,
    }

    fn bench() -> Bench {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic(TOPIC, 1, 1).unwrap();
        let config = client_config::client_config(&Options::new(mock.bootstrap_servers())).unwrap();
        let alone = Alone::new(&config, Suspects::default());
        let health = Arc::new(Health::new(mock.bootstrap_servers(), bus_metrics()));
        Bench { mock, health, alone, now: Instant::now() }
    }

    impl Bench {
        /// What becomes of a suspect.
        fn suspect(&mut self) -> &'static str {
            let (handle, verdict) = handle();
            let destination = Arc::new(Destination { address: TOPIC.into(), subject: TOPIC.into() });
            let payload = Some(b"{}".to_vec());
            let message = OwnedMessage::new(payload, None, TOPIC.into(), Timestamp::NotAvailable, 0, 0, None);
            self.health.handed_over();
            let suspect = Suspect { pending: Pending { handle, destination }, message };
            assert!(self.alone.suspects.add(suspect).is_ok());
            self.alone.send(&self.health, self.now);
            let verdict = verdict.recv_timeout(PATIENCE).unwrap();
            eventually("it has settled", || self.health.pending() == 0);
            label(&verdict)
        }

        /// Whether there is a client after a look so much later.
        fn has_client(&mut self, later: Duration) -> bool {
            self.alone.send(&self.health, self.now + later);
            self.alone.client.is_some()
        }
    }

    #[test]
    fn a_client_that_nothing_needs_any_more_is_ended() {
        let mut bench = bench();
        assert!(!bench.has_client(Duration::ZERO), "none is made before it is needed");
        assert_eq!(bench.suspect(), "acknowledged");
        assert!(bench.has_client(KEPT / 2));
        assert!(!bench.has_client(KEPT));
        assert_eq!(bench.suspect(), "acknowledged", "another is made");
    }

    #[test]
    fn a_client_that_is_dead_is_ended_at_the_next_look_and_another_made() {
        let mut bench = bench();
        let fatal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        bench.mock.request_errors(RDKafkaApiKey::Produce, &[fatal]);
        assert_eq!(bench.suspect(), "unavailable");
        assert!(!bench.has_client(Duration::ZERO));
        assert_eq!(bench.suspect(), "acknowledged");
    }
}
