//! Carries the events of one delivery to the bus and waits for their verdicts.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Sleep;

use super::dedup::{Lookup, Waiter};
use super::identify::{Facts, Identity};
use super::normalize::{self, Context};
use super::outcome::{EventOutcome, EventResult, UNKNOWN_CATEGORY};
use super::parse::{Element, Event};
use super::publish::{BusState, Destination, Message, PublishError, PublishHandle, PublishResult};
use super::quarantine::{self, Quarantined};
use super::slugs::Slugs;
use super::{Pipeline, Source};
use crate::catalog::{Category, WORKSPACE_ID};
use crate::cloudevent::CloudEvent;
use crate::delivery::{Delivery, Verified};

/// The `reason` in quarantine of an event that the broker will never take.
pub(super) const REJECTED_BY_BROKER: &str = "rejected_by_broker";

/// One delivery while its events are on their way.
pub(super) struct Carrier<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) source: &'a Source,
    pub(super) delivery: &'a Delivery<Verified>,
    pub(super) webhook_id: Option<Cow<'a, str>>,
    /// Whether what can never be published goes to quarantine; what comes from there does not again.
    pub(super) quarantines: bool,
}

/// One event that has left, or never had to.
pub(super) struct Departure {
    place: Option<usize>,
    category: &'static str,
    /// None for what is on its way to quarantine already.
    cargo: Option<Cargo>,
    state: State,
    pub(super) unidentified: bool,
}

/// What quarantine would need, should the broker never take the event.
struct Cargo {
    raw: Bytes,
    workspace_id: Option<String>,
}

enum State {
    /// Nothing left to wait for.
    Done(EventResult),
    /// This delivery's own publish.
    First { waiter: Waiter, quarantined: bool },
    /// The publish of another delivery, or of the same id earlier in this one.
    Joined(Waiter),
}

impl Carrier<'_> {
    /// Everything up to and including the hand-over to the bus. Never waits. `place` is that of an
    /// event in its delivery, none for a delivery as a whole.
    pub(super) fn depart(&self, place: Option<usize>, element: Element<'_>) -> Departure {
        match element {
            Element::Event(event) => self.depart_event(place, &event),
            Element::Unusable { reason, .. } if !self.quarantines => {
                let state = State::Done(EventResult::Unusable(reason));
                Departure { place, category: UNKNOWN_CATEGORY, cargo: None, state, unidentified: false }
            }
            Element::Unusable { raw, reason } => {
                let cargo = Cargo { raw, workspace_id: None };
                let state = self.depart_quarantine(place, &cargo, reason.slug());
                Departure { place, category: UNKNOWN_CATEGORY, cargo: None, state, unidentified: false }
            }
        }
    }

    fn depart_event(&self, place: Option<usize>, event: &Event<'_>) -> Departure {
        let category = event.kind.category().map_or(UNKNOWN_CATEGORY, Category::as_str);
        let identity = Identity::of_event(event.ids.event_id(), self.facts(place, &event.raw));
        let passes = self.source.filter.load().passes(event);
        let state = if passes {
            let destination = self.pipeline.routes.event(event.kind);
            let normalize = || {
                let slugs = self.pipeline.slugs.load();
                normalize::normalize(event, &identity.id, self.context(slugs.as_deref()))
            };
            self.publish(&identity, destination, false, normalize)
        } else {
            State::Done(EventResult::Filtered)
        };
        let cargo = || {
            let workspace_id = event.ids.get(WORKSPACE_ID).map(str::to_owned);
            Cargo { raw: event.raw.clone(), workspace_id }
        };
        let cargo = self.quarantines.then(cargo);
        Departure { place, category, cargo, state, unidentified: passes && !identity.repeatable }
    }

    fn depart_quarantine(&self, place: Option<usize>, cargo: &Cargo, reason: &'static str) -> State {
        let identity = Identity::of_quarantined(self.facts(place, &cargo.raw));
        let workspace = cargo.workspace_id.as_deref().or(self.source.workspace_id.as_deref());
        let wrap = || {
            quarantine::wrap(Quarantined {
                id: &identity.id,
                source_uri: normalize::source_parts(self.source.name.as_str(), workspace),
                reason,
                raw: cargo.raw.clone(),
                received_at: self.delivery.received_at,
                idempotency_key: self.delivery.idempotency_key(),
                source: self.source.name.as_str(),
                webhook_id: self.webhook_id.as_deref(),
                index: place,
            })
        };
        self.publish(&identity, self.pipeline.routes.quarantine(), true, wrap)
    }

    /// Hands an event to the bus, unless its id is known or already on its way.
    fn publish(
        &self,
        identity: &Identity,
        destination: &Arc<Destination>,
        quarantined: bool,
        event: impl FnOnce() -> CloudEvent,
    ) -> State {
        if self.delivery.time_left().is_zero() {
            // The answer is overdue; what has not left by now is the retry's to publish.
            return State::Done(EventResult::Failed(overdue()));
        }
        match self.pipeline.dedup.begin(identity.key, identity.repeatable) {
            Lookup::Hit => State::Done(EventResult::Duplicate),
            // That flight may take off again; until then nobody is kept waiting for it.
            Lookup::Joined(_) if self.pipeline.bus.state() == BusState::Down => {
                let detail = "known to be away; an earlier publish of this event is still waiting".into();
                State::Done(EventResult::Failed(PublishError::Unavailable { detail }))
            }
            Lookup::Joined(waiter) => State::Joined(waiter),
            Lookup::Miss(flight, waiter) => {
                let metrics = &self.pipeline.publish_metrics[&destination.address];
                let handle =
                    PublishHandle::new(Box::new(flight), Arc::clone(metrics), self.delivery.permit.clone());
                let message = Message {
                    destination: Arc::clone(destination),
                    event: event(),
                    dedup_key: identity.key.to_hex(),
                    structured_only: quarantined,
                };
                self.pipeline.bus.publish(message, handle);
                State::First { waiter, quarantined }
            }
        }
    }

    /// An event that the broker will never take leaves again, for quarantine; its verdict there is the event's.
    pub(super) fn depart_again(&self, departure: &mut Departure) {
        if let State::Done(EventResult::Failed(PublishError::Rejected { .. })) = departure.state
            && let Some(cargo) = departure.cargo.take()
        {
            departure.state = self.depart_quarantine(departure.place, &cargo, REJECTED_BY_BROKER);
        }
    }

    fn facts<'a>(&'a self, place: Option<usize>, raw: &'a [u8]) -> Facts<'a> {
        Facts {
            source: self.source.name.as_str(),
            webhook_id: self.webhook_id.as_deref().unwrap_or(""),
            idempotency_key: self.delivery.idempotency_key(),
            index: place.unwrap_or(0),
            raw,
        }
    }

    fn context<'a>(&'a self, slugs: Option<&'a Slugs>) -> Context<'a> {
        Context {
            source: self.source.name.as_str(),
            workspace_id: self.source.workspace_id.as_deref(),
            received_at: self.delivery.received_at,
            idempotency_key: self.delivery.idempotency_key(),
            webhook_id: self.webhook_id.as_deref(),
            slugs,
        }
    }
}

