//! Verified bytes into events: `{webhook_id, events: [...]}`, a bare event, or the guide's single event.
//!
//! Each event keeps the bytes it came with; only the members that the bridge reads are looked at,
//! and a member it reads that occurs twice is never trusted.

mod event;
mod ids;
mod json;

pub use event::Event;
pub use ids::Ids;

use std::borrow::Cow;

use bytes::Bytes;

use json::Outline;

/// The deepest nesting that is read.
pub const MAX_DEPTH: usize = 64;

/// The most events that are taken from one delivery. Attio sends one; a body of the default limit
/// has room for about 3,500 real ones and for 170,000 of nothing, which must not cost memory each.
pub const MAX_EVENTS: usize = 10_000;

/// What a body holds.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// An envelope, or one event without one.
    Events {
        /// The webhook that fired, where the body names it.
        webhook_id: Option<Cow<'a, str>>,
        /// The events in their order, zero or more.
        elements: Vec<Element<'a>>,
    },
    /// Nothing that can be read as events.
    Unreadable(Unusable),
}

/// One element of `events`.
#[derive(Debug)]
pub enum Element<'a> {
    /// An event.
    Event(Event<'a>),
    /// Something that can never be published as an event.
    Unusable {
        /// Its bytes as they came.
        raw: Bytes,
        /// What is wrong with it.
        reason: Unusable,
    },
}

/// Why a delivery or an element can never be published. The slug is the `reason` in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The body is not JSON in UTF-8.
    #[error("it is not JSON in UTF-8")]
    NotJson,
    /// The body nests deeper than [`MAX_DEPTH`].
    #[error("its JSON nests deeper than {MAX_DEPTH}")]
    TooDeep,
    /// The body is JSON but neither an envelope nor an event.
    #[error("its JSON has neither `events` nor `event_type`")]
    NotAnEvent,
    /// The body holds more than [`MAX_EVENTS`] events.
    #[error("it holds more than {MAX_EVENTS} events")]
    TooManyEvents,
    /// The element is no object.
    #[error("it is no JSON object")]
    NotAnObject,
    /// The element has no `event_type` that is text.
    #[error("it has no `event_type` that is text")]
    NoEventType,
    /// A member that the bridge reads occurs twice.
    #[error("a member occurs twice in it, so it can be read in two ways")]
    DuplicateMember,
    /// An id that the event's type needs has an illegal value.
    #[error("an id that its type needs is no text of A-Z a-z 0-9 . _ : - or is too long")]
    UnusableId,
}

impl Unusable {
    /// The slug in quarantine and log.
    pub const fn slug(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::TooDeep => "too_deep",
            Self::NotAnEvent => "not_an_event",
            Self::TooManyEvents => "too_many_events",
            Self::NotAnObject => "not_an_object",
            Self::NoEventType => "no_event_type",
            Self::DuplicateMember => "duplicate_member",
            Self::UnusableId => "unusable_id",
        }
    }
}

/// Reads a body. Never fails: what cannot be read is named.
pub fn parse(body: &Bytes) -> Parsed<'_> {
    let Ok(text) = std::str::from_utf8(body) else { return Parsed::Unreadable(Unusable::NotJson) };
    let whole = json::trim(text);
    // The members that decide what the body is.
    let wanted = |name: &str| matches!(name, "webhook_id" | "events" | "event_type");
    let Some(outline) = json::outline(whole, MAX_DEPTH, "events", wanted) else {
        return Parsed::Unreadable(Unusable::TooDeep);
    };
    if !json::is_json(whole) {
        return Parsed::Unreadable(Unusable::NotJson);
    }
    let Outline { members, elements, duplicate } = outline;
    if duplicate {
        return Parsed::Unreadable(Unusable::DuplicateMember);
    }
    let member = |wanted: &str| {
        let value = members.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
        value.filter(|value| !json::is_null(value))
    };
    let (webhook_id, events, event_type) = (member("webhook_id"), member("events"), member("event_type"));
    match (elements, events, event_type) {
        (Some(elements), ..) if elements.len() > MAX_EVENTS => Parsed::Unreadable(Unusable::TooManyEvents),
        (Some(elements), ..) => Parsed::Events {
            webhook_id: webhook_id.and_then(json::text),
            elements: elements.into_iter().map(|text| element(body, text)).collect(),
        },
        (None, None, Some(_)) => Parsed::Events { webhook_id: None, elements: vec![element(body, whole)] },
        _ => Parsed::Unreadable(Unusable::NotAnEvent),
    }
}

/// Reads one element of `events` that has come alone, out of quarantine.
pub fn parse_element(raw: &Bytes) -> Element<'_> {
    let unusable = |reason| Element::Unusable { raw: raw.clone(), reason };
    let Ok(text) = std::str::from_utf8(raw) else { return unusable(Unusable::NotJson) };
    let whole = json::trim(text);
    if !json::nests_within(whole, MAX_DEPTH) {
        return unusable(Unusable::TooDeep);
    }
    if json::is_json(whole) { element(raw, whole) } else { unusable(Unusable::NotJson) }
}

fn element<'a>(body: &Bytes, text: &'a str) -> Element<'a> {
    let raw = body.slice_ref(text.as_bytes());
    match Event::read(text, raw.clone()) {
        Ok(event) => Element::Event(event),
        Err(reason) => Element::Unusable { raw, reason },
    }
}
