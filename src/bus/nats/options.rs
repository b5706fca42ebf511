//! The options of the NATS adapter.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// How to reach NATS and publish to it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Server addresses.
    pub servers: Vec<String>,
    /// The login; none if absent.
    pub auth: Option<Auth>,
    /// PEM file with the CA certificates that the server's certificate is verified with.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client's certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the client's key.
    pub key_file: Option<PathBuf>,
    /// Whether addresses that the cluster tells of are left out.
    pub ignore_discovered_servers: bool,
    /// How long an ack is awaited.
    pub publish_timeout: Duration,
    /// The stream that stores the events.
    pub stream: Stream,
}

/// A login.
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

/// The stream that stores the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Whether it is verified or created.
    pub ensure: Ensure,
    /// How long the server remembers message ids.
    pub duplicate_window: Duration,
    /// How long messages are kept; unlimited where zero.
    pub max_age: Duration,
    /// Replicas; the server's default where absent.
    pub replicas: Option<usize>,
}

/// Whether the stream is verified or created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensure {
    /// Neither.
    Off,
    /// Verified: a missing stream is logged and keeps the bridge unready.
    Verify,
    /// Created where missing.
    Create,
}
