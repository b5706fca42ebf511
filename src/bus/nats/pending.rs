//! A message that the client has and that has no verdict yet.

use std::sync::Arc;

use async_nats::connection::State;

use super::Link;
use super::acks::Failure;
use super::verdict::{self, Circumstances};
use crate::pipeline::publish::{Ack, Destination, PublishError, PublishHandle, PublishResult};

/// The message, and what was known when it was handed over.
pub(super) struct Pending {
    /// Gone once settled.
    handle: Option<PublishHandle>,
    destination: Arc<Destination>,
    link: Arc<Link>,
    /// Connections lost before.
    losses: u64,
    /// Refusals heard of before.
    refusals: u64,
}

impl Pending {
    /// Counts as handed over until it is settled.
    pub(super) fn new(handle: PublishHandle, destination: Arc<Destination>, link: &Arc<Link>) -> Self {
        let health = &link.health;
        health.handed_over();
        let (losses, refusals) = (health.losses(), health.refusals.count());
        Self { handle: Some(handle), destination, losses, refusals, link: Arc::clone(link) }
    }

    /// Where it goes.
    pub(super) fn subject(&self) -> Arc<str> {
        Arc::clone(&self.destination.subject)
    }

    /// Connections lost before it was handed over.
    pub(super) fn losses(&self) -> u64 {
        self.losses
    }

    /// Why no ack will come for it, where that is known: what was lost with its connection may be stored,
    /// and its retry carries the same message id, so that the server stores it once.
    pub(super) fn hopeless(&self) -> Option<Failure> {
        let health = &self.link.health;
        if health.losses() != self.losses {
            return Some(Failure::ConnectionLost);
        }
        health.refusals.of(&self.destination.subject, self.refusals).map(Failure::Refused)
    }

    /// The server has it.
    pub(super) fn acknowledge(self, duplicate: bool) {
        self.settle(Ok(Ack { duplicate }));
    }

    /// It has no ack.
    pub(super) fn fail(self, failure: &Failure) {
        let Link { client, health, stream } = &*self.link;
        let lost = health.losses() != self.losses || client.connection_state() != State::Connected;
        let cause = health.cause();
        let subject = &self.destination.subject;
        let at = Circumstances { subject, stream, lost, cause: cause.as_deref() };
        let error = verdict::sort(failure, at);
        self.settle(Err(error));
    }

    fn settle(mut self, verdict: PublishResult) {
        if matches!(verdict, Err(PublishError::Refused { .. })) {
            self.link.health.nudge();
        }
        if let Some(handle) = self.handle.take() {
            handle.settle(verdict);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Before the count, so that a flush that sees none has seen every verdict.
        drop(self.handle.take());
        self.link.health.settled();
    }
}
