//! The path of one delivery. [`Pipeline::handle`] runs the stages in the order of the modules below.
//!
//! [`Pipeline::process`] has two phases: it enqueues every event with the bus (`enqueue.rs`), and only then awaits the
//! acks, here. Where replicas share a store, an event is claimed there before it is enqueued (`claim.rs`). A 200 follows
//! from an [`Outcome`] in which no event failed.
//!
//! Nothing here speaks HTTP or a broker's protocol. Stages exchange values, which `tests/it/layers.rs` lists. The
//! pipeline returns facts, which `http` turns into an answer, metrics and a log line.

pub mod verify;
pub mod parse;
pub mod filter;
pub mod identify;
pub mod route;
pub mod dedup;
pub mod normalize;
pub mod publish;
pub mod quarantine;
pub mod store;

mod claim;
mod enqueue;
pub mod outcome;
pub mod slugs;

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::time::Sleep;
use tokio_util::task::TaskTracker;

use crate::catalog;
use crate::delivery::{Delivery, SourceName, Unverified, Verified};
use crate::metrics::Metrics;
use claim::Claims;
use dedup::{AckReceiver, Dedup};
pub use enqueue::SourceOptions;
use enqueue::{Enqueuer, PendingEvent, Source, Stages, State, take_unclaimed};
use outcome::{EventOutcome, EventResult, Outcome};
use parse::{Element, Parsed};
use publish::{Bus, PublishError, PublishResult};
use route::Routes;
use slugs::Slugs;
use store::Store;
use verify::SignatureError;

pub struct Pipeline {
    sources: HashMap<SourceName, Source>,
    stages: Stages,
}

/// Events to process before yielding to other deliveries.
const EVENTS_PER_TURN: usize = 64;

/// Yields to other deliveries every [`EVENTS_PER_TURN`] events.
async fn take_turns(done: usize) {
    if done % EVENTS_PER_TURN == EVENTS_PER_TURN - 1 {
        tokio::task::yield_now().await;
    }
}

/// The position of a quarantined event in its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPosition {
    /// The webhook that fired.
    pub webhook_id: Option<String>,
    /// From 0.
    pub index: usize,
}

/// The elements of a body with their index; a body that is quarantined whole has none.
type Indexed<'a> = Vec<(Option<usize>, Element<'a>)>;

/// The webhook id and the elements of a body.
fn parse(body: &Bytes) -> (Option<Cow<'_, str>>, Indexed<'_>) {
    match parse::parse(body) {
        Parsed::Events { webhook_id, elements } => {
            let indexed = elements.into_iter().enumerate();
            (webhook_id, indexed.map(|(index, element)| (Some(index), element)).collect())
        }
        Parsed::Unreadable(reason) => (None, vec![(None, Element::Unusable { raw: body.clone(), reason })]),
    }
}

/// Why a delivery is refused before it is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("no such source")]
    UnknownSource,
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

impl Pipeline {
    pub fn new(
        sources: &[SourceOptions],
        routes: Routes,
        dedup: Dedup,
        bus: Arc<dyn Bus>,
        metrics: &Metrics,
    ) -> Self {
        let publish_metrics = |address: Arc<str>| (Arc::clone(&address), metrics.publish(&address));
        let publish_metrics = routes.addresses().into_iter().map(publish_metrics).collect();
        let sources = sources.iter().map(|options| (options.name.clone(), Source::new(options))).collect();
        Self {
            sources,
            stages: Stages {
                dedup,
                claims: None,
                slugs: ArcSwapOption::empty(),
                routes,
                schema_base_url: None,
                bus,
                publish_metrics,
            },
        }
    }

    /// The same, whose events name the schema of their data: `<base_url>/<event_type>.json`.
    pub fn with_schemas(mut self, base_url: Option<String>) -> Self {
        self.stages.schema_base_url = base_url;
        self
    }

    /// The same, with a memory of acknowledged ids that other replicas share. `waiting` tracks what awaits them.
    pub fn with_store(mut self, store: Option<Arc<dyn Store>>, waiting: TaskTracker) -> Self {
        let bus = Arc::clone(&self.stages.bus);
        self.stages.claims = store.map(|store| Claims { store, bus, waiting });
        self
    }

    pub fn source(&self, name: &str) -> Option<&SourceName> {
        self.sources.keys().find(|source| source.as_str() == name)
    }

    /// Replaces the secrets of a source, from the next delivery on.
    pub fn set_secrets(&self, source: &SourceName, secrets: &[verify::Secret]) {
        if let Some(Source { verifier, .. }) = self.sources.get(source) {
            verifier.store(verifier.load().with_secrets(secrets).into());
        }
    }

    /// Replaces the slugs, in events and in filters, from the next event on.
    pub fn set_slugs(&self, slugs: &Arc<Slugs>) {
        self.stages.slugs.store(Some(Arc::clone(slugs)));
        for Source { filter, .. } in self.sources.values() {
            filter.store(filter.load().with_slugs(slugs).into());
        }
    }

    /// Verifies a delivery and processes it. `on_parsed` is called with the number of events before any of
    /// them is published.
    pub async fn handle(
        &self,
        delivery: Delivery<Unverified>,
        on_parsed: impl FnOnce(usize),
    ) -> Result<Outcome, Rejection> {
        let source = self.sources.get(&delivery.source).ok_or(Rejection::UnknownSource)?;
        let delivery = source.verifier.load().verify(delivery)?;
        tracing::debug!(source = source.name.as_str(), secret = &**delivery.secret(), "signature verified");
        let (webhook_id, elements) = parse(&delivery.body);
        on_parsed(elements.len());
        Ok(self.process(source, &delivery, webhook_id, elements, true).await)
    }

