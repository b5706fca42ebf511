//! What a connection is doing: written by its I/O and its service, which run in the same task.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::pipeline::outcome::Reason;

/// How long a connection may wait, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the rest of a head, and for the first byte of a connection.
    pub header: Duration,
    /// For the next request, and for a client to take its answer.
    pub idle: Duration,
}

/// What the connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A head has begun to arrive, or must.
    Head,
    /// A request is being worked on: its deadlines are its own.
    Busy,
    /// Between two requests.
    Idle,
    /// The client does not take its answer.
    Writing,
}

/// The phase of a connection and the verdict on its last head.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<State>>);

struct State {
    phase: Phase,
    refused: Option<Reason>,
}

impl Progress {
    /// A connection that has just been accepted.
    pub fn accepted() -> Self {
        Self(Arc::new(Mutex::new(State { phase: Phase::Head, refused: None })))
    }

    /// A head is complete and its request is being worked on; tells why its head was refused, if it
    /// was: then the request is only a stand-in for it.
    pub fn request_began(&self) -> Option<Reason> {
        let mut state = self.0.lock();
        state.phase = Phase::Busy;
        state.refused.take()
    }

    /// The answer is ready to be written.
    pub fn request_ended(&self) {
        self.set(Phase::Idle);
    }

    /// The next request is a stand-in.
    pub(super) fn refuse(&self, reason: Reason) {
        self.0.lock().refused = Some(reason);
    }

    pub(super) fn set(&self, phase: Phase) {
        self.0.lock().phase = phase;
    }

    pub(super) fn get(&self) -> Phase {
        self.0.lock().phase
    }
}
