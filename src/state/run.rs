//! The loop of `state run`: takes events, reads what is due, publishes, a batch at a time.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::known::{Known, flat};
use super::metrics::{EventResult, StateMetrics};
use super::names::Names;
use super::notice::{Notice, Says};
use super::read::{Found, read};
use super::settle::{Added, Event, Settle, Tries};
use super::warnings::Warnings;
use super::{Error, Options, envelope};
use crate::attio::entities::{Answer, EntityReader, EntityRef, ReadError, Single};
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
    tries: Tries,
}

/// A batch, and what became of it.
type Published = (Vec<Ready>, Result<Vec<Outcome>, StateError>);

struct Engine {
    run: Shared,
    known: Known,
    settle: Settle,
    /// The events that are not done, with the time of their receipt.
    held: BTreeMap<Receipt, OffsetDateTime>,
    /// What cannot be read, or is too large to be published.
    stuck: HashSet<EntityRef>,
    ready: Vec<Ready>,
    /// Events that lead to nothing.
    idle: Vec<Event>,
    reads: JoinSet<Found>,
    publishing: JoinSet<Published>,
    published_at: Instant,
    warnings: Warnings,
}

struct Shared {
    options: Options,
    reader: EntityReader,
    publisher: Publisher,
    metrics: Arc<StateMetrics>,
    now: fn() -> OffsetDateTime,
}

