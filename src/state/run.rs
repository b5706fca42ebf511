//! The loop of `state run`: takes events, reads what is due, publishes, a batch at a time.

mod catch_up;
mod publishing;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::catch_up::CatchUp;
use super::known::{Known, flat};
use super::metrics::{EventResult, StateMetrics};
use super::names::Names;
use super::notice::{CLOCKS, Notice, Says, latest_receipt};
use super::read::{Found, read};
use super::settle::{Added, Event, Settle, Tries};
use super::warnings::Warnings;
use super::{Error, Options, envelope};
use crate::attio::entities::{Answer, EntityReader, EntityRef, Kind, ReadError, Single};
use crate::bus::read::Item;
use crate::bus::state::{Outcome, Receipt, State, StateError};
use crate::bus::states::{Follower, Publisher};

/// Events that are taken and not done; more wait on the bus.
const MAX_HELD: usize = 50_000;
/// More events that are taken at once if they are there.
const AT_ONCE: usize = 50;
/// Requests under way at a time. Their rate is limited elsewhere.
const MAX_READS: usize = 8;
/// Entities in a request.
const GROUP: usize = 100;
/// Entities that are due so much later are read with those that are due.
const JOIN: Duration = Duration::from_millis(50);
/// States in a batch.
const BATCH: usize = 500;
/// How often positions are stored while there is no state to publish, and the metrics are set.
const TICK: Duration = Duration::from_millis(500);
/// How much later than its event an answer must be that an entity does not exist.
const CERTAIN: Duration = Duration::from_secs(2);

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

/// An event that is not done.
struct Held {
    received_at: OffsetDateTime,
    /// As what it counts; none if it is not about an entity, or that is not known yet.
    counts_as: Option<(Kind, EventResult)>,
    is_counted: bool,
}

struct Engine {
    run: Shared,
    known: Known,
    settle: Settle,
    /// The events that are not done.
    held: BTreeMap<Receipt, Held>,
    /// What cannot be read, is too large to be published, or of which the answers are too old all the time.
    stuck: HashSet<EntityRef>,
    ready: Vec<Ready>,
    /// Events that lead to nothing.
    idle: Vec<Event>,
    reads: JoinSet<Found>,
    catch_up: CatchUp,
    publishing: JoinSet<Published>,
    published_at: Instant,
    /// Whether it is the turn of what the broker has refused before.
    turn: bool,
    warnings: Warnings,
}

