//! Faults that a test orders, once each and in order.

use std::collections::VecDeque;
use std::time::Duration;

use axum::http::Method;

/// What goes wrong on purpose with one of the next requests.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is not processed; a proxy answers with this status and HTML.
    Status(u16),
    /// The request is not processed, and answered with this status and this JSON.
    Answer(u16, String),
    /// The request is processed, but a proxy answers with this status and HTML.
    StatusAfter(u16),
    /// The request is not processed, and the answer takes this long.
    Hang(Duration),
    /// The request is processed, and the answer takes this long.
    Late(Duration),
    /// 429; `Retry-After` is an HTTP date.
    Limited,
    /// 429; `Retry-After` is this text.
    LimitedFor(String),
    /// For the next request with this method only.
    Of(Method, Box<Fault>),
}

impl Fault {
    /// Removes the first fault that applies to a request with this method.
    pub fn take(faults: &mut VecDeque<Self>, method: &Method) -> Option<Self> {
        let applies = |fault: &Self| !matches!(fault, Self::Of(only, _) if only != method);
        match faults.remove(faults.iter().position(applies)?)? {
            Self::Of(_, fault) => Some(*fault),
            fault => Some(fault),
        }
    }
}
