//! The options of the Kafka adapter.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// How to reach Kafka and publish to it.
#[derive(Clone)]
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

impl fmt::Debug for Options {
    /// Properties by name only: `ssl.key.password` and its like are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("security_protocol", &self.security_protocol)
            .field("sasl_mechanism", &self.sasl_mechanism)
            .field("sasl_username", &self.sasl_username)
            .field("sasl_password", &self.sasl_password)
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("publish_timeout", &self.publish_timeout)
            .field("linger", &self.linger)
            .field("properties", &self.properties.keys())
            .field("topics", &self.topics)
            .finish()
    }
}

/// What to do about topics at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

impl Options {
    /// The defaults of the configuration, for one cluster.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            security_protocol: None,
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            publish_timeout: Duration::from_secs(30),
            linger: Duration::ZERO,
            properties: BTreeMap::new(),
            topics: Topics::default(),
        }
    }
}

/// Whether topics are looked at, or made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ensure {
    /// Neither.
    Off,
    /// Looked at: a missing one is named in the log and keeps the bridge unready.
    #[default]
    Verify,
    /// Made where missing.
    Create,
}
