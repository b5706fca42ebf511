//! From the options to the client's configuration.
//!
//! Source: librdkafka's CONFIGURATION.md, and measurements of its 2.12.1 against Kafka 4.4: with the default
//! reconnect backoff it takes up to 7 s to reconnect.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use secrecy::ExposeSecret;

use super::options::{Options, check_property, owned_property, reason};
use crate::bounded_file;
use crate::bus::error::StartError;
use crate::bus::inspect::Requirements;

/// How often the client reports its state, and with it that it has its producer id.
const STATISTICS_MS: &str = "500";

/// Set before the operator's properties, which may change them.
const DEFAULTS: [(&str, &str); 11] = [
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "500"),
    ("retry.backoff.ms", "50"),
    ("retry.backoff.max.ms", "500"),
    ("socket.keepalive.enable", "true"),
    // A silent peer is given up after this, and at most a second later: soon enough that a message on a connection
    // that something in the network has dropped is sent again on a new one within http.answer_timeout.
    ("socket.timeout.ms", "2500"),
    ("socket.connection.setup.timeout.ms", "10000"),
    // How long messages of a topic that seems missing are held before they are refused.
    ("topic.metadata.propagation.max.ms", "2000"),
    ("queue.buffering.max.messages", "100000"),
    // A broker refuses a batch as a whole. One no larger than this fits any sensible topic, so only single
    // messages are too large.
    ("batch.size", "65536"),
    ("log.connection.close", "false"),
];

/// Set after them: the promise depends on these.
const PROMISE: [(&str, &str); 5] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("partitioner", "murmur2_random"),
    ("statistics.interval.ms", STATISTICS_MS),
    (AUTO_CREATE, "false"),
];

/// Whether a metadata request may make the broker create the topic with its own defaults, as Kafka does
/// with `auto.create.topics.enable`. librdkafka documents this for consumers, but its producer respects it.
pub(super) const AUTO_CREATE: &str = "allow.auto.create.topics";

/// The configuration of an admin client, which would log a warning about each producer property.
pub(super) fn without_publishing(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.remove("enable.idempotence").remove("statistics.interval.ms").remove(AUTO_CREATE);
    config
}

/// librdkafka's least and greatest `message.max.bytes` here. Up to the least, only the topic's limit counts.
const MESSAGE_BYTES: (usize, usize) = (8 << 20, 1_000_000_000);

/// What the client may hold in flight in addition to one message of the largest size, in KiB: every event of the
/// largest delivery with its envelope fits.
const IN_FLIGHT_KIB: usize = 64 << 10;

/// The configuration of the client that publishes.
pub(super) fn producer_config(
    options: &Options,
    requirements: &Requirements,
) -> Result<ClientConfig, StartError> {
    let mut config = client_config(options)?;
    let largest = requirements.largest(&requirements.quarantine);
    let (least, greatest) = MESSAGE_BYTES;
    let limits = [
        (MESSAGE_MAX_BYTES, largest.clamp(least, greatest)),
        ("queue.buffering.max.kbytes", largest.div_ceil(1024).saturating_add(IN_FLIGHT_KIB)),
    ];
    for (name, limit) in limits.iter().filter(|(name, _)| !options.properties.contains_key(*name)) {
        config.set(*name, limit.to_string());
    }
    Ok(config)
}

/// The client's own limit of a message.
pub(super) const MESSAGE_MAX_BYTES: &str = "message.max.bytes";

/// The configuration of any client.
pub(super) fn client_config(options: &Options) -> Result<ClientConfig, StartError> {
    let mut config = ClientConfig::new();
    config.set("client.id", client_id());
    for (name, value) in DEFAULTS {
        config.set(name, value);
    }
    for (name, value) in &options.properties {
        let checked = check_property(name, value);
        checked.map_err(|error| StartError::setting_of(property_key(name), error))?;
        config.set(name, value);
    }
    for (name, value) in PROMISE {
        config.set(name, value);
    }
    // 0 would mean: never.
    config.set("message.timeout.ms", millis(options.publish_timeout.max(Duration::from_millis(1))));
    config.set("linger.ms", millis(options.linger));
    connection(&mut config, options)?;
    let debug = options.properties.contains_key("debug");
    config.set_log_level(if debug { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Notice });
    Ok(config)
}

/// Addresses and credentials, each value checked under its own key.
fn connection(config: &mut ClientConfig, options: &Options) -> Result<(), StartError> {
    let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    for (key, path) in [
        ("kafka.ca_file", &options.ca_file),
        ("kafka.cert_file", &options.cert_file),
        ("kafka.key_file", &options.key_file),
    ] {
        readable(key, path.as_deref())?;
    }
    let password = options.sasl_password.as_ref().map(|secret| secret.expose_secret().to_owned());
    let values = [
        ("bootstrap.servers", Some(options.bootstrap_servers.clone())),
        ("security.protocol", options.security_protocol.as_deref().map(str::to_ascii_lowercase)),
        ("sasl.mechanisms", options.sasl_mechanism.clone()),
        ("sasl.username", options.sasl_username.clone()),
        ("sasl.password", password),
        ("ssl.ca.location", file(&options.ca_file)),
        ("ssl.certificate.location", file(&options.cert_file)),
        ("ssl.key.location", file(&options.key_file)),
    ];
    for (name, value) in values {
        let Some(value) = value else { continue };
        let accepted = ClientConfig::new().set(name, &value).create_native_config().map(drop);
        accepted.map_err(|error| StartError::setting_of(key_of(name), reason(&error)))?;
        config.set(name, value);
    }
    Ok(())
}

