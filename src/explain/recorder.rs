//! A bus that takes everything at once and writes down what it was given.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::pipeline::publish::{Ack, BoxFuture, Bus, BusState, Message, PublishHandle};

/// What a pipeline would have published, oldest first.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<Message>>);

impl Recorder {
    /// A bus that has nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What it was given so far, in that order.
    pub fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Bus for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn publish(&self, message: Message, handle: PublishHandle) {
        self.0.lock().push(message);
        handle.settle(Ok(Ack { duplicate: false }));
    }

    fn state(&self) -> BusState {
        BusState::Up
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, u64> {
        Box::pin(std::future::ready(0))
    }
}
