//! Messages for a bus, and their results.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use attio_bridge::cloudevent::{Attribute, CloudEvent, Data};
use attio_bridge::metrics::{Labels, Metrics};
use attio_bridge::pipeline::publish::{
    AckCallback, Bus, Destination, Message, PublishError, PublishHandle, PublishResult,
};
use bytes::Bytes;

use crate::support::wait::PATIENCE;

/// A new message for `topic`, with `key` as its partition key and `data` as its data.
pub fn message(topic: &str, key: &str, data: impl Into<Bytes>) -> Message {
    let mut event = CloudEvent::new("event-1", &["https://attio.com/x"], Data::Json(data.into()));
    event.set(Attribute::Type, "com.attio.record.created");
    event.set(Attribute::DataContentType, "application/json");
    event.set(Attribute::PartitionKey, key);
    let destination = Arc::new(Destination { address: topic.into(), subject: topic.into() });
    let dedup_key = uuid::Uuid::new_v4().simple().to_string();
    Message { destination, event, dedup_key, structured_only: false }
}

/// The metrics of a bus alone.
pub fn metrics(bus: &'static str, destinations: &[&str]) -> Arc<Metrics> {
    Metrics::new(Labels {
        publish_results: PublishError::LABELS.to_vec(),
        bus,
        destinations: destinations.iter().map(|name| (*name).to_owned()).collect(),
        ..Labels::default()
    })
}

struct Report(SyncSender<PublishResult>);

impl AckCallback for Report {
    fn settle(self: Box<Self>, result: PublishResult) {
        // A test that ignores the result has dropped the receiver.
        let _ = self.0.send(result);
    }
}

/// A pending result.
pub struct Awaited(Receiver<PublishResult>);

impl Awaited {
    /// Waits for it.
    pub fn wait(self) -> PublishResult {
        self.0.recv_timeout(PATIENCE).expect("every handle is settled")
    }

    /// The result, if there is one.
    pub fn now(&self) -> Option<PublishResult> {
        self.0.try_recv().ok()
    }
}

/// Publishes a message.
pub fn publish(bus: &dyn Bus, metrics: &Metrics, message: Message) -> Awaited {
    let (sender, result) = sync_channel(1);
    let counted = metrics.publish(&message.destination.address);
    bus.publish(message, PublishHandle::new(Box::new(Report(sender)), counted, None));
    Awaited(result)
}

/// `acknowledged`, or the label of the error.
pub fn label(result: &PublishResult) -> &'static str {
    result.as_ref().map_or_else(PublishError::label, |_| "acknowledged")
}
