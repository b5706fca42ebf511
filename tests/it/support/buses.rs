//! Buses that misbehave.

use std::sync::Mutex;
use std::time::Duration;

use attio_bridge::pipeline::publish::{BoxFuture, Bus, BusState, Message, PublishHandle};

/// A bus that never settles its handles, and flushes as if nothing were in flight.
#[derive(Default)]
pub struct Silent {
    handles: Mutex<Vec<PublishHandle>>,
}

impl Silent {
    /// Publishes without a result.
    pub fn waiting(&self) -> usize {
        self.handles.lock().unwrap().len()
    }
}

impl Bus for Silent {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn publish(&self, _: Message, handle: PublishHandle) {
        self.handles.lock().unwrap().push(handle);
    }

    fn state(&self) -> BusState {
        BusState::Up
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, u64> {
        Box::pin(std::future::ready(0))
    }
}

/// How a bus misbehaves.
#[derive(Clone, Copy, Debug)]
pub enum Broken {
    /// It panics on publish.
    Panics,
    /// It drops its handle without a result.
    DropsItsHandle,
}

impl Bus for Broken {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn publish(&self, _: Message, handle: PublishHandle) {
        match self {
            Self::Panics => panic!("this bus panics, as the test asked"),
            Self::DropsItsHandle => drop(handle),
        }
    }

    fn state(&self) -> BusState {
        BusState::Up
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, u64> {
        Box::pin(std::future::ready(0))
    }
}
