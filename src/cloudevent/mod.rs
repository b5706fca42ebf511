//! CloudEvents 1.0 and their two content modes.
//!
//! Source: CloudEvents 1.0.2, sections "Context Attributes" and "Type System"; the extensions `partitionkey`,
//! `recordedtime`, `authtype`, `authid`, `correlationid`, `traceparent` and `tracestate` are documented next to that
//! specification. Every attribute is a non-empty string, so that every SDK reads the same.

pub mod decode;
pub mod structured;

use std::ops::Range;

use bytes::Bytes;
use time::OffsetDateTime;

use crate::named_enum::named_enum;

/// The value of `specversion`.
pub const SPEC_VERSION: &str = "1.0";

/// How an event is encoded in a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentMode {
    /// One JSON envelope with the attributes and the data.
    #[default]
    Structured,
    /// Attributes in headers, data as the payload.
    Binary,
}

named_enum! {
    /// The attributes that the bridge writes, in the order in which it writes them.
    pub enum Attribute,
    /// The name in a message.
    name {
        Id = "id",
        Source = "source",
        Type = "type",
        Subject = "subject",
        Time = "time",
        RecordedTime = "recordedtime",
        DataContentType = "datacontenttype",
        DataSchema = "dataschema",
        PartitionKey = "partitionkey",
        CorrelationId = "correlationid",
        AttioWebhookId = "attiowebhookid",
        AttioObject = "attioobject",
        AttioList = "attiolist",
        AuthType = "authtype",
        AuthId = "authid",
        /// The publish, in W3C Trace Context; only with traces.
        TraceParent = "traceparent",
        /// As the request had it.
        TraceState = "tracestate",
        // The rest in quarantine only.
        Reason = "reason",
        /// The name of the source.
        AttioSource = "attiosource",
        /// The event's index in its delivery.
        AttioIndex = "attioindex",
        /// In place of an `attiowebhookid` that is not a valid id.
        AttioWebhookBase64 = "attiowebhookbase64",
    }
}

/// The payload of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// One JSON value, byte for byte as received.
    Json(Bytes),
    /// Bytes that are not JSON; `data_base64` in structured mode.
    Binary(Bytes),
}

impl Data {
    /// The payload in binary mode.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Json(bytes) | Self::Binary(bytes) => bytes,
        }
    }
}

/// One event, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent {
    /// The values of all attributes: one allocation instead of a dozen.
    text: String,
    attributes: Vec<(Attribute, Range<usize>)>,
    data: Data,
}

impl CloudEvent {
    /// An event with an id and a source, which is the concatenation of its parts.
    pub fn new(id: &str, source: &[&str], data: Data) -> Self {
        let mut event = Self { text: String::with_capacity(512), attributes: Vec::with_capacity(15), data };
        event.set(Attribute::Id, id);
        event.set_joined(Attribute::Source, source);
        event
    }

    /// Adds an attribute. A value that the CloudEvents String type does not allow (empty, or with a control
    /// character) is left out.
    pub fn set(&mut self, attribute: Attribute, value: impl AsRef<str>) {
        self.set_joined(attribute, &[value.as_ref()]);
    }

    /// Adds an attribute if there is a value.
    pub fn set_some(&mut self, attribute: Attribute, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.set(attribute, value);
        }
    }

    /// Adds an attribute whose value is the concatenation of these parts.
    pub fn set_joined(&mut self, attribute: Attribute, parts: &[&str]) {
        debug_assert!(self.get(attribute).is_none(), "attribute {attribute:?} set twice");
        let start = self.text.len();
        for part in parts {
            self.text.push_str(part);
        }
        let value = &self.text[start..];
        if !value.is_empty() && (is_printable_ascii(value) || !value.chars().any(char::is_control)) {
            self.attributes.push((attribute, start..self.text.len()));
        } else {
            self.text.truncate(start);
        }
    }

    /// The value of an attribute.
    pub fn get(&self, attribute: Attribute) -> Option<&str> {
        self.attributes().find(|(name, _)| *name == attribute).map(|(_, value)| value)
    }

    /// The attributes in the order they were set, `specversion` excepted.
    pub fn attributes(&self) -> impl Iterator<Item = (Attribute, &str)> {
        self.attributes.iter().map(|(name, value)| (*name, &self.text[value.clone()]))
    }

    /// Binary mode's headers without their prefix (CloudEvents Kafka binding 1.0.2 section 3.2, NATS binding section
    /// 3.1), except `datacontenttype`: on Kafka that is the header `content-type`.
    pub fn binary_headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let rest = self.attributes().filter(|(attribute, _)| *attribute != Attribute::DataContentType);
        let rest = rest.map(|(attribute, value)| (attribute.name(), value));
        std::iter::once(("specversion", SPEC_VERSION)).chain(rest)
    }

    /// The message headers of the trace (W3C Trace Context), the same in both modes.
    pub fn trace_headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let of_trace = [Attribute::TraceParent, Attribute::TraceState];
        of_trace.into_iter().filter_map(|attribute| Some((attribute.name(), self.get(attribute)?)))
    }

    /// The payload.
    pub fn data(&self) -> &Data {
        &self.data
    }
}

/// Without an early exit, because that is faster (vectorised).
fn is_printable_ascii(text: &str) -> bool {
    text.bytes().fold(true, |good, byte| good & (b' '..=b'~').contains(&byte))
}

/// RFC 3339 in UTC with milliseconds and `Z`. None outside the years 0 to 9999, which RFC 3339 cannot write.
/// Formatted by hand: `time`'s own formatter costs several times as much (measured).
pub fn timestamp(at: OffsetDateTime) -> Option<String> {
    let utc = at.checked_to_offset(time::UtcOffset::UTC)?;
    let year = u32::try_from(utc.year()).ok().filter(|year| *year <= 9999)?;
    let mut out = *b"0000-00-00T00:00:00.000Z";
    let numbers = [
        (0..4, year),
        (5..7, u32::from(u8::from(utc.month()))),
        (8..10, u32::from(utc.day())),
        (11..13, u32::from(utc.hour())),
        (14..16, u32::from(utc.minute())),
        (17..19, u32::from(utc.second())),
        (20..23, u32::from(utc.millisecond())),
    ];
    for (place, mut number) in numbers {
        for digit in out[place].iter_mut().rev() {
            *digit += (number % 10) as u8;
            number /= 10;
        }
    }
    Some(str::from_utf8(&out).expect("digits and signs are ASCII").to_owned())
}
