//! Kafka: the topics, and Describe and Write on each; as commands of Kafka's tools, for Strimzi, for Terraform.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::kafka_state::State;
use super::{PRINCIPAL, quoted, quoted_all};
use crate::bus::inspect::{Ensure, Requirements};
use crate::bus::kafka::{Options, topic_settings};
use crate::bus::state::Needs;

/// Kafka's default `message.max.bytes`. Source: Kafka's broker configuration.
const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;
/// A week, as Kafka's own default: longer than Attio retries, and than a consumer should be down.
const RETENTION_MS: &str = "604800000";
/// What a batch adds to its one message, generously.
const BATCH_OVERHEAD: usize = 1024;

/// What a cluster must have and grant.
#[derive(Clone, Debug, Serialize)]
pub struct Kafka {
    bootstrap_servers: String,
    /// The bridge's principal, as `User:NAME`.
    principal: String,
    topics: Vec<Topic>,
    /// What the principal must be allowed on each topic, and on nothing else.
    operations: Vec<&'static str>,
    /// What the user of `tail`, `quarantine` and `dev` must be allowed on each topic.
    reader_operations: [&'static str; 2],
    /// What `state` needs in addition.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    /// Whether it authenticates by a certificate, whose subject is the principal, or by a password.
    #[serde(skip)]
    by_certificate: bool,
    /// Whether anyone has named the principal: without a login there may be no authorizer either.
    #[serde(skip)]
    has_principal: bool,
}

/// A topic to create. Numbers are the broker's default where absent.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Topic {
    pub name: String,
    pub partitions: Option<i32>,
    pub replication_factor: Option<i32>,
    pub config: BTreeMap<&'static str, String>,
    /// The largest message that can go there, where the bridge limits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest_message_bytes: Option<usize>,
}

impl Topic {
    pub(super) fn command(&self, admin: &str) -> String {
        let Self { name, partitions, replication_factor, config, .. } = self;
        let mut out = format!("kafka-topics.sh {admin} --create --if-not-exists --topic {name}");
        out += &partitions.map(|number| format!(" --partitions {number}")).unwrap_or_default();
        out += &replication_factor.map(|n| format!(" --replication-factor {n}")).unwrap_or_default();
        out.extend(config.iter().map(|(key, value)| format!(" --config {key}={value}")));
        out + "\n"
    }
}

impl Kafka {
    pub(super) fn new(
        options: &Options,
        requirements: &Requirements,
        state: Option<&Needs>,
        principal: Option<&str>,
    ) -> Self {
        let topic = |name: &str| {
            let largest = requirements.largest(name);
            let mut config: BTreeMap<_, _> = topic_settings(&options.topics).into_iter().collect();
            config.entry("retention.ms").or_insert_with(|| RETENTION_MS.to_owned());
            if largest + BATCH_OVERHEAD > DEFAULT_MAX_MESSAGE_BYTES {
                config.insert("max.message.bytes", (largest + BATCH_OVERHEAD).to_string());
            }
            Topic {
                name: name.to_owned(),
                partitions: options.topics.partitions,
                replication_factor: options.topics.replication_factor,
                config,
                largest_message_bytes: Some(largest),
            }
        };
        let name = principal.or(options.sasl_username.as_deref()).unwrap_or(PRINCIPAL);
        let create = (options.topics.ensure == Ensure::Create).then_some("Create");
        Self {
            bootstrap_servers: options.bootstrap_servers.clone(),
            principal: format!("User:{}", name.strip_prefix("User:").unwrap_or(name)),
            topics: requirements.addresses.iter().map(|name| topic(name)).collect(),
            operations: ["Describe", "Write"].into_iter().chain(create).collect(),
            reader_operations: ["Describe", "Read"],
            state: state.map(|needs| State::new(options, needs)),
            by_certificate: options.cert_file.is_some() && options.sasl_mechanism.is_none(),
            has_principal: principal.is_some()
                || options.sasl_username.is_some()
                || options.cert_file.is_some(),
        }
    }

