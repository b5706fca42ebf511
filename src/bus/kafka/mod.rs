//! Kafka.
pub mod options;
pub mod properties;
mod client_config;
mod record;
mod verdict;
pub use client_config::StartError;
pub use options::Options;
