//! A bus as an argument: `kafka://HOST:PORT`, `nats://HOST:PORT` or `stdout`, in place of a configuration.

use std::ffi::OsString;

use crate::config::{Environment, variable};

/// Where events are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusAddress {
    /// `host:port`.
    Kafka(String),
    /// A URL.
    Nats(String),
    /// Standard output.
    Stdout,
}

impl BusAddress {
    /// A parser of arguments.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None if text == "stdout" => Ok(Self::Stdout),
            Some(("kafka", rest)) if rest.contains(':') => Ok(Self::Kafka(rest.to_owned())),
            Some(("nats", rest)) if rest.contains(':') => Ok(Self::Nats(text.to_owned())),
            _ => Err("expects kafka://HOST:PORT, nats://HOST:PORT or stdout".into()),
        }
    }

    /// The value of `bus.type`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "kafka",
            Self::Nats(_) => "nats",
            Self::Stdout => "stdout",
        }
    }

    /// The broker's address; empty for standard output.
    pub fn address(&self) -> &str {
        match self {
            Self::Kafka(address) | Self::Nats(address) => address,
            Self::Stdout => "",
        }
    }

    /// The variables of a bridge on this bus whose source `attio` has that secret.
    pub fn environment(&self, secret: &str) -> Environment {
        let servers = match self {
            Self::Kafka(_) => Some("kafka.bootstrap_servers"),
            Self::Nats(_) => Some("nats.servers"),
            Self::Stdout => None,
        };
        let servers = servers.map(|key| (variable(key), self.address()));
        let own = [("ATTIO_WEBHOOK_SECRET".to_owned(), secret), (variable("bus.type"), self.name())];
        own.into_iter().chain(servers).map(|(name, value)| (name, OsString::from(value))).collect()
    }
}
