//! The options of the Kafka adapter, and the librdkafka properties that an operator may set.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use secrecy::SecretString;

/// How to connect to Kafka and publish to it.
#[derive(Clone)]
pub struct Options {
    /// `host:port` list, comma separated.
    pub bootstrap_servers: String,
    /// `plaintext` (librdkafka's default), `ssl`, `sasl_plaintext` or `sasl_ssl`.
    pub security_protocol: Option<String>,
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`, `OAUTHBEARER`.
    pub sasl_mechanism: Option<String>,
    /// User name.
    pub sasl_username: Option<String>,
    /// Password.
    pub sasl_password: Option<SecretString>,
    /// PEM file of the authorities that may sign the broker's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client's key.
    pub key_file: Option<PathBuf>,
    /// `message.timeout.ms`: after this the client gives up on a message.
    pub publish_timeout: Duration,
    /// `linger.ms`.
    pub linger: Duration,
    /// Any other librdkafka property, by its own name.
    pub properties: BTreeMap<String, String>,
    /// How topics are reconciled.
    pub topics: Topics,
}

impl fmt::Debug for Options {
    /// Properties by name only: some hold secrets.
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

/// How topics are reconciled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    /// Whether they are verified or created.
    pub ensure: Ensure,
    /// Of topics that are created; the broker's default where absent.
    pub partitions: Option<i32>,
    /// Of topics that are created; the broker's default where absent.
    pub replication_factor: Option<i32>,
    /// Of topics that are created; the broker's default where absent.
    pub min_insync_replicas: Option<u32>,
    /// Of topics that are created; the broker's default where absent.
    pub retention: Option<Duration>,
}

/// Whether topics are verified or created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ensure {
    /// Neither.
    Off,
    /// Verified: a missing one is logged and keeps the bridge unready.
    #[default]
    Verify,
    /// Created where missing.
    Create,
}

/// Properties that the bridge owns, and what to do instead. Some have a key of their own; the others would
/// break the promise that a 200 means acknowledged.
const OWNED: [(&str, &str); 34] = [
    ("bootstrap.servers", "set kafka.bootstrap_servers instead"),
    ("metadata.broker.list", "set kafka.bootstrap_servers instead"),
    ("security.protocol", "set kafka.security_protocol instead"),
    ("sasl.mechanism", "set kafka.sasl_mechanism instead"),
    ("sasl.mechanisms", "set kafka.sasl_mechanism instead"),
    ("sasl.username", "set kafka.sasl_username instead"),
    ("sasl.password", "set kafka.sasl_password instead"),
    ("ssl.ca.location", "set kafka.ca_file instead"),
    ("ssl.certificate.location", "set kafka.cert_file instead"),
    ("ssl.key.location", "set kafka.key_file instead"),
    ("message.timeout.ms", "set kafka.publish_timeout instead"),
    ("delivery.timeout.ms", "set kafka.publish_timeout instead"),
    ("linger.ms", "set kafka.linger instead"),
    ("queue.buffering.max.ms", "set kafka.linger instead"),
    ("allow.auto.create.topics", "set kafka.topics.ensure instead"),
    ("log_level", "set log.level instead"),
    ("acks", ACKS),
    ("request.required.acks", ACKS),
    ("enable.idempotence", "remove it: retries of the client must not store an event twice or out of order"),
    ("transactional.id", "remove it: the bridge does not use transactions"),
    ("transaction.timeout.ms", "remove it: the bridge does not use transactions"),
    ("partitioner", "remove it: the bridge assigns partitions as the Java client does (murmur2)"),
    ("sticky.partitioning.linger.ms", "remove it: every event has a key"),
    ("queuing.strategy", "remove it: the events of one key must keep their order"),
    ("delivery.report.only.error", "remove it: the bridge answers 200 only after the broker's ack"),
    ("statistics.interval.ms", "remove it: the bridge monitors its client with it"),
    ("log.queue", CALLBACK),
    ("enabled_events", CALLBACK),
    ("msg_order_cmp", CALLBACK),
    ("interceptors", CALLBACK),
    ("opaque", CALLBACK),
    ("default_topic_conf", CALLBACK),
    ("test.mock.num.brokers", "remove it: a mock cluster stores nothing"),
    ("test.mock.broker.rtt", "remove it: a mock cluster stores nothing"),
];

const ACKS: &str = "remove it: the bridge waits for all in-sync replicas, or a 200 would prove nothing";
const CALLBACK: &str = "remove it: it is a callback of the client, not a setting";

/// What to do instead of setting `name`, if the bridge owns it.
pub fn owned_property(name: &str) -> Option<&'static str> {
    let owned = OWNED.iter().find(|(owned, _)| *owned == name).map(|(_, advice)| *advice);
    owned.or_else(|| name.ends_with("_cb").then_some(CALLBACK))
}

/// A property that the client refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// The bridge sets it.
    #[error("{name} is owned by the bridge: {advice}")]
    Owned {
        /// The property.
        name: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// librdkafka does not know the name, or refuses the value.
    #[error("{name}: {reason}")]
    Invalid {
        /// The property.
        name: String,
        /// librdkafka's error.
        reason: String,
    },
}

/// Checks one entry of `kafka.properties`: the bridge does not own it, and librdkafka knows the name and
/// accepts the value. Contradictions between properties are only found by creating a client.
pub fn check_property(name: &str, value: &str) -> Result<(), PropertyError> {
    if let Some(advice) = owned_property(name) {
        return Err(PropertyError::Owned { name: name.into(), advice });
    }
    let mut config = ClientConfig::new();
    config.set(name, value);
    match config.create_native_config() {
        Ok(_) => Ok(()),
        Err(error) => Err(PropertyError::Invalid { name: name.into(), reason: reason(&error) }),
    }
}

/// librdkafka's error text. It quotes some values; the configuration has checked those of secrets before.
pub(super) fn reason(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, text, _, _) | KafkaError::ClientCreation(text) => text.clone(),
        KafkaError::Nul(_) => "a zero byte is not allowed".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_of_the_promise_are_owned() {
        for name in ["acks", "request.required.acks", "enable.idempotence", "delivery.timeout.ms"] {
            assert!(owned_property(name).is_some(), "{name}");
        }
        assert_eq!(owned_property("linger.ms"), Some("set kafka.linger instead"));
        for name in ["compression.type", "message.max.bytes", "ssl.key.password", "client.id", "debug"] {
            assert_eq!(owned_property(name), None, "{name}");
        }
    }

    #[test]
    fn aliases_of_owned_properties_are_owned() {
        let aliases = [
            ("bootstrap.servers", "metadata.broker.list"),
            ("sasl.mechanisms", "sasl.mechanism"),
            ("linger.ms", "queue.buffering.max.ms"),
            ("acks", "request.required.acks"),
            ("message.timeout.ms", "delivery.timeout.ms"),
        ];
        for (name, alias) in aliases {
            assert_eq!(owned_property(name), owned_property(alias), "{name} and {alias}");
        }
    }

    #[test]
    fn unknown_names_and_bad_values_are_reported() {
        let unknown = check_property("compression.typo", "lz4").unwrap_err();
        assert!(unknown.to_string().contains("No such configuration property"), "{unknown}");
        let bad = check_property("socket.timeout.ms", "soon").unwrap_err();
        assert!(bad.to_string().starts_with("socket.timeout.ms: "), "{bad}");
        assert!(check_property("compression.type", "lz4").is_ok());
        let owned = check_property("acks", "1").unwrap_err();
        assert!(matches!(owned, PropertyError::Owned { .. }), "{owned}");
    }
}
