//! A bus that records every message: in front of another bus, or in place of one for a dry run.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::pipeline::publish::{Ack, BoxFuture, BrokerIdentity, Bus, BusState, Message, PublishHandle};

/// Records what is published. Without an inner bus it acknowledges everything and publishes nothing.
pub struct RecordingBus {
    inner: Option<Arc<dyn Bus>>,
    messages: Mutex<Vec<Message>>,
}

impl RecordingBus {
    /// Records and passes on to `inner`.
    pub fn new(inner: Option<Arc<dyn Bus>>) -> Arc<Self> {
        Arc::new(Self { inner, messages: Mutex::default() })
    }

    /// The messages since the last call, oldest first.
    pub fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.messages.lock())
    }
}

impl Bus for RecordingBus {
    fn name(&self) -> &'static str {
        self.inner.as_ref().map_or("recording", |bus| bus.name())
    }

    fn publish(&self, message: Message, handle: PublishHandle) {
        match &self.inner {
            Some(bus) => {
                self.messages.lock().push(message.clone());
                bus.publish(message, handle);
            }
            None => {
                self.messages.lock().push(message);
                handle.settle(Ok(Ack { duplicate: false, position: None }));
            }
        }
    }

    fn state(&self) -> BusState {
        self.inner.as_ref().map_or(BusState::Up, |bus| bus.state())
    }

    fn not_ready_reason(&self) -> Option<Arc<str>> {
        self.inner.as_ref()?.not_ready_reason()
    }

    fn warning(&self) -> Option<Arc<str>> {
        self.inner.as_ref()?.warning()
    }

    fn identity(&self) -> Option<Arc<BrokerIdentity>> {
        match &self.inner {
            Some(bus) => bus.identity(),
            None => Some(Arc::new(BrokerIdentity::new(self.name()))),
        }
    }

    fn data_losses(&self) -> u64 {
        self.inner.as_ref().map_or(0, |bus| bus.data_losses())
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, u64> {
        match &self.inner {
            Some(bus) => bus.flush(within),
            None => Box::pin(std::future::ready(0)),
        }
    }
}