fn readable(key: &'static str, path: Option<&Path>) -> Result<(), StartError> {
    let Some(path) = path else { return Ok(()) };
    bounded_file::check(path, bounded_file::MAX_BYTES).map_err(|source| StartError::File {
        key,
        path: path.into(),
        source,
    })
}

/// Checks that the client that publishes can be created from these options, without contacting a broker.
pub fn check(options: &Options, requirements: &Requirements) -> Result<(), StartError> {
    let config = producer_config(options, requirements)?;
    create_offline(&config).map_err(|error| creation_error(options, &config, error))
}

/// Creates a client without brokers, and drops it.
fn create_offline(config: &ClientConfig) -> Result<(), KafkaError> {
    let mut config = config.clone();
    // The first would only cause a warning here.
    config.remove(AUTO_CREATE).remove("bootstrap.servers").set_log_level(RDKafkaLogLevel::Emerg);
    config.create::<BaseProducer>().map(drop)
}

/// Names the setting that keeps librdkafka from creating a client: the operator's property without which
/// it can be created, else the key that librdkafka's error mentions.
pub(super) fn creation_error(options: &Options, config: &ClientConfig, error: KafkaError) -> StartError {
    let without = |names: &[&String]| {
        let mut config = config.clone();
        for name in names {
            config.remove(name);
            // What the bridge sets is at its default again.
            if let Some((name, default)) = DEFAULTS.iter().find(|(default, _)| default == name) {
                config.set(*name, *default);
            }
        }
        create_offline(&config).is_ok()
    };
    let properties: Vec<_> = options.properties.keys().collect();
    let reason = reason(&error);
    let connection = ["ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "bootstrap.servers"];
    let key = if let Some(name) = properties.iter().find(|name| without(&[name])) {
        property_key(name)
    } else if let Some(name) = connection.into_iter().find(|name| reason.contains(name)) {
        key_of(name).into()
    } else if without(&properties) {
        // More than one of them is invalid.
        let mentioned = properties.iter().find(|name| reason.contains(&format!("`{name}`")));
        mentioned.map_or("kafka.properties".into(), |name| property_key(name))
    } else if create_offline(&ClientConfig::new()).is_ok() {
        "kafka".into()
    } else {
        return StartError::Client { bus: "kafka", reason };
    };
    StartError::Setting { key, reason }
}

/// The configuration key of one of the operator's properties.
fn property_key(name: &str) -> Cow<'static, str> {
    format!("kafka.properties.{name}").into()
}

/// The configuration key of a property the bridge owns: the advice names it.
fn key_of(name: &str) -> &'static str {
    let named = |advice: &'static str| advice.split(' ').find(|word| word.starts_with("kafka."));
    owned_property(name).and_then(named).unwrap_or("kafka.properties")
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// Identifies this replica in the broker's logs and quotas.
fn client_id() -> String {
    let system = rustix::system::uname();
    match system.nodename().to_string_lossy().as_ref() {
        "" => format!("attio-bridge/{}", std::process::id()),
        host => format!("attio-bridge/{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options::new("127.0.0.1:9")
    }

    #[test]
    fn properties_of_the_promise_are_set() {
        let config = client_config(&options()).unwrap();
        for (name, value) in [
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("message.timeout.ms", "30000"),
            ("linger.ms", "0"),
            ("partitioner", "murmur2_random"),
            ("reconnect.backoff.max.ms", "500"),
            ("bootstrap.servers", "127.0.0.1:9"),
            ("allow.auto.create.topics", "false"),
        ] {
            assert_eq!(config.get(name), Some(value), "{name}");
        }
        assert!(config.get("client.id").unwrap().starts_with("attio-bridge/"));
        assert!(config.create_native_config().is_ok());
    }

    #[test]
    fn properties_override_defaults() {
        let mut options = options();
        options.properties.insert("reconnect.backoff.max.ms".into(), "900".into());
        options.properties.insert("compression.type".into(), "lz4".into());
        let config = client_config(&options).unwrap();
        assert_eq!(config.get("reconnect.backoff.max.ms"), Some("900"));
        assert_eq!(config.get("compression.type"), Some("lz4"));
    }

    #[test]
    fn bad_values_are_reported_with_their_key() {
        let mut owned = options();
        owned.properties.insert("acks".into(), "0".into());
        let error = client_config(&owned).unwrap_err().to_string();
        assert!(error.starts_with("kafka.properties.acks: acks is owned by the bridge"), "{error}");

        let mut protocol = options();
        protocol.security_protocol = Some("tls".into());
        let error = client_config(&protocol).unwrap_err().to_string();
        assert!(error.starts_with("kafka.security_protocol: "), "{error}");

        let mut file = options();
        file.ca_file = Some("/nowhere/ca.pem".into());
        let error = client_config(&file).unwrap_err();
        assert_eq!(error.to_string(), "kafka.ca_file: cannot read /nowhere/ca.pem");
        assert!(std::error::Error::source(&error).is_some());
    }
}
