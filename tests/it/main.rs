//! The integration tests: one binary, real brokers, everything in this process but the brokers.
//!
//! `tests/run` installs what they need and runs them all.

mod support;

mod answers;
mod balance;
mod catalog;
mod check_connect;
mod cli;
mod config;
mod config_kafka;
mod content_modes;
mod dedup;
mod docs;
mod end_to_end;
mod events;
mod example;
mod examples;
mod hostile;
mod identity;
mod kafka;
mod kafka_security;
mod life;
mod process;
mod secrets;
mod setup;
mod verify;
