//! NATS JetStream.
pub mod options;
pub use options::Options;
