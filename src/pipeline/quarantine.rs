//! What was signed and can never be published as an event, wrapped so that nothing of it is lost.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use time::OffsetDateTime;

use crate::catalog;
use crate::cloudevent::{Attribute, CloudEvent, Data, timestamp};

/// The `type` of everything in quarantine.
pub const TYPE: &str = "dev.attio-bridge.delivery.quarantined";

/// A longer `webhook_id` is not kept: a body of many elements would make many times its size of it.
const MAX_WEBHOOK_ID: usize = 255;

/// What goes into the wrapper.
#[derive(Clone, Debug)]
pub struct Quarantined<'a> {
    /// Its deterministic id.
    pub id: &'a str,
    /// The CloudEvents `source` of the delivery.
    pub source_uri: String,
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
    /// The webhook that fired.
    pub webhook_id: Option<&'a str>,
    /// The place in its delivery of an event; none for a whole delivery.
    pub index: Option<usize>,
}

/// The wrapper as a CloudEvent with `data_base64`. It holds what the id was made of, so that the event
/// can be replayed under it.
pub fn wrap(what: Quarantined<'_>) -> CloudEvent {
    let Quarantined { id, source_uri, reason, raw, received_at, idempotency_key, source, webhook_id, index } =
        what;
    let mut out = CloudEvent::new(id.to_owned(), source_uri, Data::Binary(raw));
    out.set(Attribute::Type, TYPE);
    let received = timestamp(received_at);
    out.set_some(Attribute::Time, received.clone());
    out.set_some(Attribute::RecordedTime, received);
    out.set(Attribute::DataContentType, "application/octet-stream");
    out.set(Attribute::PartitionKey, id);
    out.set_some(Attribute::CorrelationId, idempotency_key);
    out.set_some(Attribute::AttioWebhookId, webhook_id.filter(|id| catalog::is_id(id)));
    out.set(Attribute::Reason, reason);
    out.set(Attribute::AttioSource, source);
    out.set_some(Attribute::AttioIndex, index.map(|index| index.to_string()));
    let unfit = webhook_id.filter(|id| !catalog::is_id(id) && id.len() <= MAX_WEBHOOK_ID);
    out.set_some(Attribute::AttioWebhookBase64, unfit.map(|id| STANDARD.encode(id)));
    out
}

/// The webhook of a wrapper, read back from its attributes.
pub fn webhook_id(id: Option<&str>, base64: Option<&str>) -> Option<String> {
    let decoded = || String::from_utf8(STANDARD.decode(base64?).ok()?).ok();
    id.map(str::to_owned).or_else(decoded)
}
