//! The options of the Kafka adapter, the librdkafka properties that an operator may set, and the client's configuration
//! from both. Source: librdkafka's CONFIGURATION.md, and measurements of its 2.12.1 against Kafka 4.4: with the default
//! reconnect backoff it takes up to 7 s to reconnect.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use secrecy::{ExposeSecret, SecretString};

pub use super::tokens::{ClientAuth, MskIam, Oidc, Source, is_region, region_of};
use crate::bus::error::StartError;
pub use crate::bus::inspect::Ensure;
use crate::bus::inspect::Requirements;
use crate::files;

/// How to connect to Kafka and publish to it: `[kafka]`.
#[derive(Clone)]
pub struct Options {
    /// `host:port` list, comma separated.
    pub bootstrap_servers: String,
    pub security_protocol: Option<String>,
    pub sasl_mechanism: Option<String>,
    pub sasl_username: Option<String>,
    pub sasl_password: Option<SecretString>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Where OAUTHBEARER gets its tokens.
    pub oauth: Option<Source>,
    pub publish_timeout: Duration,
    pub linger: Duration,
    /// Any other librdkafka property, by its own name.
    pub properties: BTreeMap<String, String>,
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
            .field("oauth", &self.oauth)
            .field("publish_timeout", &self.publish_timeout)
            .field("linger", &self.linger)
            .field("properties", &self.properties.keys())
            .field("topics", &self.topics)
            .finish()
    }
}

/// How topics are reconciled: `[kafka.topics]`. The broker's defaults where absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    pub ensure: Ensure,
    pub partitions: Option<i32>,
    pub replication_factor: Option<i32>,
    pub min_insync_replicas: Option<u32>,
    pub retention: Option<Duration>,
}

/// Properties that the bridge owns, and what to do instead. Some have a key of their own; the others would
/// break the promise that a 200 means acknowledged.
const OWNED: [(&str, &str); 37] = [
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
    ("enable.gapless.guarantee", "remove it: after one failed message the client would fail all others"),
    ("topic.blacklist", "remove it: it hides topics from the client, which could not publish to them"),
    ("internal.termination.signal", "remove it: the client would take over one of the bridge's signals"),
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

/// Checks one entry of `kafka.properties`: the bridge does not own it, and librdkafka knows the name and
/// accepts the value. Contradictions between properties are only found by creating a client.
fn check_property(name: &str, value: &str) -> Result<(), String> {
    if let Some(advice) = owned_property(name) {
        return Err(format!("{name} is owned by the bridge: {advice}"));
    }
    let accepted = ClientConfig::new().set(name, value).create_native_config();
    accepted.map(drop).map_err(|error| format!("{name}: {}", reason(&error)))
}

/// librdkafka's error text. It quotes some values; the configuration has checked those of secrets before.
fn reason(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, text, _, _) | KafkaError::ClientCreation(text) => text.clone(),
        KafkaError::Nul(_) => "a zero byte is not allowed".into(),
        other => other.to_string(),
    }
}

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
    (BATCH_SIZE, "65536"),
    ("log.connection.close", "false"),
];

/// Set after them: the promise depends on these.
const PROMISE: [(&str, &str); 5] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("partitioner", "murmur2_random"),
    // How often the client reports its state, and with it that it has its producer id.
    ("statistics.interval.ms", "500"),
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

/// Why states are neither written nor checked with such a login: not every client of theirs asks for a token.
pub(super) const NO_STATES: &str = "`state` cannot log in with tokens yet: use another login where it runs";

/// Whether an admin client can log in. rdkafka's never asks for a token: nobody polls the queue on which librdkafka
/// wants one. An unsecured one it makes itself.
pub(super) fn allows_admin(config: &ClientConfig) -> bool {
    config.get("sasl.mechanisms") != Some(OAUTHBEARER) || config.get(UNSECURED) == Some("true")
}

/// The mechanism of SASL that takes tokens.
pub const OAUTHBEARER: &str = "OAUTHBEARER";

/// The property that has librdkafka make tokens without a signature.
pub const UNSECURED: &str = "enable.sasl.oauthbearer.unsecure.jwt";

/// librdkafka's least and greatest `message.max.bytes` here. Up to the least, only the topic's limit counts.
const MESSAGE_BYTES: (usize, usize) = (8 << 20, 1_000_000_000);

