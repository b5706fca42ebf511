//! Parses verified bytes into events: `{webhook_id, events: [...]}`, a bare event, or the single-event form.
//!
//! Each event keeps its bytes. Only the members that the bridge uses are read; one that occurs twice makes its
//! element unusable.

mod event;
mod json;

pub use event::{Event, Ids, MAX_DEPTH, MAX_EVENTS, Unusable};

use std::borrow::Cow;

use bytes::Bytes;

use json::Outline;

/// A parsed body.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// An envelope, or one event without one.
    Events {
        /// The webhook that fired, if the body names it.
        webhook_id: Option<Cow<'a, str>>,
        elements: Vec<Element<'a>>,
    },
    Unreadable(Unusable),
}

/// One element of `events`.
#[derive(Debug)]
pub enum Element<'a> {
    Event(Event<'a>),
    Unusable {
        /// Its bytes as received.
        raw: Bytes,
        reason: Unusable,
    },
}

pub fn parse(body: &Bytes) -> Parsed<'_> {
    let Ok(text) = std::str::from_utf8(body) else { return Parsed::Unreadable(Unusable::NotJson) };
    let whole = json::trim(text);
    // The members that distinguish the forms.
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

/// Parses one element of `events`, from quarantine.
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
