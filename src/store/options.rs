//! What `[dedup]` says of the store.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::bus::nats;

#[derive(Clone, Debug)]
pub struct Options {
    pub kind: Kind,
    pub on_failure: OnFailure,
    /// How long a request for claims may take.
    pub timeout: Duration,
    /// How long an acknowledged id is remembered.
    pub window: Duration,
    /// How long a claim lasts whose replica has died: longer than a publish takes.
    pub lease: Duration,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Redis(Box<RedisOptions>),
    NatsKv(Box<NatsKvOptions>),
}

impl Kind {
    /// As in `dedup.store`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::NatsKv(_) => "nats-kv",
        }
    }
}

/// What happens to an event while the store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It is published; only this replica remembers it.
    Degrade,
    /// It is refused, for the sender to try again.
    Refuse,
}

/// What a lease lasts beyond the publish timeout: the claim's answer, and the client's own delay.
pub const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// A bucket on NATS servers.
#[derive(Clone, Debug)]
pub struct NatsKvOptions {
    /// Servers, login and whether the bucket is created: `[nats]`.
    pub nats: nats::Options,
    pub bucket: String,
}

/// How to reach Redis or Valkey.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// With the password, so a secret as a whole.
    pub url: SecretString,
    /// Of every key.
    pub prefix: String,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}
