//! One publish per event inside a window.

use std::time::Duration;

/// How much is remembered, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long an acknowledged id is remembered.
    pub window: Duration,
    /// How many ids are remembered at most.
    pub capacity: u64,
}
