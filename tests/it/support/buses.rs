//! Buses that misbehave.

use std::sync::Mutex;
use std::time::Duration;

use attio_bridge::pipeline::publish::{BoxFuture, Bus, BusState, Message, PublishHandle};

/// A bus that keeps its tickets, and says at the end that nothing is left.
#[derive(Default)]
pub struct Silent {
    tickets: Mutex<Vec<PublishHandle>>,
}

impl Silent {
    /// Publishes without a verdict.
    pub fn waiting(&self) -> usize {
        self.tickets.lock().unwrap().len()
    }
}

impl Bus for Silent {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn publish(&self, _: Message, ticket: PublishHandle) {
        self.tickets.lock().unwrap().push(ticket);
    }

    fn state(&self) -> BusState {
        BusState::Up
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, u64> {
        Box::pin(std::future::ready(0))
    }
}

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

    fn publish(&self, _: Message, ticket: PublishHandle) {
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
