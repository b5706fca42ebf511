//! What the tests stand on: waiting without guessing, real brokers, messages and their results.

pub mod attio;
pub mod bridge;
pub mod bus;
pub mod buses;
pub mod canaries;
pub mod certificates;
pub mod client;
pub mod connect_proxy;
pub mod consumer;
pub mod descriptors;
pub mod far;
pub mod fixtures;
pub mod kafka;
pub mod kept;
pub mod load;
pub mod logs;
pub mod memory;
pub mod mix;
pub mod nats;
pub mod onto;
pub mod ports;
pub mod program;
pub mod proxy;
pub mod request;
pub mod rig;
pub mod scrape;
pub mod sdk;
pub mod served;
pub mod tls;
pub mod watched;

use std::time::{Duration, Instant};

/// Far longer than anything takes, on a machine that is busy with something else. Tests never
/// assert that something is fast unless being fast is the promise.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds; fails the test, naming it, when it does not.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    eventually_some(what, || holds().then_some(()));
}

/// Waits until there is a value.
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

/// Waits until something succeeds; fails the test with the last error when it does not.
pub fn eventually_ok<T, E: std::fmt::Display>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A name that no other test of this or an earlier run has used.
pub fn unique(stem: &str) -> String {
    format!("{stem}.{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
}

/// Whether tests run at full strength (`tests/run full`). Tests that only the full tier runs are
/// `#[ignore]`d instead, so that none counts as passed without having run.
pub fn full_tier() -> bool {
    std::env::var("ATTIO_BRIDGE_TEST_TIER").is_ok_and(|tier| tier == "full")
}

/// The number of repetitions: `few` in CI, `many` in the full tier.
pub fn stress(few: usize, many: usize) -> usize {
    if full_tier() { many } else { few }
}

/// Makes a FIFO, and gives a writer of it that writes nothing.
pub fn fifo(path: &std::path::Path) -> std::fs::File {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    // Open for reading too, so that opening it does not wait for a reader.
    std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
}
