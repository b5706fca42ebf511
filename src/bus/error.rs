//! Why the client of a bus cannot be started or read with.

use std::io;
use std::path::PathBuf;

/// Why a bus client cannot be made from its options. Never because the broker is unreachable.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file that cannot be read.
    #[error("{key}: cannot read {}", path.display())]
    File {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
    /// A value that the client does not accept.
    #[error("{key}: {reason}")]
    Setting {
        /// The configuration key, or the bus where several keys do not fit together.
        key: &'static str,
        /// What is wrong with the value.
        reason: String,
    },
    /// A thread or a task of the client that cannot be started.
    #[error("cannot start {part}: {source}")]
    Spawn {
        /// What was to be started.
        part: &'static str,
        /// What the system reported.
        source: io::Error,
    },
}

/// Why a bus cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Standard output keeps nothing.
    #[error("bus.type is \"stdout\", which cannot be read back; set it to \"kafka\" or \"nats\"")]
    Stdout,
    /// The client cannot be made.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The broker is unreachable, or does not allow this client to read.
    #[error("{bus} cannot be read: {reason}")]
    Broker {
        /// `kafka` or `nats`.
        bus: &'static str,
        /// What is wrong, and what to do about it.
        reason: String,
    },
}