struct Shared {
    options: Arc<Options>,
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
            run: Shared { options: Arc::new(options), reader, publisher, metrics, now },
            settle: Settle::default(),
            held: BTreeMap::new(),
            stuck: HashSet::new(),
            ready: Vec::new(),
            idle: Vec::new(),
            reads: JoinSet::new(),
            catch_up: CatchUp::default(),
            publishing: JoinSet::new(),
            published_at: Instant::now(),
            turn: false,
            warnings: Warnings::default(),
        };
        let mut tick = tokio::time::interval(TICK);
        loop {
            engine.known.renew(engine.catch_up.waits_for_names());
            engine.read();
            engine.publish();
            engine.catch_up();
            let may_read = engine.reads.len() < MAX_READS && engine.ready.len() < 2 * BATCH;
            let due = engine.settle.next_due().filter(|_| may_read);
            let due = due.unwrap_or_else(|| Instant::now() + TICK);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(joined) = engine.publishing.join_next() => engine.published(flat(joined)?)?,
                Some(joined) = engine.reads.join_next() => engine.found(flat(joined)?)?,
                Some(joined) = engine.known.read() => {
                    for (receipt, notice) in engine.known.renewed(flat(joined)?)? {
                        engine.note(receipt, notice);
                    }
                    engine.shown();
                }
                Some(walked) = engine.catch_up.next() => engine.catch_up.walked(walked)?,
                taken = follower.next(), if engine.held.len() < MAX_HELD => {
                    let (item, receipt) = taken?;
                    engine.take(&item, receipt);
                    for _ in 0..AT_ONCE {
                        // Cancel safe.
                        let Some(taken) = follower.next().now_or_never() else { break };
                        let (item, receipt) = taken?;
                        engine.take(&item, receipt);
                    }
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
                self.hold(receipt, notice.recorded_at);
                self.take_notice(receipt, notice);
            }
            None => {
                let now = (self.run.now)();
                self.hold(receipt, now);
                self.nothing((receipt, now));
            }
        }
    }

    fn hold(&mut self, receipt: Receipt, received_at: OffsetDateTime) {
        self.held.insert(receipt, Held { received_at, counts_as: None, is_counted: false });
    }

    /// Says as what an event counts, instead of what was said before.
    fn counts_as(&mut self, receipt: Receipt, kind: Kind, result: EventResult) {
        if let Some(held) = self.held.get_mut(&receipt) {
            held.counts_as = Some((kind, result));
        }
    }

    fn take_notice(&mut self, receipt: Receipt, notice: Notice) {
        let own = &self.known.names().workspace;
        if let Some(other) = notice.workspace.as_ref().filter(|named| *named != own) {
            self.warnings.of_workspace(other, own);
            self.counts_as(receipt, notice.entity.kind, EventResult::Ignored);
            return self.nothing((receipt, notice.recorded_at));
        }
        if let Some(notice) = self.known.decide(receipt, notice) {
            self.note(receipt, notice);
        }
    }

    /// Notes what an event says, and as what it counts.
    fn note(&mut self, receipt: Receipt, notice: Notice) {
        let kind = notice.entity.kind;
        let result = self.result(receipt, notice);
        self.counts_as(receipt, kind, result);
    }

    fn result(&mut self, receipt: Receipt, notice: Notice) -> EventResult {
        let Notice { recorded_at, entity, says, .. } = notice;
        let event = (receipt, recorded_at);
        let names = self.known.names();
        let is_known = names.knows(&entity);
        let is_kept = names.keep(&self.run.options, entity.kind, entity.container.as_deref());
        let names_at = names.complete_to;
        if is_known && !is_kept {
            self.nothing(event);
            return EventResult::Ignored;
        }
        // What is said to be gone is so, whatever can be seen of its object or list.
        if !is_known && says != Says::Gone {
            let hidden = entity.container.clone().unwrap_or_default();
            self.unseen(&entity, &hidden, names_at);
            if let Says::Merged(duplicate) = says {
                self.gone(&duplicate, vec![event]);
                return EventResult::Gone;
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
        let (result, is_done) = match self.settle.changed(&entity, event, due) {
            Added::First => (EventResult::Fetched, false),
            Added::Joined => (EventResult::Coalesced, false),
            Added::Absorbed => (EventResult::Coalesced, true),
            Added::Late => (EventResult::Gone, true),
        };
        // One that is done is so with the tombstone of the duplicate, any other with the survivor's state, which is
        // published behind it.
        let late = is_done.then_some(event);
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
        if self.ready.len() >= 2 * BATCH {
            return;
        }
        let room = MAX_READS.saturating_sub(self.reads.len());
        for group in self.settle.take_due(Instant::now() + JOIN, room, GROUP) {
            self.reads.spawn(read(self.run.reader.clone(), group));
        }
    }

    fn found(&mut self, found: Found) -> Result<(), Error> {
        if let Some((answered, _)) = found.iter().find(|(_, answer)| answer.is_ok()) {
            self.settle.is_answered(answered, Instant::now());
        }
        for (entity, answer) in found {
            match answer {
                Ok(answer) => self.found_one(entity, answer),
                Err(ReadError::Denied { reason, .. }) => return Err(Error::Denied(reason)),
                Err(error) => {
                    let is_of_one = matches!(error, ReadError::OfOne(_));
                    if self.settle.failed(&entity, is_of_one, Instant::now()) {
                        self.stuck(&entity, format_args!("cannot be read, trying on: {error}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn found_one(&mut self, entity: EntityRef, answer: Answer<Single>) {
        let Answer { accurate_at, complete_to, sent_at, value } = answer;
        let now = Instant::now();
        if matches!(value, Single::MergeInProgress) {
            if self.settle.not_yet(&entity, now).are_late() {
                self.stuck(&entity, format_args!("the merge that makes it is still in progress, trying on"));
            }
            return;
        }
        if let Some(ahead) = sent_at.and_then(|at| self.settle.bound(&entity, latest_receipt(at))) {
            self.warnings.of_receipts(&entity, ahead + CLOCKS);
        }
        // A tombstone is for ever, so an absence counts only if clocks that differ a little cannot explain it.
        let is_gone = matches!(value, Single::Gone);
        let complete_to = if is_gone { complete_to - CERTAIN } else { complete_to };
        let Some((events, tries)) = self.settle.answered(&entity, complete_to, now) else { return };
        if events.is_empty() {
            self.warnings.of_clocks(&entity, (self.run.now)() - accurate_at);
            return self.late(&entity, tries);
        }
        match value {
            Single::Gone => self.gone(&entity, events),
            Single::Found(found) => {
                let state = envelope::state(&self.run.options, self.known.names(), &found, accurate_at);
                self.ready.push(Ready { entity: Some(entity), state, events, tries });
            }
            Single::Unseen(hidden) => {
                self.unseen(&entity, &hidden, accurate_at);
                self.stuck.remove(&entity);
                for event in events {
                    self.counts_as(event.0, entity.kind, EventResult::Ignored);
                    self.nothing(event);
                }
            }
            Single::MergeInProgress => {}
        }
    }

    /// After many answers that were too old an entity counts as stuck. Warnings about clocks say why: it is so for all.
    fn late(&mut self, entity: &EntityRef, tries: Tries) {
        if tries.are_late() {
            self.stuck.insert(entity.clone());
        }
    }

    fn stuck(&mut self, entity: &EntityRef, why: fmt::Arguments<'_>) {
        if self.stuck.insert(entity.clone()) {
            tracing::error!(kind = entity.kind.as_str(), id = &*entity.id, "{why}");
        }
    }

    fn measure(&self) {
        let metrics = &self.run.metrics;
        let oldest = self.held.values().map(|held| held.received_at).min();
        let oldest = oldest.map(|at| ((self.run.now)() - at).as_seconds_f64());
        metrics.lag.set(oldest.unwrap_or_default().max(0.0));
        metrics.backlog.set(i64::try_from(self.held.len()).unwrap_or(i64::MAX));
        let names = self.stuck.iter().map(|entity| format!("{} {}", entity.kind.as_str(), entity.id));
        let stuck = self.stuck.len() + self.catch_up.left_out(names);
        metrics.stuck.set(i64::try_from(stuck).unwrap_or(i64::MAX));
    }
}
