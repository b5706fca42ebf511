//! `[kafka]`.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::error::KafkaError;
use serde_json::Value as Json;

use super::{CENTURY, DAY, INSTANT, readable, value};
use crate::bus::kafka::options::{Ensure, Options, Topics, owned_property};
use crate::config::report::{Given, Report};
use crate::config::secret;
use crate::config::section::{HIDDEN, Section};
use crate::config::suggest;
use crate::config::tree::{Node, Value};
use crate::config::types;

const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
const MECHANISMS: [&str; 4] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"];
const ENSURE: [(&str, Ensure); 3] =
    [("verify", Ensure::Verify), ("off", Ensure::Off), ("create", Ensure::Create)];

/// librdkafka's own limit of `linger.ms`.
const LONGEST_LINGER: Duration = Duration::from_secs(900);

/// Reads `[kafka]`; `used` says whether it is the bus.
pub fn read(section: &mut Section<'_>, used: bool) -> Options {
    let report = section.report();
    let bootstrap_servers = value(section.optional("bootstrap_servers", types::list)).unwrap_or_default();
    if used && bootstrap_servers.is_empty() {
        let message = "required for Kafka: host:port of one or more brokers, comma separated \
                       (also ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS)";
        report.problem("kafka.bootstrap_servers", None, message);
    }
    let access = Access::read(section);
    if used {
        access.check(report);
    }
    let publish_timeout = section.duration_or("publish_timeout", "30s", INSTANT..=DAY);
    let linger = section.duration_or("linger", "0ms", Duration::ZERO..=LONGEST_LINGER);
    if linger.value >= publish_timeout.value {
        report.refuse(&linger, "must be shorter than kafka.publish_timeout");
    }
    let properties = properties(&mut section.section("properties"), used);
    if used {
        access.check_token(report, &properties);
    }
    let topics = topics(&mut section.section("topics"));
    Options {
        bootstrap_servers: bootstrap_servers.join(","),
        security_protocol: value(access.protocol),
        sasl_mechanism: value(access.mechanism),
        sasl_username: value(access.username),
        sasl_password: value(access.password),
        ca_file: value(access.ca_file),
        cert_file: value(access.cert_file),
        key_file: value(access.key_file),
        publish_timeout: publish_timeout.value,
        linger: linger.value,
        properties,
        topics,
    }
}

/// How the broker is spoken to, and who the bridge says it is.
struct Access {
    protocol: Option<Given<String>>,
    mechanism: Option<Given<String>>,
    username: Option<Given<String>>,
    password: Option<Given<secrecy::SecretString>>,
    ca_file: Option<Given<std::path::PathBuf>>,
    cert_file: Option<Given<std::path::PathBuf>>,
    key_file: Option<Given<std::path::PathBuf>>,
}

impl Access {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            protocol: section.optional("security_protocol", |node| word(node, &PROTOCOLS)),
            mechanism: section.optional("sasl_mechanism", |node| word(node, &MECHANISMS)),
            username: section.text("sasl_username"),
            password: section.secret("sasl_password"),
            ca_file: section.path_of("ca_file"),
            cert_file: section.path_of("cert_file"),
            key_file: section.path_of("key_file"),
        }
    }

    fn check(&self, report: &Report) {
        let protocol = self.protocol.as_ref().map_or("plaintext", |given| &*given.value);
        if protocol.starts_with("sasl_") {
            self.check_sasl(report);
        } else {
            let message = format!(
                "has no effect with security_protocol {protocol}; set kafka.security_protocol to \
                 \"sasl_ssl\" or \"sasl_plaintext\", or remove it"
            );
            refuse(report, self.mechanism.as_ref(), &message);
            refuse(report, self.username.as_ref(), &message);
            refuse(report, self.password.as_ref(), &message);
        }
        self.check_files(report, protocol);
    }

    fn check_sasl(&self, report: &Report) {
        let Some(mechanism) = &self.mechanism else {
            let message = format!("required with a sasl protocol: one of {}", MECHANISMS.join(", "));
            return report.problem("kafka.sasl_mechanism", None, message);
        };
        if mechanism.value == "OAUTHBEARER" {
            return;
        }
        for (key, missing) in
            [("sasl_username", self.username.is_none()), ("sasl_password", self.password.is_none())]
        {
            if missing {
                let key = format!("kafka.{key}");
                report.problem(&key, None, format!("required with sasl_mechanism {}", mechanism.value));
            }
        }
    }

    fn check_files(&self, report: &Report, protocol: &str) {
        for file in [&self.ca_file, &self.cert_file, &self.key_file] {
            readable(report, file.as_ref());
            if !protocol.ends_with("ssl") {
                let message = format!(
                    "has no effect with security_protocol {protocol}; set kafka.security_protocol to \
                     \"ssl\" or \"sasl_ssl\", or remove it"
                );
                refuse(report, file.as_ref(), &message);
            }
        }
        match (&self.cert_file, &self.key_file) {
            (Some(cert), None) => report.refuse(cert, "needs kafka.key_file, the key of the certificate"),
            (None, Some(key)) => report.refuse(key, "needs kafka.cert_file, the certificate of the key"),
            _ => {}
        }
    }
}