    pub(super) fn commands(&self) -> String {
        const ADMIN: &str = r#"--bootstrap-server "$BOOTSTRAP" ${ADMIN:+--command-config "$ADMIN"}"#;
        // Other characters cannot be part of an address, and are unsafe in a shell's default value.
        let address = |c: &char| c.is_ascii_alphanumeric() || ".,:-_[]".contains(*c);
        let servers: String = self.bootstrap_servers.chars().filter(address).collect();
        let mut out = format!("{SCRIPT}BOOTSTRAP=${{BOOTSTRAP:-{servers}}}\n\n");
        let first = self.topics.first();
        for (key, number, why) in [
            ("partitions", first.and_then(|topic| topic.partitions), CONSUMERS),
            ("replication_factor", first.and_then(|topic| topic.replication_factor), COPIES),
        ] {
            if number.is_none() {
                out += &format!(
                    "# kafka.topics.{key} is not set: the cluster's default decides, which may be 1. {why}.\n"
                );
            }
        }
        for topic in &self.topics {
            out += &topic.command(ADMIN);
        }
        let grant = |operations: &[&str]| {
            let mut grant = format!("kafka-acls.sh {ADMIN} --add --allow-principal '{}'", self.principal);
            grant.extend(operations.iter().map(|operation| format!(" --operation {operation}")));
            grant.extend(self.topics.iter().map(|topic| format!(" \\\n  --topic {}", topic.name)));
            grant
        };
        let comment = |text: &str| text.lines().fold(String::new(), |out, line| out + "# " + line + "\n");
        let needed = grant(&self.operations);
        if self.has_principal {
            out += &format!("\n# What the bridge needs, and nothing else.\n{needed}\n");
        } else {
            out += &format!("\n{NO_LOGIN}{}", comment(&needed));
        }
        let state = self
            .state
            .as_ref()
            .map(|state| state.commands(ADMIN, self.has_principal.then_some(&*self.principal)))
            .unwrap_or_default();
        out + "\n" + READERS + &comment(&grant(&self.reader_operations)) + &state
    }

    /// YAML documents for the Strimzi operator: a `KafkaTopic` each, and one `KafkaUser`.
    pub(super) fn strimzi(&self, cluster: &str) -> String {
        let mut names = BTreeSet::new();
        let mut resource = |kind: &'static str, name: &str, spec: Json| {
            let mut name = resource_name(name);
            // Two names may differ only in what a resource's name cannot hold.
            while !names.insert((kind, name.clone())) {
                name.push_str("-x");
            }
            let metadata = json!({ "name": name, "labels": { "strimzi.io/cluster": cluster } });
            json!({ "apiVersion": STRIMZI, "kind": kind, "metadata": metadata, "spec": spec })
        };
        let number = |value: &String| value.parse::<u64>().map_or_else(|_| json!(value), Json::from);
        let of_state = self.state.iter().flat_map(|state| &state.topics);
        let topics = self.topics.iter().chain(of_state).map(|topic| {
            let config: BTreeMap<_, _> =
                topic.config.iter().map(|(key, value)| (*key, number(value))).collect();
            let mut spec = json!({ "topicName": topic.name, "config": config });
            let numbers = [("partitions", topic.partitions), ("replicas", topic.replication_factor)];
            for (key, number) in numbers.into_iter().filter_map(|(key, number)| Some((key, number?))) {
                spec[key] = number.into();
            }
            resource("KafkaTopic", &topic.name, spec)
        });
        let mut documents: Vec<_> = topics.collect();
        let acls = self.topics.iter().map(|topic| {
            let resource = json!({ "type": "topic", "name": topic.name, "patternType": "literal" });
            json!({ "resource": resource, "operations": self.operations, "host": "*" })
        });
        let of_state = self.state.iter().flat_map(State::acls);
        let user = self.principal.trim_start_matches("User:").trim_start_matches("CN=");
        let spec = json!({
            "authentication": { "type": if self.by_certificate { "tls" } else { "scram-sha-512" } },
            "authorization": { "type": "simple", "acls": acls.chain(of_state).collect::<Vec<_>>() },
        });
        documents.push(resource("KafkaUser", user.split(',').next().unwrap_or(user), spec));
        documents.iter().fold(MANIFESTS.to_owned(), |out, document| {
            let yaml = serde_yaml_ng::to_string(document).expect("every JSON value can be written as YAML");
            out + "---\n" + &yaml
        })
    }

    /// One file of resources for Terraform's provider `Mongey/kafka`.
    pub(super) fn terraform(&self) -> String {
        let mut out = String::from(PROVIDER);
        // The provider has no default for a number: Terraform asks for one that is not configured.
        let mut number = |name: &str, number: Option<i32>| match number {
            Some(number) => number.to_string(),
            None => {
                out += &format!(
                    "variable \"attio_bridge_{name}\" {{\n  description = \"Not in the bridge's \
                     configuration: set it here, or as kafka.topics.{name}\"\n  type        = number\n}}\n\n"
                );
                format!("var.attio_bridge_{name}")
            }
        };
        let first = self.topics.first();
        let partitions = number("partitions", first.and_then(|topic| topic.partitions));
        let replicas = number("replication_factor", first.and_then(|topic| topic.replication_factor));
        let (principal, operations) = (quoted(&self.principal), quoted_all(&self.operations, ", "));
        out += &format!(
            "locals {{\n  attio_bridge_principal  = {principal}\n  attio_bridge_operations = [{operations}]\n  \
             attio_bridge_topics = {{\n"
        );
        let of_state = self.state.iter().flat_map(|state| &state.topics);
        for Topic { name, config, .. } in self.topics.iter().chain(of_state) {
            let width = config.keys().map(|key| key.len()).max().unwrap_or(0) + 2;
            out += &format!("    {} = {{\n", quoted(name));
            for (key, value) in config {
                // Writing to a string cannot fail.
                let _ = writeln!(out, "      {:width$} = {}", quoted(key), quoted(value));
            }
            out += "    }\n";
        }
        out += &format!(
            "  }}\n}}\n\nresource \"kafka_topic\" \"attio_bridge\" {{\n  for_each           = \
             local.attio_bridge_topics\n  name               = each.key\n  partitions         = {partitions}\n  \
             replication_factor = {replicas}\n  config             = each.value\n}}\n"
        );
        out + ACL + &self.state.as_ref().map(State::terraform).unwrap_or_default()
    }
}

