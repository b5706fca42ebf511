//! Claims the events of one delivery in the store that replicas share, and publishes those that it may.
//!
//! A delivery's claims are made together. An id that another replica has in flight is asked for again and again in a
//! task of its own, as long as a delivery awaits it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::dedup::InFlight;
use super::identify::DedupKey;
use super::publish::{Ack, AckCallback, Bus, BusState, Message, PublishError, PublishHandle, PublishResult};
use super::store::{Claim, Held, Store, Wanted};
use crate::delivery::Permit;
use crate::metrics::PublishMetrics;
use crate::traces::PublishSpan;

/// The shortest and the longest time between two claims of an id that another replica has in flight.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

/// An event whose id this replica does not know, and has not claimed yet.
pub(super) struct Unclaimed {
    pub(super) key: DedupKey,
    pub(super) in_flight: InFlight,
    pub(super) message: Message,
    pub(super) metrics: Arc<PublishMetrics>,
    pub(super) permit: Option<Permit>,
    pub(super) span: Option<PublishSpan>,
}

/// What claims need.
#[derive(Clone)]
pub(super) struct Claims {
    pub(super) store: Arc<dyn Store>,
    pub(super) bus: Arc<dyn Bus>,
    /// Tracks what awaits other replicas.
    pub(super) waiting: TaskTracker,
}

#[expect(clippy::vec_box, reason = "they come in the boxes in which they waited")]
impl Claims {
    /// Claims events, and publishes them or awaits the replica that does. Takes at most until the answer is due.
    pub(super) async fn publish(&self, unclaimed: Vec<Box<Unclaimed>>, answer_by: Instant) {
        if unclaimed.is_empty() {
            return;
        }
        let elsewhere = self.publish_claimed(unclaimed, Some(answer_by)).await;
        if !elsewhere.is_empty() {
            self.waiting.spawn(self.clone().await_others(elsewhere));
        }
    }

    /// Claims events once; returns those that another replica has in flight.
    async fn publish_claimed(
        &self,
        unclaimed: Vec<Box<Unclaimed>>,
        answer_by: Option<Instant>,
    ) -> Vec<Box<Unclaimed>> {
        if self.bus.state() == BusState::Down {
            // Nothing would be sent: no other replica is to wait for that.
            let detail = self.bus.not_ready_reason().unwrap_or_else(|| "the broker is down".into());
            for event in unclaimed {
                event.settle(Err(PublishError::Unavailable { detail: Arc::clone(&detail) }));
            }
            return Vec::new();
        }
        let wanted = unclaimed.iter().map(|event| Wanted {
            key: event.key,
            address: Arc::clone(&event.message.destination.address),
        });
        let claims = self.store.claim(wanted.collect(), answer_by).await;
        let mut elsewhere = Vec::new();
        for (event, claim) in unclaimed.into_iter().zip(claims) {
            match claim {
                Claim::Publish(held) => event.publish(Arc::clone(&self.store), held, &self.bus),
                Claim::Acknowledged(held) => {
                    event.settle(Ok(Ack { duplicate: true, position: None }));
                    self.store.remembered(held);
                }
                Claim::Refused(detail) => event.settle(Err(PublishError::StoreUnavailable { detail })),
                // The retry publishes it.
                Claim::Overdue => event.settle(Err(PublishError::answer_overdue())),
                Claim::InFlight => elsewhere.push(event),
            }
        }
        elsewhere
    }

    /// Claims again until every event is acknowledged, can be published, or is awaited by no delivery any more.
    async fn await_others(self, mut elsewhere: Vec<Box<Unclaimed>>) {
        let [mut pause, longest] = PAUSES;
        while !elsewhere.is_empty() {
            tokio::time::sleep(pause).await;
            pause = longest.min(pause * 2);
            elsewhere = elsewhere.into_iter().filter_map(Unclaimed::if_awaited).collect();
            if !elsewhere.is_empty() {
                elsewhere = self.publish_claimed(elsewhere, None).await;
            }
        }
    }
}

impl Unclaimed {
    fn publish(self, store: Arc<dyn Store>, held: Held, bus: &Arc<dyn Bus>) {
        let Self { in_flight, message, metrics, permit, span, .. } = self;
        let callback = Claimed { in_flight, held, store };
        bus.publish(message, PublishHandle::new(Box::new(callback), metrics, permit).traced(span));
    }

    fn settle(self, result: PublishResult) {
        Box::new(self.in_flight).settle(result);
    }

    /// Forgets it if no delivery awaits it.
    fn if_awaited(mut self: Box<Self>) -> Option<Box<Self>> {
        if self.in_flight.end_unless_awaited() { None } else { Some(self) }
    }
}

/// The entry of a publish in flight whose id is claimed.
struct Claimed {
    in_flight: InFlight,
    held: Held,
    store: Arc<dyn Store>,
}

impl AckCallback for Claimed {
    fn settle(self: Box<Self>, result: PublishResult) {
        let Self { in_flight, held, store } = *self;
        let acknowledged = result.is_ok();
        Box::new(in_flight).settle(result);
        store.settle(held, acknowledged);
    }
}
