//! Enqueues the events of one delivery with the bus. Nothing here waits.

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;

use super::claim::{Claims, Unclaimed};
use super::dedup::{AckReceiver, Dedup, Lookup};
use super::filter::{self, Filter};
use super::identify::{Facts, Identity};
use super::normalize;
use super::outcome::{EventDetails, EventResult, MAX_DETAILS, UNKNOWN_CATEGORY};
use super::parse::{Element, Event};
use super::publish::{Bus, BusState, Destination, Message, PublishError, PublishHandle};
use super::quarantine;
use super::route::Routes;
use super::slugs::Slugs;
use super::verify::{self, Verifier};
use crate::catalog::{Category, WORKSPACE_ID};
use crate::cloudevent::{Attribute, CloudEvent};
use crate::delivery::{Context, Delivery, SourceName, Verified};
use crate::metrics::PublishMetrics;
use crate::traces::{PublishSpan, Trace};

/// One configured source.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Path segment and metric label.
    pub name: SourceName,
    pub verify: verify::Options,
    /// Which of its events are dropped.
    pub filter: filter::Options,
    /// The workspace of events that name none.
    pub workspace_id: Option<String>,
}

/// One source of a running pipeline.
pub(super) struct Source {
    pub(super) name: SourceName,
    /// Replaced when secrets are reloaded.
    pub(super) verifier: ArcSwap<Verifier>,
    /// Replaced when slugs are reloaded.
    pub(super) filter: ArcSwap<Filter>,
    workspace_id: Option<String>,
}

impl Source {
    pub(super) fn new(options: &SourceOptions) -> Self {
        Self {
            name: options.name.clone(),
            verifier: ArcSwap::from_pointee(Verifier::new(&options.verify)),
            filter: ArcSwap::from_pointee(Filter::new(&options.filter)),
            workspace_id: options.workspace_id.clone(),
        }
    }
}

/// The stages that keep state, shared by all deliveries.
pub(super) struct Stages {
    pub(super) dedup: Dedup,
    /// None if no replica shares the memory.
    pub(super) claims: Option<Claims>,
    /// None if no slugs are configured.
    pub(super) slugs: ArcSwapOption<Slugs>,
    pub(super) routes: Routes,
    /// None if the configuration names none: then events carry no `dataschema`.
    pub(super) schema_base_url: Option<String>,
    pub(super) bus: Arc<dyn Bus>,
    /// By address.
    pub(super) publish_metrics: HashMap<Arc<str>, Arc<PublishMetrics>>,
}

/// Enqueues the events of one delivery.
pub(super) struct Enqueuer<'a> {
    pub(super) stages: &'a Stages,
    pub(super) source: &'a Source,
    pub(super) delivery: &'a Delivery<Verified>,
    pub(super) webhook_id: Option<Cow<'a, str>>,
    /// Whether events that cannot be published go to quarantine; false for a replay from it.
    pub(super) quarantine: bool,
}

/// One event between enqueue and outcome.
pub(super) struct PendingEvent {
    index: Option<usize>,
    pub(super) category: &'static str,
    /// What quarantine needs if the broker rejects the event; none if it is quarantined already.
    raw: Option<RawEvent>,
    pub(super) state: State,
    /// Its id is random.
    pub(super) unidentified: bool,
    pub(super) details: Option<Box<EventDetails>>,
}

struct RawEvent {
    raw: Bytes,
    workspace_id: Option<String>,
}

pub(super) enum State {
    Done(EventResult),
    /// Enqueued by this delivery.
    Enqueued {
        ack: AckReceiver,
        quarantined: bool,
    },
    /// To be claimed in the store, then enqueued.
    Unclaimed {
        event: Box<Unclaimed>,
        ack: AckReceiver,
        quarantined: bool,
    },
    /// Enqueued by another delivery, or earlier in this one under the same id.
    Joined {
        ack: AckReceiver,
    },
}

impl State {
    /// The placeholder for an event whose ack is being awaited.
    pub(super) const ABANDONED: Self = Self::Done(EventResult::Failed(PublishError::Abandoned));
}

