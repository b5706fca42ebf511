//! Why the client of a bus cannot be started or read with.

use std::borrow::Cow;
use std::fmt::Display;
use std::io;
use std::path::PathBuf;

/// Why a bus client cannot be created from its options. An unreachable broker is not a reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file that cannot be read.
    #[error("{key}: cannot read {}", path.display())]
    File {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A value that the client refuses, alone or together with other settings.
    #[error("{key}: {reason}")]
    Setting {
        /// The configuration key.
        key: Cow<'static, str>,
        /// What is wrong with its value.
        reason: String,
    },
    /// The client cannot be created for a reason that no setting changes.
    #[error("{bus}: the client cannot be created: {reason}")]
    Client {
        /// `kafka` or `nats`.
        bus: &'static str,
        /// The client's error.
        reason: String,
    },
    /// A thread that cannot be started.
    #[error("cannot start the thread {thread}: {source}")]
    Thread {
        /// Its name.
        thread: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl StartError {
    /// A value that the client refuses.
    pub(super) fn setting_of(key: impl Into<Cow<'static, str>>, reason: impl Display) -> Self {
        Self::Setting { key: key.into(), reason: reason.to_string() }
    }

    /// The configuration key that caused the error and what is wrong with it; none if no setting did.
    pub fn setting(&self) -> Option<(Cow<'_, str>, String)> {
        match self {
            Self::File { key, path, source } => {
                Some(((*key).into(), format!("cannot read {}: {source}", path.display())))
            }
            Self::Setting { key, reason } => Some((key.as_ref().into(), reason.clone())),
            Self::Client { .. } | Self::Thread { .. } => None,
        }
    }
}

/// Why a bus cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Standard output keeps nothing.
    #[error("bus.type is \"stdout\", which cannot be read back; set it to \"kafka\" or \"nats\"")]
    Stdout,
    /// The client cannot be created.
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
