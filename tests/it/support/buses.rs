//! Buses that misbehave.

use std::time::Duration;

use attio_bridge::pipeline::publish::{BoxFuture, Bus, BusState, Message, Ticket};

/// What is wrong with a bus.
#[derive(Clone, Copy, Debug)]
pub enum Broken {
    /// It panics where it should publish.
    Panics,
    /// It forgets its ticket without a verdict.
    DropsItsTicket,
}

impl Bus for Broken {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn publish(&self, _: Message, ticket: Ticket) {
        match self {
            Self::Panics => panic!("this bus panics, as the test asked"),
            Self::DropsItsTicket => drop(ticket),
        }
    }

    fn state(&self) -> BusState {
        BusState::Up
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, u64> {
        Box::pin(std::future::ready(0))
    }
}
