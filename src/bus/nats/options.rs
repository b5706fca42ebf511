//! The options of the NATS adapter.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// How to reach NATS and publish to it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Server addresses.
    pub servers: Vec<String>,
    /// Who the bridge is; nobody in particular where absent.
    pub auth: Option<Auth>,
    /// PEM file with the authorities that may sign the server's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client's certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the client's key.
    pub key_file: Option<PathBuf>,
    /// How long to wait for an ack.
    pub publish_timeout: Duration,
    /// The stream that takes the events.
    pub stream: Stream,
}

/// Who the bridge says it is.
#[derive(Clone, Debug)]
pub enum Auth {
    /// A credentials file with a JWT and its key.
    CredsFile(PathBuf),
    /// A file with an nkey seed.
    NkeyFile(PathBuf),
    /// A token.
    Token(SecretString),
    /// A user and a password.
    User {
        /// The user.
        username: String,
        /// The password.
        password: SecretString,
    },
}

/// The stream that takes the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Whether it is looked at, or made.
    pub ensure: Ensure,
    /// How long the server remembers message ids.
    pub duplicate_window: Duration,
    /// How long messages are kept; for ever where zero.
    pub max_age: Duration,
    /// Copies; the server's default where absent.
    pub replicas: Option<usize>,
}

/// Whether the stream is looked at, or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensure {
    /// Neither.
    Off,
    /// Looked at: a missing one is named in the log and keeps the bridge unready.
    Verify,
    /// Made where missing.
    Create,
}
