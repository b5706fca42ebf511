//! What was signed and can never be published as an event, wrapped so that nothing of it is lost.

use bytes::Bytes;
use time::OffsetDateTime;

use crate::cloudevent::{Attribute, CloudEvent, Data, timestamp};

/// The `type` of everything in quarantine.
pub const TYPE: &str = "dev.attio-bridge.delivery.quarantined";

/// What goes into the wrapper.
#[derive(Clone, Debug)]
pub struct Quarantined<'a> {
    /// Its deterministic id.
    pub id: &'a str,
    /// The CloudEvents `source` of the delivery, in parts.
    pub source_uri: [&'a str; 2],
    /// Why it is here: a slug.
    pub reason: &'static str,
    /// The bytes as they came.
    pub raw: Bytes,
    /// When the delivery was received.
    pub received_at: OffsetDateTime,
    /// The usable idempotency key of the delivery.
    pub idempotency_key: Option<&'a str>,
    /// The name of the source.
    pub source: &'a str,
    /// The webhook that fired, if it can be an attribute.
    pub webhook_id: Option<&'a str>,
    /// The place in its delivery of an event; none for a whole delivery.
    pub index: Option<usize>,
}

/// The wrapper as a CloudEvent with `data_base64`. It holds what the id was made of, so that the event
/// can be replayed under it.
pub fn wrap(what: Quarantined<'_>) -> CloudEvent {
    let Quarantined { id, source_uri, reason, raw, received_at, idempotency_key, source, webhook_id, index } =
        what;
    let mut out = CloudEvent::new(id, &source_uri, Data::Binary(raw));
    out.set(Attribute::Type, TYPE);
    let received = timestamp(received_at);
    out.set_some(Attribute::Time, received.clone());
    out.set_some(Attribute::RecordedTime, received);
    out.set(Attribute::DataContentType, "application/octet-stream");
    out.set(Attribute::PartitionKey, id);
    out.set_some(Attribute::CorrelationId, idempotency_key);
    out.set_some(Attribute::AttioWebhookId, webhook_id);
    out.set(Attribute::Reason, reason);
    out.set(Attribute::AttioSource, source);
    out.set_some(Attribute::AttioIndex, index.map(|index| index.to_string()));
    out
}