    /// Processes a delivery that is verified already.
    pub async fn process_verified(&self, delivery: Delivery<Verified>) -> Result<Outcome, Rejection> {
        let source = self.sources.get(&delivery.source).ok_or(Rejection::UnknownSource)?;
        let (webhook_id, elements) = parse(&delivery.body);
        Ok(self.process(source, &delivery, webhook_id, elements, true).await)
    }

    /// Processes what comes out of quarantine, under the ids that its events had: one event, where a position
    /// is given, or a whole delivery. What still cannot be published ends as [`EventResult::Unusable`] or
    /// [`PublishError::Rejected`], and is not quarantined again.
    pub async fn replay(
        &self,
        delivery: Delivery<Verified>,
        position: Option<EventPosition>,
    ) -> Result<Outcome, Rejection> {
        let source = self.sources.get(&delivery.source).ok_or(Rejection::UnknownSource)?;
        let (webhook_id, elements) = match position {
            Some(EventPosition { webhook_id, index }) => {
                (webhook_id.map(Cow::Owned), vec![(Some(index), parse::parse_element(&delivery.body))])
            }
            None => parse(&delivery.body),
        };
        Ok(self.process(source, &delivery, webhook_id, elements, false).await)
    }

    async fn process(
        &self,
        source: &Source,
        delivery: &Delivery<Verified>,
        webhook_id: Option<Cow<'_, str>>,
        elements: Indexed<'_>,
        quarantine: bool,
    ) -> Outcome {
        let enqueuer = Enqueuer { stages: &self.stages, source, delivery, webhook_id, quarantine };
        let mut pending = Vec::with_capacity(elements.len());
        for (done, (index, element)) in elements.into_iter().enumerate() {
            take_turns(done).await;
            pending.push(enqueuer.enqueue(index, element));
        }

        if let Some(claims) = &self.stages.claims {
            claims.publish(take_unclaimed(&mut pending), delivery.answer_by).await;
        }

        // The last ack is awaited first: when it is there, most of the others are, and this task is woken once
        // instead of once for each.
        let mut answer_due = pin!(tokio::time::sleep_until(delivery.answer_by));
        for event in pending.iter_mut().rev() {
            event.state = State::Done(event.await_ack(answer_due.as_mut()).await);
        }

        // What the broker rejected goes to quarantine: again everything is enqueued before an ack is awaited.
        let mut rejection = None;
        for (done, event) in pending.iter_mut().enumerate() {
            take_turns(done).await;
            rejection = enqueuer.quarantine_if_rejected(event).or(rejection);
        }
        if let (Some(_), Some(claims)) = (&rejection, &self.stages.claims) {
            claims.publish(take_unclaimed(&mut pending), delivery.answer_by).await;
        }
        let unidentified = pending.iter().filter(|event| event.unidentified).count();
        let mut events = Vec::with_capacity(pending.len());
        for mut event in pending {
            let result = event.await_ack(answer_due.as_mut()).await;
            events.push(EventOutcome { category: event.category, result, details: event.details });
        }

        Outcome {
            events,
            unidentified,
            rejection,
            delivery_id: delivery.idempotency_key().map(str::to_owned),
            webhook_id: enqueuer.webhook_id.filter(|id| catalog::is_id(id)).map(Cow::into_owned),
            secret: Arc::clone(delivery.secret()),
        }
    }
}

impl PendingEvent {
    /// Awaits the ack, at most until the answer is due. The publish continues after that, and its ack is remembered.
    async fn await_ack(&mut self, answer_due: Pin<&mut Sleep>) -> EventResult {
        let (ack, acknowledged) = match mem::replace(&mut self.state, State::ABANDONED) {
            State::Done(result) => return result,
            State::Enqueued { ack, quarantined: true } => {
                (receive(ack, answer_due).await.map_err(rejected_by_quarantine), EventResult::Quarantined)
            }
            State::Enqueued { ack, quarantined: false } => {
                (receive(ack, answer_due).await, EventResult::Published)
            }
            State::Joined { ack } => (receive(ack, answer_due).await, EventResult::Duplicate),
            State::Unclaimed { .. } => return EventResult::Failed(PublishError::Abandoned),
        };
        if let (Ok(ack), Some(details)) = (&ack, &mut self.details) {
            details.position = ack.position;
        }
        match ack {
            Ok(ack) if ack.duplicate => EventResult::Duplicate,
            Ok(_) => acknowledged,
            Err(error) => EventResult::Failed(error),
        }
    }
}

async fn receive(ack: AckReceiver, answer_due: Pin<&mut Sleep>) -> PublishResult {
    tokio::select! {
        biased;
        result = ack => result.unwrap_or(Err(PublishError::Abandoned)),
        () = answer_due => Err(PublishError::answer_overdue()),
    }
}

/// The quarantine topic must accept everything, so what it rejects is a matter of its configuration.
fn rejected_by_quarantine(error: PublishError) -> PublishError {
    let PublishError::Rejected { detail } = error else { return error };
    let detail = format!(
        "the quarantine topic rejected it too: {detail}; raise its size limit (max.message.bytes of the topic, or \
         max_msg_size of the stream and max_payload of the server)"
    );
    PublishError::Rejected { detail: detail.into() }
}
