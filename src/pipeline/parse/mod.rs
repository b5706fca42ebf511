//! Verified bytes into events: `{webhook_id, events: [...]}`, a bare event, or the guide's single event.
//!
//! Each event keeps the bytes it came with; only the members that the bridge reads are looked at,
//! and a member it reads that occurs twice is never trusted.

mod depth;
mod event;
mod ids;
mod json;

pub use event::Event;
pub use ids::Ids;

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

/// The deepest nesting that is read.
pub const MAX_DEPTH: usize = 64;

/// The most events that are taken from one delivery. Attio sends one; a body of the default limit
/// has room for about 3,500 real ones and for 170,000 of nothing, which must not cost memory each.
pub const MAX_EVENTS: usize = 10_000;

/// What a body holds.
#[derive(Debug)]
pub enum Parsed {
    /// An envelope, or one event without one.
    Events {
        /// The webhook that fired, where the body names it.
        webhook_id: Option<String>,
        /// The events in their order, zero or more.
        elements: Vec<Element>,
    },
    /// Nothing that can be read as events.
    Unreadable(Unusable),
}

/// One element of `events`.
#[derive(Debug)]
pub enum Element {
    /// An event.
    Event(Event),
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
pub fn parse(body: &Bytes) -> Parsed {
    let Ok(text) = std::str::from_utf8(body) else { return Parsed::Unreadable(Unusable::NotJson) };
    if depth::exceeds(text.as_bytes(), MAX_DEPTH) {
        return Parsed::Unreadable(Unusable::TooDeep);
    }
    let whole = json::trim(text);
    // The members that decide what the body is. A good body is walked once for them.
    let Ok(members) = json::members(whole, |name| matches!(name, "webhook_id" | "events" | "event_type"))
    else {
        return Parsed::Unreadable(unreadable(text));
    };
    let member = |wanted: &str| {
        let value = members.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
        value.filter(|value| !json::is_null(value))
    };
    let (webhook_id, events, event_type) = (member("webhook_id"), member("events"), member("event_type"));
    let elements = events.map(|events| serde_json::from_str::<Vec<&RawValue>>(events.get()));
    match (elements, event_type) {
        (Some(Ok(elements)), _) if elements.len() > MAX_EVENTS => Parsed::Unreadable(Unusable::TooManyEvents),
        (Some(Ok(elements)), _) => Parsed::Events {
            webhook_id: webhook_id.and_then(json::text).map(Cow::into_owned),
            elements: elements.into_iter().map(|raw| element(body, json::trim(raw.get()))).collect(),
        },
        (None, Some(_)) => Parsed::Events { webhook_id: None, elements: vec![element(body, whole)] },
        _ => Parsed::Unreadable(Unusable::NotAnEvent),
    }
}

/// Reads one element of `events` that has come alone, out of quarantine.
pub fn parse_element(raw: &Bytes) -> Element {
    let unusable = |reason| Element::Unusable { raw: raw.clone(), reason };
    let Ok(text) = std::str::from_utf8(raw) else { return unusable(Unusable::NotJson) };
    if depth::exceeds(raw, MAX_DEPTH) {
        return unusable(Unusable::TooDeep);
    }
    match serde_json::from_str::<&RawValue>(text) {
        Ok(whole) => element(raw, json::trim(whole.get())),
        Err(_) => unusable(Unusable::NotJson),
    }
}

/// Why a text has no members that could be trusted.
fn unreadable(text: &str) -> Unusable {
    match serde_json::from_str::<&RawValue>(text) {
        Err(_) => Unusable::NotJson,
        Ok(whole) if !whole.get().starts_with('{') => Unusable::NotAnEvent,
        Ok(_) => Unusable::DuplicateMember,
    }
}

fn element(body: &Bytes, text: &str) -> Element {
    let raw = body.slice_ref(text.as_bytes());
    match Event::read(text, raw.clone()) {
        Ok(event) => Element::Event(event),
        Err(reason) => Element::Unusable { raw, reason },
    }
}
