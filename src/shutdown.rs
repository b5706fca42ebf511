//! Signals, and the steps of a graceful stop.

use std::time::Duration;

/// How a stop takes its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long to go on serving after readiness has fallen.
    pub delay: Duration,
    /// How long to wait for what was accepted.
    pub drain_timeout: Duration,
}
