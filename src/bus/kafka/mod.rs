//! Kafka.
pub mod options;
pub use options::{Options, owned_property};
