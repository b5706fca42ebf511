//! What is not an event, and the limits of a body.

/// The deepest nesting that is accepted.
pub const MAX_DEPTH: usize = 64;

/// The most events that are accepted in one delivery. Attio sends one; a body of the default limit holds about
/// 3,500 real ones, or 170,000 empty ones, which must not take memory each.
pub const MAX_EVENTS: usize = 10_000;

/// Why a delivery or an element is not an event.
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
    /// The element is not an object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// The element has no string `event_type`.
    #[error("it has no string `event_type`")]
    NoEventType,
    /// A member that the bridge reads occurs twice.
    #[error("a member occurs twice, so it is ambiguous")]
    DuplicateMember,
    /// A required id has an invalid value.
    #[error("an id that its type requires is not 1 to 128 characters of A-Z a-z 0-9 . _ : -")]
    UnusableId,
}

impl Unusable {
    /// The `reason` in quarantine.
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
