//! Waiting for a condition, never for a fixed time.

use std::fmt::Display;
use std::time::{Duration, Instant};

use tokio::time::timeout;

/// Far longer than anything takes on a busy machine. A test asserts a shorter time only where that time is
/// promised.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds; panics with its description after [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let polling = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, polling).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
}

/// The same on the thread that calls it.
pub fn eventually_blocking(what: &str, mut holds: impl FnMut() -> bool) {
    eventually_some(what, || holds().then_some(()));
}

/// Blocks until there is a value.
pub fn eventually_some<T>(what: &str, mut value: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Blocks until an attempt succeeds; panics with the last error after [`PATIENCE`].
pub fn eventually_ok<T, E: Display>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
