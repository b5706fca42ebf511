//! The loop of `state run`: takes events, reads what is due, publishes, a batch at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::metrics::{EventResult, StateMetrics};
use super::names::Names;
use super::notice::{Notice, Says};
use super::read::{Found, read};
use super::settle::{Added, Event, Settle};
use super::{Options, envelope};
use crate::attio::entities::{Answer, Entity, EntityReader, EntityRef, ReadError, Single};
use crate::bus::read::Item;
use crate::bus::state::{Change, Outcome, Receipt, State, StateError};
use crate::bus::states::{Follower, Publisher};

/// Events that are taken and not done; more wait on the bus.
const MAX_HELD: usize = 50_000;
/// Requests under way at a time. Their rate is limited elsewhere.
const MAX_READS: usize = 8;
/// Entities in a request.
const GROUP: usize = 100;
/// States in a batch.
const BATCH: usize = 500;
/// How often positions are stored while there is no state to publish, and the metrics are set.
const TICK: Duration = Duration::from_millis(500);
/// Between two attempts to publish a batch.
const RETRY: Duration = Duration::from_millis(500);
/// How soon an entity is read again whose answer was too old, or whose merge is not finished.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// How much later than its event an answer must be that an entity does not exist.
const CERTAIN: Duration = Duration::from_secs(2);
/// An answer that is older than its event by more says that two clocks differ.
const CLOCKS: Duration = Duration::from_secs(10);
/// Between two warnings of a kind, and two looks at the names of objects and lists.
const PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bus(#[from] StateError),
    /// What to grant.
    #[error("{0}")]
    Denied(String),
}

/// Everything that the loop works with.
pub struct Run {
    pub options: Options,
    pub reader: EntityReader,
    pub publisher: Publisher,
    pub follower: Follower,
    pub names: Arc<Names>,
    pub metrics: Arc<StateMetrics>,
    pub now: fn() -> OffsetDateTime,
}

/// A state that waits to be published, with the events that it answers.
struct Ready {
    entity: Option<EntityRef>,
    state: Option<State>,
    events: Vec<Event>,
}

/// A batch, and what became of it.
type Published = (Vec<Ready>, Result<Vec<Outcome>, StateError>);

struct Engine {
    run: Shared,
    settle: Settle,
    /// The events that are not done, with the time of their receipt.
    held: BTreeMap<Receipt, OffsetDateTime>,
    ready: Vec<Ready>,
    /// Events that lead to nothing.
    idle: Vec<Event>,
    reads: JoinSet<Found>,
    publishing: JoinSet<Published>,
    published_at: Instant,
    looked_at: Option<Instant>,
    warned_at: Option<Instant>,
    warned_of_workspace: bool,
}

struct Shared {
    options: Options,
    reader: EntityReader,
    publisher: Publisher,
    names: Arc<Names>,
    metrics: Arc<StateMetrics>,
    now: fn() -> OffsetDateTime,
}

impl Run {
    /// Runs until `stop`; a batch that is being published is finished first.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self { options, reader, publisher, mut follower, names, metrics, now } = self;
        let mut engine = Engine {
            run: Shared { options, reader, publisher, names, metrics, now },
            settle: Settle::default(),
            held: BTreeMap::new(),
            ready: Vec::new(),
            idle: Vec::new(),
            reads: JoinSet::new(),
            publishing: JoinSet::new(),
            published_at: Instant::now(),
            looked_at: None,
            warned_at: None,
            warned_of_workspace: false,
        };
        let mut tick = tokio::time::interval(TICK);
        loop {
            engine.read();
            engine.publish();
            let due = engine.settle.next_due().filter(|_| engine.reads.len() < MAX_READS);
            let due = due.unwrap_or_else(|| Instant::now() + TICK);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(joined) = engine.publishing.join_next() => engine.published(flat(joined)?)?,
                Some(joined) = engine.reads.join_next() => engine.found(flat(joined)?)?,
                taken = follower.next(), if engine.held.len() < MAX_HELD => {
                    let (item, receipt) = taken?;
                    engine.take(&item, receipt).await?;
                }
                () = tokio::time::sleep_until(due.into()) => {}
                _ = tick.tick() => engine.measure(),
            }
        }
        match engine.publishing.join_next().await {
            Some(joined) => engine.published(flat(joined)?),
            None => Ok(()),
        }
    }
}

/// A task that panicked has logged why.
fn flat<T>(joined: Result<T, tokio::task::JoinError>) -> Result<T, Error> {
    joined.map_err(|error| Error::Bus(StateError::Lasting(error.to_string())))
}

