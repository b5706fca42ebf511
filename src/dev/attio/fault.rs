//! What goes wrong on purpose, once each, in the order in which it was ordered.

use std::time::Duration;

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is not processed; a proxy answers with this status and HTML.
    Status(u16),
    /// The request is processed, and a proxy answers with this status and HTML all the same.
    StatusAfter(u16),
    /// The request is not processed, and the answer takes this long.
    Hang(Duration),
    /// The request is processed, and the answer takes this long.
    Late(Duration),
    /// The rate limit is over; `Retry-After` is an HTTP date.
    Limited,
    /// The rate limit is over; `Retry-After` is this text.
    LimitedFor(String),
}
