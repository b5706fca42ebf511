//! Why the client of a bus cannot be started or read with.

use std::borrow::Cow;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// Why a bus client cannot be created from its options. An unreachable broker is not a reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{key}: cannot read {}", path.display())]
    File { key: &'static str, path: PathBuf, source: io::Error },
    /// A value that the client refuses, alone or together with other settings.
    #[error("{key}: {reason}")]
    Setting { key: Cow<'static, str>, reason: String },
    /// The client cannot be created for a reason that no setting changes.
    #[error("{bus}: the client cannot be created: {reason}")]
    Client { bus: &'static str, reason: String },
    #[error("cannot start the thread {thread}: {source}")]
    Thread { thread: &'static str, source: io::Error },
}

impl StartError {
    /// A value that the client refuses.
    pub(super) fn setting_of(key: impl Into<Cow<'static, str>>, reason: impl Display) -> Self {
        Self::Setting { key: key.into(), reason: reason.to_string() }
    }

    /// A file that cannot be read.
    pub(super) fn file(key: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { key, path: path.into(), source }
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
    #[error("bus.type is \"stdout\", which cannot be read back; set it to \"kafka\" or \"nats\"")]
    Stdout,
    #[error(transparent)]
    Start(#[from] StartError),
    /// The broker is unreachable, or does not allow this client to read: what to do about it.
    #[error("{bus} cannot be read: {reason}")]
    Broker { bus: &'static str, reason: String },
}

impl ReadError {
    pub(super) fn broker(bus: &'static str, reason: impl Into<String>) -> Self {
        Self::Broker { bus, reason: reason.into() }
    }
}