impl Engine {
    async fn take(&mut self, item: &Item, receipt: Receipt) -> Result<(), Error> {
        match Notice::read(item) {
            Some(notice) => {
                self.held.insert(receipt, notice.recorded_at);
                let kind = notice.entity.kind;
                let other = notice.workspace.as_ref().filter(|named| **named != self.run.names.workspace);
                let result = if let Some(other) = other {
                    self.warn_of_workspace(other);
                    self.nothing((receipt, notice.recorded_at));
                    EventResult::Ignored
                } else {
                    self.look_at_names(&notice.entity).await?;
                    self.note(receipt, notice)
                };
                self.run.metrics.event(kind, result);
            }
            None => self.nothing((receipt, (self.run.now)())),
        }
        Ok(())
    }

    /// Notes what an event says. Returns what becomes of the event.
    fn note(&mut self, receipt: Receipt, notice: Notice) -> EventResult {
        let Notice { recorded_at, entity, says, .. } = notice;
        let event = (receipt, recorded_at);
        if !self.run.names.keep(&self.run.options, entity.kind, entity.container.as_deref()) {
            self.nothing(event);
            return EventResult::Ignored;
        }
        let (due, duplicate) = match says {
            Says::Gone => {
                self.gone(&entity, vec![event]);
                return EventResult::Gone;
            }
            Says::Merged(duplicate) => (Instant::now(), Some(duplicate)),
            Says::Changed => (self.due(recorded_at), None),
        };
        let result = match self.settle.changed(&entity, event, due) {
            Added::First => EventResult::Fetched,
            Added::Joined => EventResult::Coalesced,
            Added::Late => EventResult::Gone,
        };
        // A late event is done with the tombstone of the duplicate, any other with the survivor's state, which is
        // published behind it.
        let late = (result == EventResult::Gone).then_some(event);
        match duplicate {
            Some(duplicate) => self.gone(&duplicate, late.into_iter().collect()),
            None => late.into_iter().for_each(|event| self.nothing(event)),
        }
        result
    }

    /// When the changes of an entity are settled whose first event was received then.
    fn due(&self, recorded_at: OffsetDateTime) -> Instant {
        let age = Duration::try_from((self.run.now)() - recorded_at).unwrap_or_default();
        Instant::now() + self.run.options.settle.saturating_sub(age)
    }

    /// An event that leads to nothing.
    fn nothing(&mut self, event: Event) {
        self.held.insert(event.0, event.1);
        self.idle.push(event);
    }

    /// Publishes a tombstone, which answers these events and all others of the entity.
    fn gone(&mut self, entity: &EntityRef, mut events: Vec<Event>) {
        events.extend(self.settle.gone(entity));
        let state = Some(envelope::tombstone(&self.run.options, entity));
        self.ready.push(Ready { entity: Some(entity.clone()), state, events });
    }

