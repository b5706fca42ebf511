//! Publishes states that no event asks for, and reads again what something newer is known of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::names::Names;
use super::read::read;
use super::settle::Group;
use super::{Options, envelope};
use crate::attio::entities::{Answer, Entity, EntityReader, EntityRef, Kind, ReadError, Single};
use crate::bus::state::{Change, Outcome, State, StateError, milliseconds};
use crate::bus::states::Publisher;

/// Before a state is read again.
const AGAIN: Duration = Duration::from_millis(250);

/// Between two attempts, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bus(#[from] StateError),
    /// What to grant.
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Setup(String),
}

/// What entities are read with, and made states of.
#[derive(Clone)]
pub struct Reading {
    pub options: Arc<Options>,
    pub names: Arc<Names>,
    pub reader: EntityReader,
}

/// What states are published with.
#[derive(Clone)]
pub struct Writing {
    pub reading: Reading,
    pub publisher: Publisher,
}

impl Reading {
    /// The state of an entity that was read; none if the time cannot be written.
    pub fn state(&self, at: OffsetDateTime, entity: &Entity) -> Option<(EntityRef, State)> {
        let state = envelope::state(&self.options, &self.names, entity, at)?;
        let container = match entity.kind {
            Kind::Record => entity.object.clone(),
            Kind::ListEntry => entity.list.clone(),
            Kind::Note | Kind::Task | Kind::Comment => None,
        };
        Some((EntityRef { kind: entity.kind, container, id: entity.id.clone() }, state))
    }

    pub fn tombstone(&self, entity: EntityRef) -> (EntityRef, State) {
        let state = envelope::tombstone(&self.options, &entity);
        (entity, state)
    }

    /// Reads entities again, those of a container together.
    pub async fn read(&self, mut entities: Group) -> Result<Vec<(EntityRef, Answer<Single>)>, Error> {
        entities.sort();
        let mut found = Vec::with_capacity(entities.len());
        let alike = |a: &EntityRef, b: &EntityRef| (a.kind, &a.container) == (b.kind, &b.container);
        for group in entities.chunk_by(alike).flat_map(|alike| alike.chunks(EntityReader::MAX_IDS)) {
            let read = async || read(self.reader.clone(), group.to_vec()).await.map_err(|(_, error)| error);
            found.extend(patiently(read).await?);
        }
        Ok(found)
    }
}

impl Writing {
    /// Publishes states, however long the broker is away, until each is stored or something newer is. Returns how many
    /// were stored.
    pub async fn publish(&self, mut batch: Vec<(EntityRef, State)>) -> Result<u64, Error> {
        let mut stored = 0;
        loop {
            let outcomes = self.store(&batch).await?;
            // With the time at which each was last seen.
            let mut again = BTreeMap::new();
            for ((entity, state), outcome) in batch.drain(..).zip(outcomes) {
                match outcome {
                    Outcome::Done => stored += 1,
                    Outcome::Gone => {}
                    Outcome::Newer => drop(again.insert(entity, state.at)),
                }
            }
            if again.is_empty() {
                return Ok(stored);
            }
            tokio::time::sleep(AGAIN).await;
            for (entity, answer) in self.reading.read(again.keys().cloned().collect()).await? {
                match answer.value {
                    Single::Found(found) => batch.extend(self.reading.state(answer.accurate_at, &found)),
                    // `state run` has published a newer state, and reads whatever becomes of it.
                    Single::Gone if milliseconds(answer.accurate_at) <= again[&entity] => {}
                    Single::Gone => batch.push(self.reading.tombstone(entity)),
                    // Its event is still to come, or it cannot be known.
                    Single::MergeInProgress | Single::Unseen => {}
                }
            }
        }
    }

    async fn store(&self, batch: &[(EntityRef, State)]) -> Result<Vec<Outcome>, Error> {
        let change =
            |(_, state): &(EntityRef, State)| Change { state: Some(state.clone()), events: Vec::new() };
        let mut pauses = Pauses::default();
        loop {
            match self.publisher.publish(batch.iter().map(change).collect()).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(StateError::Passing(reason)) => pauses.pause(&reason).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads until it succeeds, or is not allowed.
pub async fn patiently<T>(mut read: impl AsyncFnMut() -> Result<T, ReadError>) -> Result<T, Error> {
    let mut pauses = Pauses::default();
    loop {
        match read().await {
            Ok(value) => return Ok(value),
            Err(ReadError::Denied { reason, .. }) => return Err(Error::Denied(reason)),
            Err(ReadError::Retryable(reason)) => pauses.pause(&reason).await,
        }
    }
}

/// Pauses that become longer; each reason is logged once.
#[derive(Default)]
struct Pauses {
    count: u32,
    logged: Option<String>,
}

impl Pauses {
    async fn pause(&mut self, reason: &str) {
        if self.logged.as_deref() != Some(reason) {
            tracing::warn!("{reason}; trying on");
            self.logged = Some(reason.to_owned());
        }
        let (first, longest) = PAUSES;
        tokio::time::sleep((first * 2_u32.saturating_pow(self.count.min(10))).min(longest)).await;
        self.count += 1;
    }
}