const SCRIPT: &str = "\
#!/bin/sh
# What attio-bridge needs on Kafka for this configuration, with Kafka's own tools.
# BOOTSTRAP  where an administrator reaches the cluster
# ADMIN      a file with the administrator's login, as for --command-config; unset where none is needed
set -eu
";

const CONSUMERS: &str = "Partitions limit how many consumers can share the work";
const COPIES: &str = "With 1, acknowledged events are lost with their only broker; use 3";

const NO_LOGIN: &str = "\
# The configuration has no login and no --principal was given, so nothing is granted here. On a cluster that has an
# authorizer the bridge needs this, and nothing else:
";

const READERS: &str = "\
# For `tail`, `quarantine` and `dev`, whose user reads the topics (no right on a group is needed). `check --connect`
# also reads the topics' settings, with --operation DescribeConfigs.
";

/// The API since Strimzi 0.49; `kafka.strimzi.io/v1beta2` before.
const STRIMZI: &str = "kafka.strimzi.io/v1";

const MANIFESTS: &str = "\
# What attio-bridge needs on Kafka for this configuration, in the namespace of the Kafka resource.
# The user of `tail`, `quarantine` and `dev` also needs the operation Read; `check --connect` DescribeConfigs.
# Strimzi before 0.49 has apiVersion kafka.strimzi.io/v1beta2.
";

const PROVIDER: &str = r#"# What attio-bridge needs on Kafka for this configuration; the provider's login is yours to configure.
# The user of `tail`, `quarantine` and `dev` also needs the operation Read; `check --connect` DescribeConfigs.
terraform {
  required_providers {
    kafka = {
      source = "Mongey/kafka"
    }
  }
}

"#;

const ACL: &str = r#"
resource "kafka_acl" "attio_bridge" {
  for_each = {
    for right in setproduct(keys(local.attio_bridge_topics), local.attio_bridge_operations) :
    join(" ", right) => { topic = right[0], operation = right[1] }
  }
  resource_name                = kafka_topic.attio_bridge[each.value.topic].name
  resource_type                = "Topic"
  resource_pattern_type_filter = "Literal"
  acl_principal                = local.attio_bridge_principal
  acl_host                     = "*"
  acl_operation                = each.value.operation
  acl_permission_type          = "Allow"
}
"#;

/// A name in Kubernetes: lower case letters, digits, - and . between letters or digits.
fn resource_name(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let parts = name.split('.').map(|part| part.chars().map(allowed).collect::<String>());
    let parts = parts.map(|part| part.trim_matches('-').to_owned()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(".")
}