impl Run {
    /// Runs until `stop`; a batch that is being published is finished first.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self { options, reader, publisher, mut follower, names, metrics, now } = self;
        let mut engine = Engine {
            known: Known::new(names, reader.clone()),
            run: Shared { options, reader, publisher, metrics, now },
            settle: Settle::default(),
            held: BTreeMap::new(),
            stuck: HashSet::new(),
            ready: Vec::new(),
            idle: Vec::new(),
            reads: JoinSet::new(),
            publishing: JoinSet::new(),
            published_at: Instant::now(),
            warnings: Warnings::default(),
        };
        let mut tick = tokio::time::interval(TICK);
        loop {
            engine.known.renew();
            engine.read();
            engine.publish();
            let due = engine.settle.next_due().filter(|_| engine.reads.len() < MAX_READS);
            let due = due.unwrap_or_else(|| Instant::now() + TICK);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(joined) = engine.publishing.join_next() => engine.published(flat(joined)?)?,
                Some(joined) = engine.reads.join_next() => engine.found(flat(joined)?)?,
                Some(joined) = engine.known.read() => {
                    for (receipt, notice) in engine.known.renewed(flat(joined)?)? {
                        engine.take_notice(receipt, notice);
                    }
                }
                taken = follower.next(), if engine.held.len() < MAX_HELD => {
                    let (item, receipt) = taken?;
                    engine.take(&item, receipt);
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

impl Engine {
    fn take(&mut self, item: &Item, receipt: Receipt) {
        match Notice::read(item) {
            Some(notice) => {
                self.held.insert(receipt, notice.recorded_at);
                self.take_notice(receipt, notice);
            }
            None => self.nothing((receipt, (self.run.now)())),
        }
    }

    fn take_notice(&mut self, receipt: Receipt, notice: Notice) {
        let own = &self.known.names().workspace;
        let result = if let Some(other) = notice.workspace.as_ref().filter(|named| *named != own) {
            self.warnings.of_workspace(other, own);
            self.nothing((receipt, notice.recorded_at));
            (notice.entity.kind, EventResult::Ignored)
        } else {
            let Some(notice) = self.known.decide(receipt, notice) else { return };
            (notice.entity.kind, self.note(receipt, notice))
        };
        self.run.metrics.event(result.0, result.1);
    }

    /// Notes what an event says. Returns what becomes of the event.
    fn note(&mut self, receipt: Receipt, notice: Notice) -> EventResult {
        let Notice { recorded_at, entity, says, .. } = notice;
        let event = (receipt, recorded_at);
        let names = self.known.names();
        let is_known = names.knows(&entity);
        // A list that was deleted before the start is not known, and its entries may still be told to be gone.
        let is_unseen = !is_known && says != Says::Gone;
        let is_kept = names.keep(&self.run.options, entity.kind, entity.container.as_deref());
        if is_unseen || (is_known && !is_kept) {
            if is_unseen {
                self.warnings.of_unseen(&entity);
            }
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
        self.ready.push(Ready { entity: Some(entity.clone()), state, events, tries: Tries::default() });
    }

    /// Starts the reads that are due.
    fn read(&mut self) {
        let room = MAX_READS.saturating_sub(self.reads.len());
        for group in self.settle.take_due(Instant::now(), room, GROUP) {
            self.reads.spawn(read(self.run.reader.clone(), group));
        }
    }

    fn found(&mut self, found: Found) -> Result<(), Error> {
        for (entity, answer) in found {
            match answer {
                Ok(answer) => self.found_one(entity, answer),
                Err(ReadError::Denied { reason, .. }) => return Err(Error::Denied(reason)),
                Err(ReadError::Retryable(reason)) => {
                    if self.settle.failed(&entity, Instant::now()) == Some(true) {
                        self.stuck(&entity, format_args!("cannot be read, trying on: {reason}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn found_one(&mut self, entity: EntityRef, answer: Answer<Single>) {
        let Answer { accurate_at, complete_to, value } = answer;
        let now = Instant::now();
        if matches!(value, Single::MergeInProgress) {
            return self.settle.not_yet(&entity, now);
        }
        let Some((events, tries)) = self.settle.answered(&entity, complete_to, now) else { return };
        if events.is_empty() {
            return self.warnings.of_clocks(&entity, (self.run.now)() - accurate_at);
        }
        match value {
            Single::Gone => self.gone(&entity, events),
            Single::Found(found) => {
                let state = envelope::state(&self.run.options, self.known.names(), &found, accurate_at);
                self.ready.push(Ready { entity: Some(entity), state, events, tries });
            }
            Single::Unseen => {
                self.warnings.of_unseen(&entity);
                self.stuck.remove(&entity);
                for event in events {
                    self.run.metrics.event(entity.kind, EventResult::Ignored);
                    self.nothing(event);
                }
            }
            Single::MergeInProgress => {}
        }
    }

    fn stuck(&mut self, entity: &EntityRef, why: fmt::Arguments<'_>) {
        if self.stuck.insert(entity.clone()) {
            tracing::error!(kind = entity.kind.as_str(), id = entity.id, "{why}");
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
        batch.push(Ready { entity: None, state: None, events, tries: Tries::default() });
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
                self.warnings.of_broker(&reason);
                self.send(batch, RETRY);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for (Ready { entity, state, events, tries }, outcome) in batch.into_iter().zip(outcomes) {
            match (outcome, entity) {
                (Outcome::Newer, Some(entity)) => self.settle.again(entity, events, tries, Instant::now()),
                (Outcome::TooLarge { bytes }, Some(entity)) => {
                    let advice = self.run.publisher.limit();
                    self.stuck(
                        &entity,
                        format_args!(
                            "its state of {bytes} bytes is larger than the broker takes, trying on: {advice}"
                        ),
                    );
                    self.settle.refused(entity, events, tries, Instant::now());
                }
                (_, entity) => {
                    for (receipt, _) in &events {
                        self.held.remove(receipt);
                    }
                    let Some(entity) = entity else { continue };
                    if self.stuck.remove(&entity) {
                        tracing::info!(kind = entity.kind.as_str(), id = entity.id, "no longer stuck");
                    }
                    if state.is_some() && outcome == Outcome::Done {
                        self.run.metrics.published(entity.kind);
                    }
                }
            }
        }
        Ok(())
    }

    fn measure(&self) {
        let metrics = &self.run.metrics;
        let oldest = self.held.values().next().map(|at| ((self.run.now)() - *at).as_seconds_f64());
        metrics.lag.set(oldest.unwrap_or_default().max(0.0));
        metrics.backlog.set(i64::try_from(self.held.len()).unwrap_or(i64::MAX));
        metrics.stuck.set(i64::try_from(self.stuck.len()).unwrap_or(i64::MAX));
    }
}
