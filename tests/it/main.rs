//! The integration tests: one binary, real brokers, everything in this process but the brokers.
//!
//! `tests/install.sh` once, then `cargo test --test it`.

mod support;

mod kafka;
mod kafka_security;
