//! The integration tests: one binary, real brokers, everything in this process but the brokers.
//!
//! `tests/run` installs what they need and runs them all.

mod support;

mod answers;
mod catalog;
mod cli;
mod config;
mod dedup;
mod dev;
mod docs;
mod end_to_end;
mod example;
mod kafka;
mod secrets;
mod setup;
mod verify;
