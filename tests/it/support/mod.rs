//! Shared by the tests: real brokers, proxies, clients, messages and their results, waiting.

pub mod attio;
pub mod aws;
pub mod bridge;
pub mod browser;
pub mod bus;
pub mod buses;
pub mod canaries;
pub mod certificates;
pub mod client;
pub mod config_docs;
pub mod connect_proxy;
pub mod consumer;
pub mod descriptors;
pub mod network;
pub mod faults;
pub mod fixtures;
pub mod kafka;
pub mod shared_store;
pub mod snapshot;
pub mod load;
pub mod logs;
pub mod memory;
pub mod mix;
pub mod nats;
pub mod oidc;
pub mod real_bus;
pub mod ports;
pub mod program;
pub mod proxy;
pub mod redis;
pub mod replicas;
pub mod request;
pub mod harness;
pub mod scrape;
pub mod sdk;
pub mod served;
pub mod terminal;
pub mod tls;
pub mod traffic;
pub mod wait;
pub mod watched;

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