    /// Reads the names again for an object or a list that is new, once a minute at most.
    async fn look_at_names(&mut self, entity: &EntityRef) -> Result<(), Error> {
        if self.run.names.knows(entity) || self.looked_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return Ok(());
        }
        self.looked_at = Some(Instant::now());
        match Names::read(&self.run.reader).await {
            Ok(names) => self.run.names = Arc::new(names),
            Err(ReadError::Denied { reason, .. }) => return Err(Error::Denied(reason)),
            Err(ReadError::Retryable(reason)) => tracing::warn!("names of objects and lists: {reason}"),
        }
        Ok(())
    }

    /// Starts the reads that are due.
    fn read(&mut self) {
        let room = MAX_READS.saturating_sub(self.reads.len());
        for group in self.settle.take_due(Instant::now(), room, GROUP) {
            self.reads.spawn(read(self.run.reader.clone(), group));
        }
    }

    fn found(&mut self, found: Found) -> Result<(), Error> {
        let entities = match found {
            Ok(entities) => entities,
            Err((_, ReadError::Denied { reason, .. })) => return Err(Error::Denied(reason)),
            Err((group, ReadError::Retryable(reason))) => {
                group.iter().for_each(|entity| self.failed(entity, &reason));
                return Ok(());
            }
        };
        for (entity, Answer { accurate_at, value }) in entities {
            let again = Instant::now() + AGAIN.0;
            match value {
                Single::MergeInProgress => {
                    self.settle.later(&entity, Instant::now() + AGAIN.1);
                    continue;
                }
                Single::Unseen => {
                    self.failed(&entity, "404, and the key may not see its object or list");
                    continue;
                }
                Single::Gone | Single::Found(_) => {}
            }
            // A tombstone is for ever, so an absence counts only if clocks that differ cannot explain it.
            let is_gone = matches!(value, Single::Gone);
            let certain = if is_gone { accurate_at - CERTAIN } else { accurate_at };
            let Some(events) = self.settle.answered(&entity, certain, again) else { continue };
            if events.is_empty() {
                // It was true before the first of its events.
                self.compare_clocks(&entity, accurate_at);
                continue;
            }
            match value {
                Single::Gone => self.gone(&entity, events),
                Single::Found(found) => self.found_one(entity, &found, accurate_at, events),
                Single::MergeInProgress | Single::Unseen => {}
            }
        }
        Ok(())
    }

    fn failed(&mut self, entity: &EntityRef, reason: &str) {
        if self.settle.failed(entity, Instant::now()) == Some(true) {
            tracing::error!(
                kind = entity.kind.as_str(),
                id = entity.id,
                "cannot be read, trying on: {reason}"
            );
        }
    }

    fn found_one(
        &mut self,
        entity: EntityRef,
        found: &Entity,
        accurate_at: OffsetDateTime,
        events: Vec<Event>,
    ) {
        let state = envelope::state(&self.run.options, &self.run.names, found, accurate_at);
        self.ready.push(Ready { entity: Some(entity), state, events });
    }

    /// Warns once of events of another workspace: read with this key, each would be 404.
    fn warn_of_workspace(&mut self, other: &str) {
        if !std::mem::replace(&mut self.warned_of_workspace, true) {
            tracing::warn!(
                "events of workspace {other} are ignored: ATTIO_API_KEY is a key of workspace {}",
                self.run.names.workspace
            );
        }
    }

    /// Warns of an answer that is much older than the request.
    fn compare_clocks(&mut self, entity: &EntityRef, accurate_at: OffsetDateTime) {
        let behind = Duration::try_from((self.run.now)() - accurate_at).unwrap_or_default();
        if behind > CLOCKS && self.warned_at.is_none_or(|at| at.elapsed() > PAUSE) {
            self.warned_at = Some(Instant::now());
            tracing::warn!(
                kind = entity.kind.as_str(),
                id = entity.id,
                "Attio's answer is {} s old, older than the event: reading again until it is not; if this lasts, the \
                 clocks of the bridge and of Attio differ",
                behind.as_secs()
            );
        }
    }

    /// Starts to publish what is ready, unless a batch is under way.
    fn publish(&mut self) {
        let is_due = !self.idle.is_empty() && self.published_at.elapsed() > TICK;
        if !self.publishing.is_empty() || (self.ready.is_empty() && !is_due) {
            return;
        }
        // In order: of two states of an entity the older one came first.
        let mut batch: Vec<Ready> = self.ready.drain(..self.ready.len().min(BATCH)).collect();
        let events = std::mem::take(&mut self.idle);
        batch.push(Ready { entity: None, state: None, events });
        self.send(batch, Duration::ZERO);
    }

    fn send(&mut self, batch: Vec<Ready>, after: Duration) {
        let publisher = self.run.publisher.clone();
        let change = |ready: &Ready| Change {
            state: ready.state.clone(),
            events: ready.events.iter().map(|(receipt, _)| *receipt).collect(),
        };
        let changes = batch.iter().map(change).collect();
        self.publishing.spawn(async move {
            tokio::time::sleep(after).await;
            let outcomes = publisher.publish(changes).await;
            (batch, outcomes)
        });
    }

    fn published(&mut self, (batch, outcomes): Published) -> Result<(), Error> {
        self.published_at = Instant::now();
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(StateError::Passing(reason)) => {
                if self.warned_at.is_none_or(|at| at.elapsed() > PAUSE) {
                    self.warned_at = Some(Instant::now());
                    tracing::warn!("states are not stored, trying on: {reason}");
                }
                self.send(batch, RETRY);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for (Ready { entity, state, events }, outcome) in batch.into_iter().zip(outcomes) {
            if outcome == Outcome::Newer {
                if let Some(entity) = entity {
                    self.settle.again(entity, events, Instant::now() + AGAIN.0);
                }
                continue;
            }
            for (receipt, _) in &events {
                self.held.remove(receipt);
            }
            if let (Some(entity), Some(_), Outcome::Done) = (entity, state, outcome) {
                self.run.metrics.published(entity.kind);
            }
        }
        Ok(())
    }

    fn measure(&self) {
        let metrics = &self.run.metrics;
        let oldest = self.held.values().next().map(|at| ((self.run.now)() - *at).as_seconds_f64());
        metrics.lag.set(oldest.unwrap_or_default().max(0.0));
        metrics.backlog.set(i64::try_from(self.held.len()).unwrap_or(i64::MAX));
        metrics.stuck.set(i64::try_from(self.settle.stuck()).unwrap_or(i64::MAX));
    }
}
