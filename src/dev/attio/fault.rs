//! What goes wrong on purpose, once each, in the order in which it was ordered.

use std::collections::VecDeque;
use std::time::Duration;

use hyper::Method;

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
    /// The next request of this method; others pass it by.
    Of(Method, Box<Fault>),
}

impl Fault {
    /// Takes the first that is for such a request.
    pub fn take(faults: &mut VecDeque<Self>, method: &Method) -> Option<Self> {
        let is_for = |fault: &Self| !matches!(fault, Self::Of(only, _) if only != method);
        let at = faults.iter().position(is_for)?;
        Some(match faults.remove(at)? {
            Self::Of(_, fault) => *fault,
            fault => fault,
        })
    }
}
