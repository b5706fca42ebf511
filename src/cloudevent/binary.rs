//! Binary content mode: attributes as headers, the data as the payload.
//!
//! Source: CloudEvents Kafka binding 1.0.2 section 3.2 and NATS binding (main branch) section 3.1.

use bytes::Bytes;

use super::{Attribute, CloudEvent, Data, SPEC_VERSION};

/// The payload: the data's own bytes.
pub fn payload(event: &CloudEvent) -> &Bytes {
    match event.data() {
        Data::Json(bytes) | Data::Binary(bytes) => bytes,
    }
}

/// The media type of the payload.
pub fn content_type(event: &CloudEvent) -> Option<&str> {
    event.get(Attribute::DataContentType)
}

/// Attribute names and values to be written as prefixed headers, except `datacontenttype`: on Kafka
/// that is the header `content-type`.
pub fn headers(event: &CloudEvent) -> impl Iterator<Item = (&'static str, &str)> {
    let rest = event
        .attributes()
        .filter(|(attribute, _)| *attribute != Attribute::DataContentType)
        .map(|(attribute, value)| (attribute.name(), value));
    std::iter::once(("specversion", SPEC_VERSION)).chain(rest)
}
