//! The options of the Kafka adapter.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// How to reach Kafka and publish to it.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port` list, comma separated.
    pub bootstrap_servers: String,
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`; librdkafka's default where absent.
    pub security_protocol: Option<String>,
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER`.
    pub sasl_mechanism: Option<String>,
    /// User name.
    pub sasl_username: Option<String>,
    /// Password.
    pub sasl_password: Option<SecretString>,
    /// PEM file with the authorities that may sign the broker's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM file with the client's certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the client's key.
    pub key_file: Option<PathBuf>,
    /// `message.timeout.ms`: after this the client gives a message up.
    pub publish_timeout: Duration,
    /// `linger.ms`.
    pub linger: Duration,
    /// Any other librdkafka property, by its own name.
    pub properties: BTreeMap<String, String>,
    /// What to do about topics at start.
    pub topics: Topics,
}

/// What to do about topics at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Whether they are looked at, or made.
    pub ensure: Ensure,
    /// For topics that are made; the broker's default where absent.
    pub partitions: Option<i32>,
    /// For topics that are made; the broker's default where absent.
    pub replication_factor: Option<i32>,
    /// For topics that are made; the broker's default where absent.
    pub min_insync_replicas: Option<u32>,
    /// For topics that are made; the broker's default where absent.
    pub retention: Option<Duration>,
}

/// Whether topics are looked at, or made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ensure {
    /// Neither.
    Off,
    /// Looked at: a missing one is named in the log and keeps the bridge unready.
    #[default]
    Verify,
    /// Made where missing.
    Create,
}

/// Why a librdkafka property cannot be set by the operator; nothing for one that can.
pub fn owned_property(name: &str) -> Option<&'static str> {
    let reason = match name {
        "bootstrap.servers" | "metadata.broker.list" => "set kafka.bootstrap_servers",
        "security.protocol" => "set kafka.security_protocol",
        "sasl.mechanism" | "sasl.mechanisms" => "set kafka.sasl_mechanism",
        "sasl.username" => "set kafka.sasl_username",
        "sasl.password" => "set kafka.sasl_password",
        "ssl.ca.location" => "set kafka.ca_file",
        "ssl.certificate.location" => "set kafka.cert_file",
        "ssl.key.location" => "set kafka.key_file",
        "message.timeout.ms" | "delivery.timeout.ms" => "set kafka.publish_timeout",
        "linger.ms" | "queue.buffering.max.ms" => "set kafka.linger",
        "acks" | "request.required.acks" | "enable.idempotence" | "delivery.report.only.error" => {
            "a 200 needs the ack of every replica in sync"
        }
        "partitioner" | "partitioner_cb" => "consumers in other languages rely on murmur2_random",
        _ => return None,
    };
    Some(reason)
}
