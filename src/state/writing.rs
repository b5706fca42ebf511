//! Publishes states that no event asks for, and reads again what something newer is known of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::names::Names;
use super::read::read;
use super::settle::Group;
use super::{Error, Options, envelope};
use crate::attio::entities::{Answer, Entity, EntityReader, EntityRef, Kind, ReadError, Single};
use crate::bus::state::{Change, Outcome, State, StateError, milliseconds};
use crate::bus::states::Publisher;

/// Before a state is read again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How often states are read again that count as too old, or of which the topic has newer ones, within half a minute.
const ROUNDS: u32 = 10;

/// Between two attempts, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How often an entity is read that cannot be, within a quarter of a minute.
const ATTEMPTS: u32 = 6;

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

/// What was read again.
#[derive(Default)]
pub struct Reread {
    pub found: Vec<(EntityRef, Answer<Single>)>,
    /// How many could not be read. The log names them.
    pub failed: u64,
}

/// What was published.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stored {
    pub stored: u64,
    /// How many could not be read again, or are larger than the broker takes. The log names them.
    pub failed: u64,
}

impl Reading {
    /// The state of an entity that was read; none if the time cannot be written.
    pub fn state(&self, at: OffsetDateTime, entity: &Entity) -> Option<(EntityRef, State)> {
        let state = envelope::state(&self.options, &self.names, entity, at)?;
        let container = match entity.kind {
            Kind::Record => entity.object.clone(),
            Kind::ListEntry => entity.list.clone(),
            Kind::Note => entity.object.clone(),
            Kind::Comment => entity.list.clone().or_else(|| entity.object.clone()),
            Kind::Task => None,
        };
        Some((EntityRef { kind: entity.kind, container, id: entity.id.clone() }, state))
    }

    pub fn tombstone(&self, entity: EntityRef) -> (EntityRef, State) {
        let state = envelope::tombstone(&self.options, &entity);
        (entity, state)
    }

    /// Reads entities again, those of a container together; what fails several times is left out, and named in the log.
    pub async fn read(&self, mut entities: Group) -> Result<Reread, Error> {
        let mut reread = Reread::default();
        let mut pauses = Pauses::default();
        let alike = |a: &EntityRef, b: &EntityRef| (a.kind, &a.container) == (b.kind, &b.container);
        for attempt in 1..=ATTEMPTS {
            entities.sort();
            let (mut again, mut why) = (Group::new(), String::new());
            let size =
                if attempt > ATTEMPTS / 2 { self.group(&entities).await } else { EntityReader::MAX_IDS };
            for group in entities.chunk_by(alike).flat_map(|alike| alike.chunks(size)) {
                for (entity, answer) in read(self.reader.clone(), group.to_vec()).await {
                    match answer {
                        Ok(answer) => reread.found.push((entity, answer)),
                        Err(ReadError::Denied { reason, .. }) => return Err(Error::Denied(reason)),
                        Err(error) if attempt == ATTEMPTS => {
                            reread.failed += 1;
                            say_of(&entity, format_args!("cannot be read: {error}"));
                        }
                        Err(error) => {
                            again.push(entity);
                            why = error.to_string();
                        }
                    }
                }
            }
            if again.is_empty() {
                break;
            }
            pauses.pause(&why).await;
            entities = again;
        }
        Ok(reread)
    }
}

impl Reading {
    /// How many of those that have failed together to read at a time: each alone, if one alone can be read, as another of
    /// them may be what fails all.
    async fn group(&self, entities: &[EntityRef]) -> usize {
        let Some(one) = fastrand::choice(entities) else { return EntityReader::MAX_IDS };
        if self.reader.one(one).await.is_ok() { 1 } else { EntityReader::MAX_IDS }
    }
}

impl Writing {
    /// Publishes states, however long the broker is away, until each is stored, or something newer is.
    pub async fn publish(&self, mut batch: Vec<(EntityRef, State)>) -> Result<Stored, Error> {
        let mut done = Stored::default();
        for round in 0..=ROUNDS {
            let outcomes = self.store(&batch).await?;
            // With the time at which each was last seen.
            let mut again = BTreeMap::new();
            for ((entity, state), outcome) in batch.drain(..).zip(outcomes) {
                match outcome {
                    Outcome::Done => done.stored += 1,
                    Outcome::Gone => {}
                    Outcome::Newer | Outcome::TooOld => drop(again.insert(entity, state.at)),
                    Outcome::TooLarge { bytes } => {
                        done.failed += 1;
                        let advice = self.publisher.limit();
                        say_of(
                            &entity,
                            format_args!(
                                "its state of {bytes} bytes is larger than the broker takes: {advice}"
                            ),
                        );
                    }
                }
            }
            if again.is_empty() {
                return Ok(done);
            }
            let (first, longest) = AGAIN;
            tokio::time::sleep((first * 2_u32.pow(round)).min(longest)).await;
            let reread = self.reading.read(again.keys().cloned().collect()).await?;
            done.failed += reread.failed;
            for (entity, answer) in reread.found {
                match answer.value {
                    Single::Found(found) => batch.extend(self.reading.state(answer.accurate_at, &found)),
                    // `state run` has published a newer state, and reads whatever becomes of it.
                    Single::Gone if milliseconds(answer.complete_to) <= again[&entity] => {}
                    Single::Gone => batch.push(self.reading.tombstone(entity)),
                    // Its event is still to come, or it cannot be known.
                    Single::MergeInProgress | Single::Unseen => {}
                }
            }
        }
        Err(StateError::Lasting(
            "what was read just now counts as older than what the topics hold, or as too old to be stored: correct the \
             clock of this host, or of another that writes states: one is ahead of Attio's"
                .into(),
        )
        .into())
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

fn say_of(entity: &EntityRef, what: std::fmt::Arguments<'_>) {
    tracing::error!(kind = entity.kind.as_str(), id = entity.id, "{what}");
}

/// Reads until it succeeds, or is not allowed.
pub async fn patiently<T>(mut read: impl AsyncFnMut() -> Result<T, ReadError>) -> Result<T, Error> {
    let mut pauses = Pauses::default();
    loop {
        match read().await {
            Ok(value) => return Ok(value),
            Err(ReadError::Denied { reason, .. }) => return Err(Error::Denied(reason)),
            Err(error) => pauses.pause(&error.to_string()).await,
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
