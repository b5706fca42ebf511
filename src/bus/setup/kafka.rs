//! Kafka: topics, and Write and Describe on each of them.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::PRINCIPAL;
use crate::bus::inspect::Requirements;
use crate::bus::kafka::options::{Ensure, Options};
use crate::bus::kafka::topic_settings;

/// What Kafka takes in a batch unless it is told otherwise. Source: Kafka's broker configuration,
/// `message.max.bytes`.
const KAFKAS_LARGEST: usize = 1_048_588;

/// What a batch of one message adds to it, generously.
const BATCH: usize = 1024;

/// What a cluster must have and grant.
#[derive(Clone, Debug, Serialize)]
pub struct Kafka {
    /// Where the configuration reaches the cluster.
    pub bootstrap_servers: String,
    /// Who the bridge is, as `User:NAME`.
    pub principal: String,
    /// Every topic that events can go to, quarantine among them.
    pub topics: Vec<Topic>,
    /// What the principal must be allowed on each topic, and on nothing else.
    pub operations: Vec<&'static str>,
    /// How the principal proves itself.
    #[serde(skip)]
    pub(super) login: Login,
}

/// One topic, as it is to be made.
#[derive(Clone, Debug, Serialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Partitions; the broker's default where absent.
    pub partitions: Option<i32>,
    /// Copies; the broker's default where absent.
    pub replication_factor: Option<i32>,
    /// What is set on the topic itself.
    pub config: BTreeMap<&'static str, String>,
    /// The largest message that can go there, in bytes.
    pub largest_message_bytes: usize,
}

/// How the bridge proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// By a password that the cluster keeps.
    Password,
    /// By a certificate, whose subject is the principal.
    Certificate,
}

impl Kafka {
    pub(super) fn new(options: &Options, requirements: &Requirements, principal: Option<&str>) -> Self {
        let settings: BTreeMap<_, _> = topic_settings(&options.topics).into_iter().collect();
        let topic = |name: &str| {
            let largest = requirements.largest(name);
            let mut config = settings.clone();
            if largest + BATCH > KAFKAS_LARGEST {
                config.insert("max.message.bytes", (largest + BATCH).to_string());
            }
            Topic {
                name: name.to_owned(),
                partitions: options.topics.partitions,
                replication_factor: options.topics.replication_factor,
                config,
                largest_message_bytes: largest,
            }
        };
        let name = principal.or(options.sasl_username.as_deref()).unwrap_or(PRINCIPAL);
        let create = (options.topics.ensure == Ensure::Create).then_some("Create");
        Self {
            bootstrap_servers: options.bootstrap_servers.clone(),
            principal: format!("User:{}", name.strip_prefix("User:").unwrap_or(name)),
            topics: requirements.addresses.iter().map(|name| topic(name)).collect(),
            operations: ["Describe", "Write"].into_iter().chain(create).collect(),
            login: match (&options.cert_file, &options.sasl_mechanism) {
                (Some(_), None) => Login::Certificate,
                _ => Login::Password,
            },
        }
    }
}

const INTRODUCTION: &str = "\
#!/bin/sh
# What attio-bridge needs on Kafka for this configuration. Kafka's own tools do it.
# BOOTSTRAP  where an administrator reaches the cluster
# ADMIN      a file with the administrator's login, as for --command-config; unset where none is needed
set -eu
";

/// A script for Kafka's own tools.
pub(super) fn commands(setup: &Kafka) -> String {
    const ADMIN: &str = r#"--bootstrap-server "$BOOTSTRAP" ${ADMIN:+--command-config "$ADMIN"}"#;
    let mut out = String::from(INTRODUCTION);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "BOOTSTRAP=${{BOOTSTRAP:-{}}}\n", shell_word(&setup.bootstrap_servers));
    for Topic { name, partitions, replication_factor, config, .. } in &setup.topics {
        let _ = write!(out, "kafka-topics.sh {ADMIN} --create --if-not-exists --topic {name}");
        if let Some(partitions) = partitions {
            let _ = write!(out, " --partitions {partitions}");
        }
        if let Some(replicas) = replication_factor {
            let _ = write!(out, " --replication-factor {replicas}");
        }
        for (key, value) in config {
            let _ = write!(out, " --config {key}={value}");
        }
        out.push('\n');
    }
    let _ = write!(
        out,
        "\n# Nothing else is needed; `check --connect` sees the settings of topics with DescribeConfigs as well.\n\
         kafka-acls.sh {ADMIN} --add --allow-principal '{}'",
        setup.principal
    );
    for operation in &setup.operations {
        let _ = write!(out, " --operation {operation}");
    }
    for topic in &setup.topics {
        let _ = write!(out, " \\\n  --topic {}", topic.name);
    }
    out.push('\n');
    out
}

/// The addresses of servers in a shell's default value: whatever else they hold is no address.
fn shell_word(servers: &str) -> String {
    servers.chars().filter(|c| c.is_ascii_alphanumeric() || ".,:-_[]".contains(*c)).collect()
}