impl Departure {
    /// Waits for the verdict, until the answer is due.
    pub(super) async fn arrive(self, due: Pin<&mut Sleep>) -> Self {
        Self { state: State::Done(land(self.state, due).await), ..self }
    }

    /// What became of an event that has arrived, if need be in quarantine.
    pub(super) async fn conclude(self, due: Pin<&mut Sleep>) -> EventOutcome {
        EventOutcome { category: self.category, result: land(self.state, due).await }
    }
}

async fn land(state: State, due: Pin<&mut Sleep>) -> EventResult {
    let (verdict, acknowledged) = match state {
        State::Done(result) => return result,
        State::First { waiter, quarantined: true } => {
            (wait(waiter, due).await.map_err(unfit_quarantine), EventResult::Quarantined)
        }
        State::First { waiter, quarantined: false } => (wait(waiter, due).await, EventResult::Published),
        State::Joined(waiter) => (wait(waiter, due).await, EventResult::Duplicate),
    };
    match verdict {
        Ok(receipt) if receipt.duplicate => EventResult::Duplicate,
        Ok(_) => acknowledged,
        Err(error) => EventResult::Failed(error),
    }
}

/// The wait ends when the answer is due; the publish goes on, and its verdict is kept.
async fn wait(waiter: Waiter, due: Pin<&mut Sleep>) -> PublishResult {
    tokio::select! {
        biased;
        verdict = waiter => verdict.unwrap_or(Err(PublishError::Abandoned)),
        () = due => Err(overdue()),
    }
}

/// Quarantine must take whatever comes, so what it rejects is for the operator to mend.
fn unfit_quarantine(error: PublishError) -> PublishError {
    let PublishError::Rejected { detail } = error else { return error };
    let detail = format!(
        "not even by quarantine: {detail}: raise what quarantine takes (max.message.bytes of the topic, or \
         max_msg_size of the stream and max_payload of the server)"
    );
    PublishError::Rejected { detail: detail.into() }
}

fn overdue() -> PublishError {
    PublishError::Timeout { detail: "the answer was due before the ack".into() }
}
