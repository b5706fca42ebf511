//! The librdkafka properties that an operator may set, and those that belong to the bridge.
//!
//! Everything here is pure: the configuration check calls it without a broker.

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;

/// Properties the bridge owns, with what to do instead. Some have a key of their own; the others
/// would break the promise that a 200 means acknowledged.
const OWNED: [(&str, &str); 49] = [
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
    ("partitioner", "remove it: the bridge places keys as the Java client does (murmur2)"),
    ("sticky.partitioning.linger.ms", "remove it: every event has a key"),
    ("queuing.strategy", "remove it: the events of one key must keep their order"),
    ("delivery.report.only.error", "remove it: the bridge answers 200 only after the broker's ack"),
    ("statistics.interval.ms", "remove it: the bridge watches its client with it"),
    ("log.queue", CALLBACKS),
    ("enabled_events", CALLBACKS),
    ("dr_cb", CALLBACKS),
    ("dr_msg_cb", CALLBACKS),
    ("error_cb", CALLBACKS),
    ("throttle_cb", CALLBACKS),
    ("stats_cb", CALLBACKS),
    ("log_cb", CALLBACKS),
    ("background_event_cb", CALLBACKS),
    ("socket_cb", CALLBACKS),
    ("connect_cb", CALLBACKS),
    ("closesocket_cb", CALLBACKS),
    ("open_cb", CALLBACKS),
    ("resolve_cb", CALLBACKS),
    ("oauthbearer_token_refresh_cb", CALLBACKS),
    ("ssl.certificate.verify_cb", CALLBACKS),
    ("partitioner_cb", CALLBACKS),
    ("msg_order_cmp", CALLBACKS),
    ("interceptors", CALLBACKS),
    ("opaque", CALLBACKS),
    ("default_topic_conf", CALLBACKS),
    ("test.mock.num.brokers", "remove it: a mock cluster stores nothing"),
    ("test.mock.broker.rtt", "remove it: a mock cluster stores nothing"),
];

const ACKS: &str = "remove it: the bridge waits for all in-sync replicas, or a 200 would prove nothing";
const CALLBACKS: &str = "remove it: it belongs to the code of the client and is no setting";

/// What to do instead, where `name` is a property that the bridge owns.
pub fn owned_property(name: &str) -> Option<&'static str> {
    OWNED.iter().find(|(owned, _)| *owned == name).map(|(_, advice)| *advice)
}

/// A property that the client does not take.
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
    /// librdkafka does not know the name, or does not take the value.
    #[error("{name}: {reason}")]
    Invalid {
        /// The property.
        name: String,
        /// What librdkafka said.
        reason: String,
    },
}

impl PropertyError {
    /// The name of the property.
    pub fn name(&self) -> &str {
        match self {
            Self::Owned { name, .. } | Self::Invalid { name, .. } => name,
        }
    }
}

/// Checks one entry of `kafka.properties`: the name is free to be set, and librdkafka knows it and
/// takes the value. Properties that contradict each other are only found by starting a client.
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

/// What librdkafka says of a property. It quotes some values: the configuration check hides those of
/// secrets before anything comes here.
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
    fn what_the_promise_rests_on_is_owned() {
        for name in ["acks", "request.required.acks", "enable.idempotence", "delivery.timeout.ms"] {
            assert!(owned_property(name).is_some(), "{name}");
        }
        assert_eq!(owned_property("linger.ms"), Some("set kafka.linger instead"));
        for name in ["compression.type", "message.max.bytes", "ssl.key.password", "client.id", "debug"] {
            assert_eq!(owned_property(name), None, "{name}");
        }
    }

    #[test]
    fn every_alias_that_librdkafka_knows_of_an_owned_property_is_owned() {
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
    fn an_unknown_name_and_a_bad_value_are_reported() {
        let unknown = check_property("compression.typo", "lz4").unwrap_err();
        assert!(unknown.to_string().contains("No such configuration property"), "{unknown}");
        let bad = check_property("socket.timeout.ms", "soon").unwrap_err();
        assert!(bad.to_string().starts_with("socket.timeout.ms: "), "{bad}");
        assert!(check_property("compression.type", "lz4").is_ok());
        let owned = check_property("acks", "1").unwrap_err();
        assert!(matches!(owned, PropertyError::Owned { .. }), "{owned}");
    }
}
