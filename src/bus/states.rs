//! The writers and followers of states, on the bus of a configuration. What they have in common is in
//! [`super::state`].

use std::sync::Arc;

use super::error::ReadError;
use super::inspect::Row;
use super::read::{Begin, Item, Plan};
use super::state::{Change, Clock, Needs, Outcome, Receipt, StateError, Writer};
use super::{Kind, Options, kafka, nats};
use crate::pipeline::publish::Destination;

/// Publishes states. Cheap to clone.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a few of them, which last as long as the process")]
pub enum Publisher {
    Kafka(kafka::state::Publisher),
    Nats(nats::state::Publisher),
}

impl Publisher {
    /// Stores the changes in this order, and marks their events as done. Waits for the broker. On an error nothing
    /// is marked, and each change may or may not be stored.
    pub async fn publish(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StateError> {
        match self {
            Self::Kafka(publisher) => publisher.publish(changes).await,
            Self::Nats(publisher) => publisher.publish(&changes).await,
        }
    }

    /// What to raise where a state is too large.
    pub fn limit(&self) -> &'static str {
        match self {
            Self::Kafka(_) => {
                "raise max.message.bytes of the topic, and kafka.properties.message.max.bytes where it is larger than \
                 that or than 8 MiB"
            }
            Self::Nats(_) => {
                "raise max_payload of the server, and max_msg_size of the stream where it is set"
            }
        }
    }
}

/// Takes events.
#[expect(clippy::large_enum_variant, reason = "a few of them, which last as long as the process")]
pub enum Follower {
    Kafka(kafka::state::Follower),
    Nats(nats::state::Follower),
}

impl Follower {
    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> Result<(Item, Receipt), StateError> {
        match self {
            Self::Kafka(follower) => follower.next().await,
            Self::Nats(follower) => follower.next().await,
        }
    }
}

/// Starts a writer. Waits until the broker is there, and on Kafka until any other writer of this role is fenced.
pub async fn writer(options: &Options, writer: Writer, now: Clock) -> Result<Publisher, StateError> {
    let content_mode = options.content_mode;
    match &options.kind {
        Kind::Kafka(options) => {
            let options = (**options).clone();
            Ok(Publisher::Kafka(kafka::state::Publisher::start(options, content_mode, writer, now).await?))
        }
        Kind::Nats(options) => {
            Ok(Publisher::Nats(nats::state::Publisher::start(options, content_mode, &writer).await?))
        }
        Kind::Stdout => Err(ReadError::Stdout.into()),
    }
}

/// Begins to take the events of these destinations that are not done, oldest first. The publisher marks them.
pub async fn follow(
    options: &Options,
    publisher: &Publisher,
    group: &str,
    destinations: Vec<Arc<Destination>>,
) -> Result<Follower, StateError> {
    match (&options.kind, publisher) {
        (Kind::Kafka(options), Publisher::Kafka(publisher)) => {
            let follower = publisher.follow((**options).clone(), group, destinations).await?;
            Ok(Follower::Kafka(follower))
        }
        (Kind::Nats(options), Publisher::Nats(publisher)) => {
            Ok(Follower::Nats(publisher.follow(options, group, &destinations).await?))
        }
        _ => Err(ReadError::Stdout.into()),
    }
}

/// A state that is kept; none if there is none. What could not be looked at is an error. Changes nothing.
pub async fn any(options: &Options, writer: &Writer) -> Result<Option<Item>, StateError> {
    match &options.kind {
        Kind::Kafka(kafka) => kafka_any(&options.kind, kafka, writer).await,
        Kind::Nats(options) => nats::kept::any(options, writer).await,
        Kind::Stdout => Err(ReadError::Stdout.into()),
    }
}

async fn kafka_any(
    kind: &Kind,
    options: &kafka::Options,
    writer: &Writer,
) -> Result<Option<Item>, StateError> {
    for address in kafka::state::existing(options.clone(), writer.addresses.clone()).await? {
        let destination =
            Arc::new(Destination { subject: Arc::clone(&address), address: Arc::clone(&address) });
        let plan = Plan { destinations: vec![destination], begin: Begin::Beginning, follow: false };
        let mut reader = super::read(kind, plan).await?;
        let mut found = None;
        while found.is_none()
            && let Some(item) = reader.next().await
        {
            found = Some(item?).filter(|item| !item.payload.is_empty());
        }
        reader.end().await;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Checks what `state` needs, without publishing.
pub async fn inspect(options: &Options, needs: Needs) -> Vec<Row> {
    match &options.kind {
        Kind::Kafka(options) => kafka::state::inspect((**options).clone(), needs).await,
        Kind::Nats(options) => nats::state::inspect(options, &needs.writer).await,
        Kind::Stdout => Vec::new(),
    }
}
