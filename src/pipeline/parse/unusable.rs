//! The limits of a body, and why it or an element is not an event.

use crate::named_enum::named_enum;

/// The deepest nesting that is accepted.
pub const MAX_DEPTH: usize = 64;

/// The most events that are accepted in one delivery. Attio sends one; a body of the default limit holds about
/// 3,500 real ones, or 170,000 empty ones, which must not take memory each.
pub const MAX_EVENTS: usize = 10_000;

named_enum! {
    /// Why a delivery or an element is not an event.
    #[derive(thiserror::Error)]
    pub enum Unusable,
    /// The `reason` in quarantine.
    slug {
        #[error("it is not JSON in UTF-8")]
        NotJson = "not_json",
        #[error("its JSON nests deeper than {MAX_DEPTH}")]
        TooDeep = "too_deep",
        #[error("its JSON has neither `events` nor `event_type`")]
        NotAnEvent = "not_an_event",
        #[error("it holds more than {MAX_EVENTS} events")]
        TooManyEvents = "too_many_events",
        #[error("it is not a JSON object")]
        NotAnObject = "not_an_object",
        #[error("it has no string `event_type`")]
        NoEventType = "no_event_type",
        #[error("a member occurs twice, so it is ambiguous")]
        DuplicateMember = "duplicate_member",
        #[error("an id that its type requires is not 1 to 128 characters of A-Z a-z 0-9 . _ : -")]
        UnusableId = "unusable_id",
    }
}
