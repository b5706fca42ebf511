//! What goes out: a CloudEvent 1.0 and its two content modes.
//!
//! Source: CloudEvents 1.0.2, sections "Context Attributes" and "Type System"; the extensions
//! `partitionkey`, `recordedtime`, `authtype`, `authid` and `correlationid` are the ones documented
//! beside that specification. Every attribute is a non-empty string: no null, no number, so every
//! SDK reads the same thing.

pub mod binary;
pub mod decode;
pub mod structured;

use std::ops::Range;

use bytes::Bytes;
use time::OffsetDateTime;

/// The value of `specversion`.
pub const SPEC_VERSION: &str = "1.0";

/// How an event is laid out in a message of the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentMode {
    /// One JSON envelope with the attributes and the data.
    #[default]
    Structured,
    /// Attributes in headers, data as the payload.
    Binary,
}

/// The names of the attributes that the bridge writes, in the order in which it writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `id`
    Id,
    /// `source`
    Source,
    /// `type`
    Type,
    /// `subject`
    Subject,
    /// `time`
    Time,
    /// `recordedtime`
    RecordedTime,
    /// `datacontenttype`
    DataContentType,
    /// `partitionkey`
    PartitionKey,
    /// `correlationid`
    CorrelationId,
    /// `attiowebhookid`
    AttioWebhookId,
    /// `attioobject`
    AttioObject,
    /// `attiolist`
    AttioList,
    /// `authtype`
    AuthType,
    /// `authid`
    AuthId,
    /// `reason`, only in quarantine
    Reason,
    /// `attiosource`, the name of the source, only in quarantine
    AttioSource,
    /// `attioindex`, the place in its delivery of an event, only in quarantine
    AttioIndex,
    /// `attiowebhookbase64`, in the place of an `attiowebhookid` that can be no attribute, only in quarantine
    AttioWebhookBase64,
}

impl Attribute {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Source => "source",
            Self::Type => "type",
            Self::Subject => "subject",
            Self::Time => "time",
            Self::RecordedTime => "recordedtime",
            Self::DataContentType => "datacontenttype",
            Self::PartitionKey => "partitionkey",
            Self::CorrelationId => "correlationid",
            Self::AttioWebhookId => "attiowebhookid",
            Self::AttioObject => "attioobject",
            Self::AttioList => "attiolist",
            Self::AuthType => "authtype",
            Self::AuthId => "authid",
            Self::Reason => "reason",
            Self::AttioSource => "attiosource",
            Self::AttioIndex => "attioindex",
            Self::AttioWebhookBase64 => "attiowebhookbase64",
        }
    }
}

/// The payload of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// One JSON value, byte for byte as it came.
    Json(Bytes),
    /// Bytes that are no JSON; `data_base64` in structured mode.
    Binary(Bytes),
}

/// One event, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent {
    /// The values of all attributes, one after the other: one allocation in place of a dozen.
    text: String,
    attributes: Vec<(Attribute, Range<usize>)>,
    data: Data,
}

impl CloudEvent {
    /// An event with the two attributes that an event without meaning still needs; its source in parts.
    pub fn new(id: &str, source: &[&str], data: Data) -> Self {
        let mut event = Self { text: String::with_capacity(512), attributes: Vec::with_capacity(14), data };
        event.set(Attribute::Id, id);
        event.set_joined(Attribute::Source, source);
        event
    }

    /// Adds an attribute. A value that the CloudEvents String type does not allow (empty, or with a
    /// control character) is left out, because an event with it would be no CloudEvent.
    pub fn set(&mut self, attribute: Attribute, value: impl AsRef<str>) {
        self.set_joined(attribute, &[value.as_ref()]);
    }

    /// Adds an attribute where there is a value for it.
    pub fn set_some(&mut self, attribute: Attribute, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.set(attribute, value);
        }
    }

    /// Adds an attribute whose value is made of these parts.
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

    /// The payload.
    pub fn data(&self) -> &Data {
        &self.data
    }
}

/// Looks at every byte, because that is quicker than to stop at the first.
fn is_printable_ascii(text: &str) -> bool {
    text.bytes().fold(true, |good, byte| good & (b' '..=b'~').contains(&byte))
}

/// A time as the bridge writes it: RFC 3339, UTC, milliseconds, `Z`. None outside the years 0 to 9999,
/// which is all that RFC 3339 can write.
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
