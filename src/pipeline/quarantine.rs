//! The dead-letter topic: what was verified and cannot be published as an event, with its raw bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::catalog;
use crate::cloudevent::{Attribute, CloudEvent, Data, timestamp};
use crate::delivery::Context;

/// The CloudEvents `type` in quarantine.
pub const TYPE: &str = "dev.attio-bridge.delivery.quarantined";

/// The `datacontenttype` in quarantine.
pub const CONTENT_TYPE: &str = "application/octet-stream";

/// The `reason` of an event that the broker rejected. The others are those of `parse`.
pub const REJECTED: &str = "rejected_by_broker";

/// A longer invalid `webhook_id` is left out: it is repeated with every element of a body.
const MAX_WEBHOOK_ID: usize = 255;

/// The CloudEvent of bytes as received, with `data_base64`. It includes what the id was made of, so that a replay
/// gives the same id. `reason` is a slug; `index` is none for a whole delivery.
pub fn wrap(
    id: &str,
    context: Context<'_>,
    index: Option<usize>,
    raw: Bytes,
    reason: &'static str,
) -> CloudEvent {
    let Context { source, received_at, idempotency_key, webhook_id, .. } = context;
    let mut out = CloudEvent::new(id, &context.source_uri(), Data::Binary(raw));
    out.set(Attribute::Type, TYPE);
    let received = timestamp(received_at);
    out.set_some(Attribute::Time, received.clone());
    out.set_some(Attribute::RecordedTime, received);
    out.set(Attribute::DataContentType, CONTENT_TYPE);
    out.set(Attribute::PartitionKey, id);
    out.set_some(Attribute::CorrelationId, idempotency_key);
    out.set_some(Attribute::AttioWebhookId, webhook_id.filter(|id| catalog::is_id(id)));
    out.set(Attribute::Reason, reason);
    out.set(Attribute::AttioSource, source);
    out.set_some(Attribute::AttioIndex, index.map(|index| index.to_string()));
    let invalid = webhook_id.filter(|id| !catalog::is_id(id) && id.len() <= MAX_WEBHOOK_ID);
    out.set_some(Attribute::AttioWebhookBase64, invalid.map(|id| STANDARD.encode(id)));
    out
}

/// The webhook id, from the attributes of a quarantined event.
pub fn webhook_id(id: Option<&str>, base64: Option<&str>) -> Option<String> {
    let decoded = || String::from_utf8(STANDARD.decode(base64?).ok()?).ok();
    id.map(str::to_owned).or_else(decoded)
}