impl Access {
    /// Where tokens come from.
    fn check_token(&self, report: &Report, properties: &BTreeMap<String, String>) {
        if let Some(mechanism) = self.mechanism.as_ref().filter(|given| given.value == "OAUTHBEARER")
            && properties.get("enable.sasl.oauthbearer.unsecure.jwt").is_none_or(|value| value != "true")
        {
            let message = "this build has no way to fetch a token (librdkafka needs libcurl for OIDC); it can make \
                           unsecured ones, with the properties enable.sasl.oauthbearer.unsecure.jwt and \
                           sasl.oauthbearer.config; else use SCRAM or a client certificate";
            report.refuse(mechanism, message);
        }
    }
}

fn refuse<T>(report: &Report, given: Option<&Given<T>>, message: &str) {
    if let Some(given) = given {
        report.refuse(given, message);
    }
}

/// A word of a closed set, in either case; the set's own spelling is kept.
fn word(node: &Node, set: &[&'static str]) -> types::Parsed<String> {
    let (given, _) = types::text(node)?;
    match set.iter().find(|word| word.eq_ignore_ascii_case(&given)) {
        Some(word) => Ok(((*word).to_owned(), Json::from(*word))),
        None => {
            let meant = suggest::nearest(&given, set.iter().copied());
            Err(format!("expects one of {}, not {given:?}{meant}", set.join(", ")))
        }
    }
}

fn properties(section: &mut Section<'_>, used: bool) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    for (name, node) in section.entries() {
        let key = section.key(&name);
        let hidden = secret::is_secret_property(&name);
        match property(&name, &node, section.report()) {
            Ok(text) => {
                let shown = if hidden { Json::from(HIDDEN) } else { Json::from(text.as_str()) };
                section.report().setting(&key, shown, Some(&node.origin));
                if hidden {
                    section.report().secret(&key, text.clone().into());
                }
                if let Some(danger) = unchecked(&name, &text).filter(|_| used) {
                    section.report().warning(&key, Some(&node.origin), danger);
                }
                properties.insert(name, text);
            }
            Err(message) => section.report().problem(&key, Some(&node.origin), message),
        }
    }
    properties
}

/// What is dangerous about a property that takes the check of the broker's certificate away.
fn unchecked(name: &str, value: &str) -> Option<&'static str> {
    match (name, value.to_ascii_lowercase().as_str()) {
        ("ssl.endpoint.identification.algorithm", "none") => Some(
            "the broker's host name is not checked: whoever has any certificate of the authority can pose as \
             the broker; remove it once the certificate is right",
        ),
        ("enable.ssl.certificate.verification", "false") => Some(
            "the broker's certificate is not checked: anybody on the way can pose as the broker and read all \
             events; set kafka.ca_file instead",
        ),
        _ => None,
    }
}

fn property(name: &str, node: &Node, report: &Report) -> Result<String, String> {
    if let Some(reason) = owned_property(name) {
        return Err(format!("the bridge owns this property: {reason}"));
    }
    let text = match &node.value {
        Value::Text(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Bool(yes) => yes.to_string(),
        Value::ReadFrom(path) => {
            secrecy::ExposeSecret::expose_secret(&secret::read(path, report)?).to_owned()
        }
        other => return Err(format!("expects text, a number, or true or false, not {}", other.kind())),
    };
    accepted(name, &text).map(|()| text)
}

/// Asks librdkafka itself, without a client and without the network.
fn accepted(name: &str, text: &str) -> Result<(), String> {
    match rdkafka::ClientConfig::new().set(name, text).create_native_config() {
        Ok(_) => Ok(()),
        // Some of its messages quote the value.
        Err(KafkaError::ClientConfig(_, message, ..))
            if !secret::is_secret_property(name) || !message.contains(text) =>
        {
            Err(format!("librdkafka does not take it: {message}"))
        }
        Err(_) => Err("librdkafka does not take this value".into()),
    }
}

fn topics(section: &mut Section<'_>) -> Topics {
    let partitions = section.whole("partitions", 1..=100_000);
    let replication_factor = section.whole("replication_factor", 1..=32_767);
    let min_insync_replicas = section.whole("min_insync_replicas", 1..=32_767);
    if let (Some(least), Some(all)) = (&min_insync_replicas, &replication_factor)
        && least.value > all.value
    {
        let message =
            format!("is more than kafka.topics.replication_factor ({}): nothing could be written", all.value);
        section.report().refuse(least, message);
    }
    let number = |given: Given<u64>| i32::try_from(given.value).expect("the range of the key fits");
    Topics {
        ensure: section.or("ensure", "verify", |node| types::choice(node, &ENSURE)).value,
        partitions: partitions.map(number),
        replication_factor: replication_factor.map(number),
        min_insync_replicas: min_insync_replicas.map(|given| number(given).unsigned_abs()),
        retention: value(section.duration("retention", INSTANT..=CENTURY)),
    }
}
