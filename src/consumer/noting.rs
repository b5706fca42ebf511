//! A bus that writes down what it hands on, or keeps it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::cloudevent::Attribute;
use crate::pipeline::publish::{Ack, BoxFuture, Bus, BusState, Message, PublishHandle};

/// What is noted of a message that was handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The id of the event.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The topic, or the subject on NATS.
    pub address: String,
}

/// Stands between a pipeline and its bus.
pub struct Noting {
    /// None where nothing is to be published.
    inner: Option<Arc<dyn Bus>>,
    /// Whether messages have subjects.
    subjects: bool,
    notes: Mutex<Vec<Note>>,
}

impl Noting {
    /// Hands everything on to a bus, or says of everything that it was published.
    pub fn new(inner: Option<Arc<dyn Bus>>, subjects: bool) -> Arc<Self> {
        Arc::new(Self { inner, subjects, notes: Mutex::default() })
    }

    /// What was handed over since the last time.
    pub fn take(&self) -> Vec<Note> {
        std::mem::take(&mut self.notes.lock())
    }
}

impl Bus for Noting {
    fn name(&self) -> &'static str {
        self.inner.as_ref().map_or("recorder", |bus| bus.name())
    }

    fn publish(&self, message: Message, handle: PublishHandle) {
        let text = |attribute| message.event.get(attribute).unwrap_or_default().to_owned();
        let to = &message.destination;
        let address = if self.subjects { &to.subject } else { &to.address };
        let address = address.to_string();
        self.notes.lock().push(Note { id: text(Attribute::Id), kind: text(Attribute::Type), address });
        match &self.inner {
            Some(bus) => bus.publish(message, handle),
            None => handle.settle(Ok(Ack { duplicate: false })),
        }
    }

    fn state(&self) -> BusState {
        self.inner.as_ref().map_or(BusState::Up, |bus| bus.state())
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, u64> {
        match &self.inner {
            Some(bus) => bus.flush(within),
            None => Box::pin(std::future::ready(0)),
        }
    }
}
