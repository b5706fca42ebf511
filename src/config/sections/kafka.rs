//! `[kafka]`, `[kafka.topics]` and `[kafka.properties]`.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::error::KafkaError;
use secrecy::ExposeSecret;
use serde_json::{Value as Json, json};

use super::{CENTURY, DAY, Entries, INSTANT, TLS_FILES, kafka_oauth, tls_files};
use crate::bus::kafka::options::{Ensure, OAUTHBEARER, Options, Topics, owned_property};
use crate::config::diagnostics::Diagnostics;
use crate::config::kinds::{
    Case, Choice, Description, FilePath, HIDDEN, Integer, Kind, List, Parsed, Secret, Text, TimeSpan,
    quantity, words,
};
use crate::config::section::{Section, keys};
use crate::config::tree::{Node, Table, Value};
use crate::files;

const PROTOCOLS: [(&str, &str); 4] = words(["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]);
const MECHANISMS: [(&str, &str); 4] = words(["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTHBEARER]);
const ENSURE: [(&str, Ensure); 3] =
    [("verify", Ensure::Verify), ("off", Ensure::Off), ("create", Ensure::Create)];

/// librdkafka's own limit of `linger.ms`.
const LONGEST_LINGER: Duration = Duration::from_secs(900);

pub const PROPERTIES: Entries =
    Entries { names: Vec::new, kind: &Scalar, example: "socket.keepalive.enable = true" };

/// Text, a number, or true or false; yields its text.
pub struct Scalar;

impl Kind for Scalar {
    type Value = String;

    fn parse(&self, node: &Node, _: &Diagnostics) -> Parsed<String> {
        let text = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Bool(yes) => yes.to_string(),
            other => return Err(format!("expects text, a number, or true or false, not {}", other.kind())),
        };
        let json = Json::from(text.as_str());
        Ok((text, json))
    }

    fn describe(&self) -> Description {
        let schema = json!({ "type": ["string", "integer", "boolean"] });
        Description::new("text, number or boolean", "", schema)
    }
}

keys! {
    Kafka {
        /// Brokers, host:port. Required for Kafka.
        bootstrap_servers: List like "localhost:9092";
        /// How to talk to the brokers. librdkafka's default is plaintext. The user needs Write and
        /// Describe on the topics; a rule for the prefix is enough.
        security_protocol: Choice<&'static str>(&PROTOCOLS, Case::Any) like "sasl_ssl";
        /// How to log in; needs a sasl protocol. OAUTHBEARER gets its tokens by kafka.oauth.
        sasl_mechanism: Choice<&'static str>(&MECHANISMS, Case::Any) like "SCRAM-SHA-512";
        /// User name.
        sasl_username: Text like "attio-bridge";
        /// Password. Better given as ATTIO_BRIDGE__KAFKA__SASL_PASSWORD_FILE than here.
        sasl_password: Secret like "change-me";
        /// PEM file with the authorities that may sign the brokers' certificates. If not set,
        /// the system's.
        ca_file: FilePath like "/etc/attio-bridge/ca.pem";
        /// PEM file with the bridge's own certificate.
        cert_file: FilePath like "/etc/attio-bridge/client.pem";
        /// PEM file with the key of cert_file.
        key_file: FilePath like "/etc/attio-bridge/client.key";
        /// After this the client gives up on a message. The sender has its answer long before.
        publish_timeout: TimeSpan(INSTANT..=DAY) = "30s";
        /// How long a message may wait to be sent with others. Every delivery waits for it too. Shorter
        /// than publish_timeout.
        linger: TimeSpan(Duration::ZERO..=LONGEST_LINGER) = "0ms";
    }
}

keys! {
    TopicKeys => Topics {
        /// "verify": the log names a missing topic, and the bridge is not ready. "create": it is created.
        /// "off": neither.
        ensure: Choice<Ensure>(&ENSURE, Case::Exact) = "verify";
        /// Partitions of topics that are created, by the bridge or by what `attio-bridge topics` prints.
        /// If not set, the broker's default; likewise below.
        partitions: Integer<i32>(1..=100_000) like "6";
        /// Replicas of those topics.
        replication_factor: Integer<i32>(1..=32_767) like "3";
        /// Replicas that must have a message before it is acknowledged. At most replication_factor.
        min_insync_replicas: Integer<u32>(1..=32_767) like "2";
        /// How long those topics keep messages.
        retention: TimeSpan(INSTANT..=CENTURY) like "168h";
    }
}

impl Options {
    /// The declared defaults for one cluster.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        let defaults = read(&mut Section::root(&Diagnostics::default(), Table::new()), false);
        Self { bootstrap_servers: bootstrap_servers.into(), ..defaults }
    }
}

/// Reads `[kafka]`; `used` says whether it is the bus.
pub fn read(section: &mut Section<'_>, used: bool) -> Options {
    let keys = Kafka::read(section);
    if used {
        check_servers(section, keys.bootstrap_servers.as_deref().unwrap_or_default());
        check_access(section, &keys);
    }
    if keys.linger >= keys.publish_timeout {
        section.refuse("linger", "must be shorter than kafka.publish_timeout");
    }
    let properties = properties(&mut section.section("properties"), used);
    let mechanism = keys.sasl_mechanism.filter(|_| used);
    let servers = keys.bootstrap_servers.as_deref().unwrap_or_default();
    let login = kafka_oauth::Login { used, mechanism, servers, properties: &properties };
    let oauth = kafka_oauth::read(&mut section.section("oauth"), &login);
    let topics = topics(&mut section.section("topics"));
    if topics.ensure == Ensure::Create && oauth.is_some() {
        let message = "\"create\" is not possible with a token: the client that creates topics cannot use one; create \
                       them yourself: `attio-bridge topics` prints how";
        section.refuse("topics.ensure", message);
    }
    Options {
        bootstrap_servers: keys.bootstrap_servers.unwrap_or_default().join(","),
        security_protocol: keys.security_protocol.map(String::from),
        sasl_mechanism: keys.sasl_mechanism.map(String::from),
        sasl_username: keys.sasl_username,
        sasl_password: keys.sasl_password,
        ca_file: keys.ca_file,
        cert_file: keys.cert_file,
        key_file: keys.key_file,
        oauth,
        publish_timeout: keys.publish_timeout,
        linger: keys.linger,
        properties,
        topics,
    }
}

fn check_servers(section: &Section<'_>, servers: &[String]) {
    if servers.is_empty() {
        let message = "required for Kafka: host:port of one or more brokers, as in bootstrap_servers = \
                       \"localhost:9092\" (also ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS, comma separated)";
        section.diagnostics().required("kafka.bootstrap_servers", None, message);
    } else if let Some(message) = servers.iter().find_map(|server| misspelt(server)) {
        section.refuse("bootstrap_servers", message);
    }
}

/// What is wrong with a server that is not `host:port`, and the good form where it can be guessed.
fn misspelt(server: &str) -> Option<String> {
    let (scheme, rest) =
        server.split_once("://").map_or((None, server), |(scheme, rest)| (Some(scheme), rest));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let (host, port) = match address.rsplit_once(':') {
        // Colons in brackets, or several without: an IPv6 address.
        Some((host, port)) if host.starts_with('[') == host.ends_with(']') && !port.contains(']') => {
            (host, Some(port))
        }
        _ => (address, None),
    };
    let ipv6 = host.contains(':') && !host.starts_with('[');
    let odd = |c: char| c.is_whitespace() || c.is_control() || "\\\"'`<>|;&=".contains(c);
    let good_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let excess = match (scheme, authority != address, rest != authority) {
        (Some(_), _, _) => "without a scheme",
        (_, true, _) => "without a login (that is kafka.sasl_username and kafka.sasl_password)",
        (_, _, true) => "without a path",
        _ if host.contains(|c: char| c.is_whitespace() || ";|".contains(c)) => {
            return Some(
                "expects host:port; no host has such characters: servers are separated by commas, as in a:9092,b:9092"
                    .into(),
            );
        }
        _ if ipv6 => {
            return Some("expects host:port; an IPv6 address needs brackets, as in [::1]:9092".into());
        }
        _ if host.is_empty() || host == "[]" => return Some("expects host:port; the host is empty".into()),
        _ if host.contains(odd) => return Some("expects host:port; no host has such characters".into()),
        _ if !good_port => return Some("expects host:port with a port from 1 to 65535".into()),
        _ => return None,
    };
    let protocol =
        scheme.map(str::to_ascii_lowercase).filter(|scheme| PROTOCOLS.iter().any(|(name, _)| name == scheme));
    let protocol = protocol.map(|name| format!(", and set kafka.security_protocol to {name:?}"));
    Some(format!("expects host:port {excess}: write {address:?}{}", protocol.unwrap_or_default()))
}

fn check_access(section: &Section<'_>, keys: &Kafka) {
    let protocol = keys.security_protocol.unwrap_or("plaintext");
    let without_effect = |name: &str, needed: &str| {
        let message = format!(
            "has no effect with security_protocol {protocol}; set kafka.security_protocol to {needed}, or remove it"
        );
        section.refuse(name, message);
    };
    let login = [
        ("sasl_mechanism", keys.sasl_mechanism.is_some()),
        ("sasl_username", keys.sasl_username.is_some()),
        ("sasl_password", keys.sasl_password.is_some()),
    ];
    if protocol.starts_with("sasl_") {
        check_login(section.diagnostics(), keys);
    } else {
        let set = login.into_iter().filter(|(_, set)| *set);
        set.for_each(|(name, _)| without_effect(name, "\"sasl_ssl\" or \"sasl_plaintext\""));
    }
    let files = [keys.ca_file.as_deref(), keys.cert_file.as_deref(), keys.key_file.as_deref()];
    tls_files(section, files);
    if !protocol.ends_with("ssl") {
        let set = TLS_FILES.into_iter().zip(files).filter(|(_, file)| file.is_some());
        set.for_each(|(name, _)| without_effect(name, "\"ssl\" or \"sasl_ssl\""));
    }
}

fn check_login(diagnostics: &Diagnostics, keys: &Kafka) {
    let Some(mechanism) = keys.sasl_mechanism else {
        let message =
            format!("required with a sasl protocol: one of {}", MECHANISMS.map(|(name, _)| name).join(", "));
        return diagnostics.required("kafka.sasl_mechanism", None, message);
    };
    let needed = [
        ("kafka.sasl_username", keys.sasl_username.is_none()),
        ("kafka.sasl_password", keys.sasl_password.is_none()),
    ];
    for (key, _) in needed.into_iter().filter(|(_, missing)| *missing && mechanism != OAUTHBEARER) {
        diagnostics.required(key, None, format!("required with sasl_mechanism {mechanism}"));
    }
}

fn properties(section: &mut Section<'_>, used: bool) -> BTreeMap<String, String> {
    let diagnostics = section.diagnostics();
    let mut properties = BTreeMap::new();
    for (name, node) in section.entries() {
        let key = section.key(&name);
        let hidden = is_secret_property(&name);
        match property(&name, &node, diagnostics) {
            Ok(text) => {
                let shown = if hidden { Json::from(HIDDEN) } else { Json::from(text.as_str()) };
                diagnostics.setting(&key, shown, Some(&node.origin));
                if hidden {
                    diagnostics.secret(&key, text.clone().into());
                }
                if let Some(danger) = danger(&name, &text).filter(|_| used) {
                    diagnostics.warning(&key, Some(&node.origin), danger);
                }
                properties.insert(name, text);
            }
            Err(message) => diagnostics.problem(&key, Some(&node.origin), message),
        }
    }
    properties
}

pub fn is_secret_property(name: &str) -> bool {
    let ends = [".password", ".secret", ".passphrase", "key.pem", "oauthbearer.config"];
    ends.iter().any(|end| name.ends_with(end))
}

/// The danger of a property that turns off a check of the broker's certificate.
fn danger(name: &str, value: &str) -> Option<&'static str> {
    match (name, value.to_ascii_lowercase().as_str()) {
        ("ssl.endpoint.identification.algorithm", "none") => Some(
            "the broker's host name is not checked: anyone with a certificate of the same authority can pose as \
             the broker; remove it once the certificate is right",
        ),
        ("enable.ssl.certificate.verification", "false") => Some(
            "the broker's certificate is not checked: anyone on the network can pose as the broker and read all \
             events; set kafka.ca_file instead",
        ),
        _ => None,
    }
}

fn property(name: &str, node: &Node, diagnostics: &Diagnostics) -> Result<String, String> {
    if let Some(reason) = owned_property(name) {
        return Err(format!("the bridge owns this property: {reason}"));
    }
    let text = match &node.value {
        Value::ReadFrom(path) => {
            diagnostics.file(path.as_ref());
            files::read_secret(path.as_ref())?.expose_secret().to_owned()
        }
        _ => Scalar.parse(node, diagnostics)?.0,
    };
    accepted(name, &text).map(|()| text)
}

/// Asks librdkafka itself, without a client and without the network.
fn accepted(name: &str, text: &str) -> Result<(), String> {
    match rdkafka::ClientConfig::new().set(name, text).create_native_config() {
        Ok(config) => config.get(name).map_or(Ok(()), |read| as_written(name, text, &read)),
        Err(KafkaError::ClientConfig(_, message, ..)) if misread(name, text, &message).is_some() => {
            Err(misread(name, text, &message).unwrap_or_default())
        }
        // Some of its messages quote the value.
        Err(KafkaError::ClientConfig(_, message, ..))
            if !is_secret_property(name) || !message.contains(text) =>
        {
            Err(format!("librdkafka refuses it: {message}"))
        }
        Err(_) => Err("librdkafka refuses this value".into()),
    }
}

/// Refuses what librdkafka takes for another number than it is: it reads the digits at the start, as octal ones after
/// a 0, cuts the number to 32 bits, and leaves out the rest.
fn as_written(name: &str, text: &str, read: &str) -> Result<(), String> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    if read == text || number(read).is_none() || number(read) == number(text) {
        return Ok(());
    }
    let plain = plain_number(name, text).map(|plain| plain.to_string()).filter(|plain| plain != text);
    let plain = plain.map(|plain| format!("; write {plain}")).unwrap_or_default();
    Err(format!("expects a plain number; librdkafka would read {text:?} as {read}{plain}"))
}

