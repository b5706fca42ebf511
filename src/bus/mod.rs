//! The buses: adapters behind the port of [`crate::pipeline::publish`].
pub mod kafka;
pub mod nats;

use crate::cloudevent::ContentMode;

/// Which bus, and how events are laid out on it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bus.
    pub kind: Kind,
    /// Structured or binary.
    pub content_mode: ContentMode,
}

/// The bus, with its own options.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Apache Kafka or anything that speaks its protocol.
    Kafka(kafka::Options),
    /// JSON Lines on standard output.
    Stdout,
}