/// What the client may hold in flight in addition to one message of the largest size, in KiB: every event of the
/// largest delivery with its envelope fits.
const IN_FLIGHT_KIB: usize = 64 << 10;

pub(super) fn producer_config(
    options: &Options,
    requirements: &Requirements,
) -> Result<ClientConfig, StartError> {
    let mut config = client_config(options)?;
    let largest = requirements.largest(&requirements.quarantine);
    let (least, greatest) = MESSAGE_BYTES;
    for (name, limit) in [
        (MESSAGE_MAX_BYTES, largest.clamp(least, greatest)),
        ("queue.buffering.max.kbytes", largest.div_ceil(1024).saturating_add(IN_FLIGHT_KIB)),
    ] {
        if !options.properties.contains_key(name) {
            config.set(name, limit.to_string());
        }
    }
    Ok(config)
}

pub(super) const MESSAGE_MAX_BYTES: &str = "message.max.bytes";
pub(super) const BATCH_SIZE: &str = "batch.size";

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
    config.set("message.timeout.ms", options.publish_timeout.as_millis().max(1).to_string());
    config.set("linger.ms", options.linger.as_millis().to_string());
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
        if let Some(path) = path {
            files::check(path, files::MAX_BYTES).map_err(StartError::file(key, path))?;
        }
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

/// The most events that a delivery has.
const MAX_EVENTS: usize = 10_000;

/// What the envelope adds to one of so many, in KiB.
const ENVELOPE_KIB: usize = 1;

/// Checks the operator's values with which a client can be created, but not publish.
fn check_values(options: &Options, requirements: &Requirements) -> Result<(), StartError> {
    const DELIVERY: &str = "or the events of the largest delivery do not fit";
    let kibibytes = requirements.largest(&requirements.quarantine).div_ceil(1024) + MAX_EVENTS * ENVELOPE_KIB;
    let limits = [
        ("queue.buffering.max.messages", MAX_EVENTS, DELIVERY),
        ("queue.buffering.max.kbytes", kibibytes, DELIVERY),
        (MESSAGE_MAX_BYTES, 5120, "or no event fits with its envelope"),
        ("receive.message.max.bytes", 1_000_000, "or the broker's answers do not fit"),
    ];
    let set = |name: &str| options.properties.get(name).map(|value| value.trim());
    for (name, least, reason) in limits {
        if set(name).and_then(|value| value.parse().ok()).is_some_and(|value: usize| value < least) {
            let message = format!("must be at least {least}, {reason}");
            return Err(StartError::setting_of(property_key(name), message));
        }
    }
    let name = "api.version.request";
    if set(name).is_some_and(|value| ["false", "f", "0"].contains(&&*value.to_ascii_lowercase())) {
        let message =
            "remove it: without the broker's version the client cannot be idempotent, and publishes nothing";
        return Err(StartError::setting_of(property_key(name), message));
    }
    Ok(())
}

/// Checks that the client that publishes can be created from these options, without contacting a broker.
pub fn check(options: &Options, requirements: &Requirements) -> Result<(), StartError> {
    check_values(options, requirements)?;
    let config = producer_config(options, requirements)?;
    create_offline(&config).map_err(|error| creation_error(options, &config, error))
}

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

fn property_key(name: &str) -> Cow<'static, str> {
    format!("kafka.properties.{name}").into()
}

/// The configuration key of a property the bridge owns: the advice names it.
fn key_of(name: &str) -> &'static str {
    let named = |advice: &'static str| advice.split(' ').find(|word| word.starts_with("kafka."));
    owned_property(name).and_then(named).unwrap_or("kafka.properties")
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

    const _: () = assert!(MAX_EVENTS == crate::pipeline::parse::MAX_EVENTS);

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
        assert!(unknown.contains("No such configuration property"), "{unknown}");
        let bad = check_property("socket.timeout.ms", "soon").unwrap_err();
        assert!(bad.starts_with("socket.timeout.ms: "), "{bad}");
        assert!(check_property("compression.type", "lz4").is_ok());
        let owned = check_property("acks", "1").unwrap_err();
        assert!(owned.starts_with("acks is owned by the bridge: "), "{owned}");
    }

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