/// The events to be claimed. Their state becomes the one that they have once they are published.
#[expect(clippy::vec_box, reason = "they come in the boxes in which they waited")]
pub(super) fn take_unclaimed(pending: &mut [PendingEvent]) -> Vec<Box<Unclaimed>> {
    let take = |pending: &mut PendingEvent| match mem::replace(&mut pending.state, State::ABANDONED) {
        State::Unclaimed { event, ack, quarantined } => {
            pending.state = State::Enqueued { ack, quarantined };
            Some(event)
        }
        state => {
            pending.state = state;
            None
        }
    };
    pending.iter_mut().filter_map(take).collect()
}

impl Enqueuer<'_> {
    /// Filters, identifies, routes, deduplicates, normalizes and enqueues one element. `index` is its index in
    /// the delivery, none for a delivery as a whole.
    pub(super) fn enqueue(&self, index: Option<usize>, element: Element<'_>) -> PendingEvent {
        match element {
            Element::Event(event) => self.enqueue_event(index, &event),
            Element::Unusable { raw, reason } => {
                let (state, details) = if self.quarantine {
                    self.enqueue_quarantined(index, &RawEvent { raw, workspace_id: None }, reason.slug())
                } else {
                    (State::Done(EventResult::Unusable(reason)), None)
                };
                let category = UNKNOWN_CATEGORY;
                PendingEvent { index, category, raw: None, state, unidentified: false, details }
            }
        }
    }

    fn enqueue_event(&self, index: Option<usize>, event: &Event<'_>) -> PendingEvent {
        let category = event.kind.category().map_or(UNKNOWN_CATEGORY, Category::as_str);
        if !self.source.filter.load().passes(event) {
            tracing::debug!(
                source = self.source.name.as_str(),
                category,
                index,
                "event dropped by the filter"
            );
            let state = State::Done(EventResult::Filtered);
            let details = self.details(index, || EventDetails {
                event_type: normalize::cloudevent_type(event).concat(),
                ..EventDetails::default()
            });
            return PendingEvent { index, category, raw: None, state, unidentified: false, details };
        }
        let identity = Identity::of_event(event.ids.event_id(), self.facts(index, &event.raw));
        let destination = self.stages.routes.event(event.kind);
        let state = self.publish(&identity, destination, false, || {
            let slugs = self.stages.slugs.load();
            let schema_base_url = self.stages.schema_base_url.as_deref();
            normalize::normalize(event, &identity.id, self.context(), schema_base_url, slugs.as_deref())
        });
        let raw = self.quarantine.then(|| RawEvent {
            raw: event.raw.clone(),
            workspace_id: event.ids.get(WORKSPACE_ID).map(str::to_owned),
        });
        let details = self.details(index, || EventDetails {
            event_type: normalize::cloudevent_type(event).concat(),
            key: Some(normalize::partition_key(event, &identity.id).to_owned()),
            address: Some(Arc::clone(&destination.address)),
            id: Some(identity.id),
            position: None,
        });
        PendingEvent { index, category, raw, state, unidentified: !identity.repeatable, details }
    }

    /// The details of the event at this index, if they are wanted.
    fn details(
        &self,
        index: Option<usize>,
        details: impl FnOnce() -> EventDetails,
    ) -> Option<Box<EventDetails>> {
        let wanted = self.delivery.detailed && index.unwrap_or(0) < MAX_DETAILS;
        wanted.then(|| Box::new(details()))
    }

    /// Enqueues an event for quarantine if the broker rejected it. The ack from there becomes the event's.
    /// Returns the broker's error.
    pub(super) fn quarantine_if_rejected(&self, event: &mut PendingEvent) -> Option<PublishError> {
        let State::Done(EventResult::Failed(rejected @ PublishError::Rejected { .. })) = &event.state else {
            return None;
        };
        let (rejected, raw) = (rejected.clone(), event.raw.take()?);
        (event.state, event.details) = self.enqueue_quarantined(event.index, &raw, quarantine::REJECTED);
        Some(rejected)
    }

    fn enqueue_quarantined(
        &self,
        index: Option<usize>,
        event: &RawEvent,
        reason: &'static str,
    ) -> (State, Option<Box<EventDetails>>) {
        let identity = Identity::of_quarantined(self.facts(index, &event.raw));
        let destination = self.stages.routes.quarantine();
        let state = self.publish(&identity, destination, true, || {
            let context = self.context().of_workspace(event.workspace_id.as_deref());
            quarantine::wrap(&identity.id, context, index, event.raw.clone(), reason)
        });
        let details = self.details(index, || EventDetails {
            event_type: quarantine::TYPE.to_owned(),
            key: Some(identity.id.clone()),
            address: Some(Arc::clone(&destination.address)),
            id: Some(identity.id),
            position: None,
        });
        (state, details)
    }

    /// Hands an event to the bus, unless its id was acknowledged already or is in flight.
    fn publish(
        &self,
        identity: &Identity,
        destination: &Arc<Destination>,
        quarantined: bool,
        event: impl FnOnce() -> CloudEvent,
    ) -> State {
        if self.delivery.time_left().is_zero() {
            // The retry publishes what was not enqueued in time.
            return State::Done(EventResult::Failed(PublishError::answer_overdue()));
        }
        self.stages.dedup.forget_on_data_loss(self.stages.bus.data_losses());
        let lookup = self.stages.dedup.begin(identity.key, identity.repeatable);
        tracing::debug!(
            id = identity.id,
            dedup = lookup.result(),
            address = &*destination.address,
            subject = &*destination.subject,
            delivery_id = self.delivery.idempotency_key(),
            "event"
        );
        match lookup {
            Lookup::Hit => State::Done(EventResult::Duplicate),
            // The publish in flight may still succeed once the bus is up, but this delivery does not wait for it.
            Lookup::Joined(_) if self.stages.bus.state() == BusState::Down => {
                let detail = "the broker is down; an earlier publish of this event is in flight".into();
                State::Done(EventResult::Failed(PublishError::Unavailable { detail }))
            }
            Lookup::Joined(ack) => State::Joined { ack },
            Lookup::Miss(in_flight, ack) => {
                let metrics = Arc::clone(&self.stages.publish_metrics[&destination.address]);
                let permit = self.delivery.permit.clone();
                let mut event = event();
                let span = self.delivery.trace.as_ref().map(|trace| self.span(trace, destination, &event));
                event.set_some(Attribute::TraceParent, span.as_ref().map(|span| span.context().to_string()));
                event.set_some(Attribute::TraceState, span.as_ref().and_then(PublishSpan::state));
                let message = Message {
                    destination: Arc::clone(destination),
                    event,
                    dedup_key: identity.key.to_hex(),
                    structured_only: quarantined,
                };
                if self.stages.claims.is_some() && identity.repeatable {
                    let key = identity.key;
                    let event = Box::new(Unclaimed { key, in_flight, message, metrics, permit, span });
                    return State::Unclaimed { event, ack, quarantined };
                }
                let handle = PublishHandle::new(Box::new(in_flight), metrics, permit).traced(span);
                self.stages.bus.publish(message, handle);
                State::Enqueued { ack, quarantined }
            }
        }
    }

    /// The span of a publish (OpenTelemetry's semantic conventions for messaging).
    fn span(&self, trace: &Trace, destination: &Destination, event: &CloudEvent) -> PublishSpan {
        let system = self.stages.bus.name();
        let name = if system == "nats" { &destination.subject } else { &destination.address };
        let mut attributes = vec![
            ("messaging.system", system.into()),
            ("messaging.operation.name", "send".into()),
            ("messaging.operation.type", "send".into()),
            ("messaging.destination.name", (&**name).into()),
        ];
        let of_event = [
            ("messaging.message.id", Attribute::Id),
            ("cloudevents.event_id", Attribute::Id),
            ("cloudevents.event_source", Attribute::Source),
            ("cloudevents.event_type", Attribute::Type),
            ("cloudevents.event_subject", Attribute::Subject),
        ];
        let key = (system == "kafka").then_some(("messaging.kafka.message.key", Attribute::PartitionKey));
        let of_event = of_event.into_iter().chain(key);
        attributes.extend(of_event.filter_map(|(name, of)| Some((name, event.get(of)?.into()))));
        trace.publish(name, attributes)
    }

    fn context(&self) -> Context<'_> {
        Context {
            source: self.source.name.as_str(),
            workspace_id: self.source.workspace_id.as_deref(),
            received_at: self.delivery.received_at,
            idempotency_key: self.delivery.idempotency_key(),
            webhook_id: self.webhook_id.as_deref(),
        }
    }

    fn facts<'a>(&'a self, index: Option<usize>, raw: &'a [u8]) -> Facts<'a> {
        Facts {
            source: self.source.name.as_str(),
            webhook_id: self.webhook_id.as_deref().unwrap_or(""),
            idempotency_key: self.delivery.idempotency_key(),
            index: index.unwrap_or(0),
            raw,
        }
    }
}