/// What to write where librdkafka has refused the digits at the start of a value as too small or too great.
fn misread(name: &str, text: &str, message: &str) -> Option<String> {
    let has_unit = message.contains("outside allowed range") && text.trim().parse::<f64>().is_err();
    let plain = plain_number(name, text).filter(|_| has_unit)?;
    Some(format!("expects a plain number, not {text:?}; write {plain}"))
}

/// The number that is meant by one with a unit or separators.
fn plain_number(name: &str, text: &str) -> Option<u128> {
    let is_time = name.ends_with(".ms") || name.ends_with(".ttl");
    if let (true, Ok(span)) = (is_time, humantime::parse_duration(text.trim())) {
        return Some(span.as_millis());
    }
    let is_size = ["bytes", ".size"].iter().any(|end| name.ends_with(end));
    let (number, power) = quantity(text).filter(|(_, power)| *power == 0 || !is_time)?;
    let number = u128::from(number) * if is_size { 1024 } else { 1000_u128 }.pow(power);
    Some(if name.ends_with("kbytes") && power > 0 { number / 1024 } else { number })
}

fn topics(section: &mut Section<'_>) -> Topics {
    let topics = TopicKeys::read(section);
    if let (Some(least), Some(all)) = (topics.min_insync_replicas, topics.replication_factor)
        && i64::from(least) > i64::from(all)
    {
        let message =
            format!("is more than kafka.topics.replication_factor ({all}): nothing could be written");
        section.refuse("min_insync_replicas", message);
    }
    topics
}
