//! Publishes states that no event asks for, and reads again what something newer is known of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
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
pub(super) const ATTEMPTS: u32 = 6;

/// Entities that were left out, by name: of more only how many they are.
const NAMED: usize = 1000;

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
    /// Those that could not be read.
    pub failed: Failures,
}

/// What was published.
#[derive(Debug, Default)]
pub struct Stored {
    pub stored: u64,
    /// Those that could not be read again, or not be written.
    pub failed: Failures,
}

/// Entities that were left out. The log names each, with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Such as `record 891dcbfc-9141-415d-9b2a-2238a6cc012d`.
    pub named: BTreeSet<String>,
    /// How many there are beside those.
    pub more: u64,
}

impl Failures {
    pub fn count(&self) -> u64 {
        self.named.len() as u64 + self.more
    }

    pub fn add(&mut self, kind: Kind, id: &str) {
        self.add_named(format!("{} {id}", kind.as_str()));
    }

    /// Adds what was not gone through of a target.
    pub fn add_rest(&mut self, label: &str) {
        self.add_named(format!("what is left of {label}"));
    }

    fn add_named(&mut self, named: String) {
        if self.named.len() < NAMED {
            self.named.insert(named);
        } else if !self.named.contains(&named) {
            self.more += 1;
        }
    }

    /// Adds one, and names it in the log.
    fn say(&mut self, entity: &EntityRef, why: std::fmt::Arguments<'_>) {
        tracing::error!(kind = entity.kind.as_str(), id = &*entity.id, "{why}");
        self.add(entity.kind, &entity.id);
    }

    pub fn extend(&mut self, others: Self) {
        others.named.into_iter().for_each(|named| self.add_named(named));
        self.more += others.more;
    }
}

impl Reading {
    /// The state of an entity that was read; none if the time cannot be written.
    pub fn state(&self, at: OffsetDateTime, entity: &Entity) -> Option<(EntityRef, State)> {
        let state = envelope::state(&self.options, &self.names, entity, at)?;
        let container = match entity.kind {
            Kind::Record | Kind::Note => entity.object.as_deref(),
            Kind::ListEntry => entity.list.as_deref(),
            Kind::Comment => entity.list.as_deref().or(entity.object.as_deref()),
            Kind::Task => None,
        };
        let object = entity.object.as_deref().filter(|_| entity.kind == Kind::Comment);
        let (container, object) = (container.map(Arc::from), object.map(Arc::from));
        Some((EntityRef { kind: entity.kind, container, object, id: entity.id.as_str().into() }, state))
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
                            reread.failed.say(&entity, format_args!("cannot be read: {error}"));
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

    /// How many of those that have failed together to read at a time: each alone, if one alone can be read, as another of
    /// them may be what fails all.
    async fn group(&self, entities: &[EntityRef]) -> usize {
        let Some(one) = fastrand::choice(entities) else { return EntityReader::MAX_IDS };
        if self.reader.one(one).await.is_ok() { 1 } else { EntityReader::MAX_IDS }
    }
}

impl Writing {
    /// Publishes states, however long the broker is away, until each is stored, or something newer is. One that cannot be
    /// written is left out.
    pub async fn publish(&self, mut batch: Vec<(EntityRef, State)>) -> Result<Stored, Error> {
        let mut done = Stored::default();
        let (first, longest) = AGAIN;
        for round in 0.. {
            let outcomes = self.store(&batch).await?;
            // With what became of each, and the time at which it was last seen.
            let mut again = BTreeMap::new();
            for ((entity, state), outcome) in batch.drain(..).zip(outcomes) {
                match outcome {
                    Outcome::Done => done.stored += 1,
                    Outcome::Gone => {}
                    Outcome::Newer | Outcome::TooOld => drop(again.insert(entity, (outcome, state.at))),
                    Outcome::TooLarge { bytes } => {
                        let advice = self.publisher.limit();
                        done.failed.say(
                            &entity,
                            format_args!(
                                "its state of {bytes} bytes is larger than the broker takes: {advice}"
                            ),
                        );
                    }
                }
            }
            if round == ROUNDS {
                give_up(
                    again.into_iter().map(|(entity, (outcome, _))| (entity, outcome)).collect(),
                    &mut done,
                )?;
                break;
            }
            if again.is_empty() {
                break;
            }
            tokio::time::sleep((first * 2_u32.pow(round)).min(longest)).await;
            let reread = self.reading.read(again.keys().cloned().collect()).await?;
            done.failed.extend(reread.failed);
            for (entity, answer) in reread.found {
                match answer.value {
                    Single::Found(found) => batch.extend(self.reading.state(answer.accurate_at, &found)),
                    // `state run` has published a newer state, and reads whatever becomes of it.
                    Single::Gone if milliseconds(answer.complete_to) <= again[&entity].1 => {}
                    Single::Gone => batch.push(self.reading.tombstone(entity)),
                    Single::Unseen(hidden) if again[&entity].0 == Outcome::TooOld => done.failed.say(
                        &entity,
                        format_args!(
                            "cannot be read again: the key may not see its object or list {hidden} any more"
                        ),
                    ),
                    // Its event is still to come, or something newer is there already.
                    Single::MergeInProgress | Single::Unseen(_) => {}
                }
            }
        }
        Ok(done)
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

/// Leaves out what is still not written. If that is everything, and all of it counts as too old, no other would be either.
fn give_up(left: Vec<(EntityRef, Outcome)>, done: &mut Stored) -> Result<(), Error> {
    let all_too_old = left.iter().all(|(_, outcome)| *outcome == Outcome::TooOld);
    if !left.is_empty() && all_too_old && done.stored == 0 {
        return Err(Error::Setup(
            "what was read just now counts as too old to be stored: the clock of this host is ahead of Attio's: correct \
             the clock of this host"
                .into(),
        ));
    }
    for (entity, outcome) in left {
        let why = match outcome {
            Outcome::TooOld => "counts as too old to be stored: the clock of this host is ahead of Attio's",
            _ => {
                "the topic holds something newer than what Attio answers: the clock of a host that writes states is, or \
                 was, ahead"
            }
        };
        done.failed.say(&entity, format_args!("cannot be written: {why}"));
    }
    Ok(())
}

/// Reads until it succeeds, is not allowed, or is not there.
pub async fn patiently<T>(read: impl AsyncFnMut() -> Result<T, ReadError>) -> Result<T, Error> {
    within(u32::MAX, read).await
}

/// Reads until it succeeds, is not allowed, is not there, or has failed so often.
pub(super) async fn within<T>(
    attempts: u32,
    mut read: impl AsyncFnMut() -> Result<T, ReadError>,
) -> Result<T, Error> {
    let (mut pauses, mut missing) = (Pauses::default(), 0);
    loop {
        match read().await {
            Ok(value) => return Ok(value),
            Err(ReadError::Denied { reason, .. }) => return Err(Error::Denied(reason)),
            Err(ReadError::Missing(reason)) if missing + 1 >= ATTEMPTS => return Err(Error::Missing(reason)),
            Err(error) if pauses.count.saturating_add(1) >= attempts => {
                return Err(Error::Setup(error.to_string()));
            }
            Err(error) => {
                missing = if matches!(error, ReadError::Missing(_)) { missing + 1 } else { 0 };
                pauses.pause(&error.to_string()).await;
            }
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
        self.count = self.count.saturating_add(1);
    }
}
