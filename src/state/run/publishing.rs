//! Publishes what is ready, a batch at a time, and takes note of what became of it.

use std::time::{Duration, Instant};

use super::{BATCH, Engine, Published, Ready, TICK};
use crate::bus::state::{Change, Outcome, Receipt, StateError, milliseconds};
use crate::state::Error;
use crate::state::settle::Tries;

/// Between two attempts to publish a batch.
const RETRY: Duration = Duration::from_millis(500);

impl Engine {
    /// Starts to publish what is ready, unless a batch is under way.
    pub(super) fn publish(&mut self) {
        let is_due = !self.idle.is_empty() && self.published_at.elapsed() > TICK;
        if !self.publishing.is_empty() || (self.ready.is_empty() && !is_due) {
            return;
        }
        // In order: of two states of an entity the older one came first.
        // What the broker has refused before is sent by itself, every other time: its transaction may be in vain again.
        self.turn = !self.turn;
        let (refused, others): (Vec<_>, Vec<_>) =
            self.ready.drain(..).partition(|ready| ready.tries.are_many());
        // A tombstone without events is the half of a merge that its survivor's state answers: it is never overtaken.
        let is_half = |ready: &Ready| ready.state.is_some() && ready.events.is_empty();
        let may_wait = !others.iter().any(is_half);
        let (mut batch, rest) = if others.is_empty() || (self.turn && may_wait && !refused.is_empty()) {
            (refused, others)
        } else {
            (others, refused)
        };
        self.ready.extend(batch.drain(batch.len().min(BATCH)..));
        self.ready.extend(rest);
        let events = std::mem::take(&mut self.idle);
        batch.push(Ready { entity: None, state: None, events, tries: Tries::default() });
        batch.iter().flat_map(|ready| &ready.events).for_each(|(receipt, _)| self.count(*receipt));
        self.send(batch, Duration::ZERO);
    }

    /// Counts an event, once.
    fn count(&mut self, receipt: Receipt) {
        if let Some(held) = self.held.get_mut(&receipt)
            && let Some((kind, result)) = held.counts_as.filter(|_| !held.is_counted)
        {
            held.is_counted = true;
            self.run.metrics.event(kind, result);
        }
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

    pub(super) fn published(&mut self, (batch, outcomes): Published) -> Result<(), Error> {
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
                (Outcome::Newer | Outcome::TooOld, Some(entity)) => {
                    if outcome == Outcome::TooOld {
                        let at = state.map_or(0, |state| state.at);
                        self.warnings.of_writer(&entity, milliseconds((self.run.now)()) - at);
                    }
                    if outcome == Outcome::Newer && tries.are_late() {
                        let what = "the topic holds something newer than what Attio answers, trying on: the clock of a \
                                    host that writes states is ahead";
                        self.stuck(&entity, format_args!("{what}"));
                    }
                    self.late(&entity, tries);
                    self.settle.again(entity, events, tries, Instant::now());
                }
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
                    let are_stuck = !self.stuck.is_empty();
                    if are_stuck && !self.settle.is_stuck(&entity) && self.stuck.remove(&entity) {
                        tracing::info!(kind = entity.kind.as_str(), id = &*entity.id, "no longer stuck");
                    }
                    if state.is_some() && outcome == Outcome::Done {
                        self.run.metrics.published(entity.kind);
                    }
                }
            }
        }
        Ok(())
    }
}
