//! Strimzi: a `KafkaTopic` for each topic, and one `KafkaUser`.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::kafka::{Kafka, Login, Topic};
use super::quoted;

/// Since Strimzi 0.49; `kafka.strimzi.io/v1beta2` before it.
const API: &str = "kafka.strimzi.io/v1";

const INTRODUCTION: &str = "\
# What attio-bridge needs on Kafka for this configuration, in the namespace of the Kafka resource.
# Strimzi before 0.49 has apiVersion kafka.strimzi.io/v1beta2.
";

/// A stream of YAML documents.
pub(super) fn manifests(setup: &Kafka, cluster: &str) -> String {
    let mut manifests = Manifests { out: INTRODUCTION.to_owned(), cluster, taken: BTreeSet::new() };
    setup.topics.iter().for_each(|topic| manifests.topic(topic));
    manifests.user(setup);
    manifests.out
}

struct Manifests<'a> {
    out: String,
    cluster: &'a str,
    /// Kind and name of every resource so far.
    taken: BTreeSet<(&'static str, String)>,
}

// Writing to a string cannot fail.
impl Manifests<'_> {
    /// What every resource begins with.
    fn head(&mut self, kind: &'static str, name: &str) {
        let mut resource = resource_name(name);
        // Names that differ in what a resource's name cannot show.
        while !self.taken.insert((kind, resource.clone())) {
            resource.push_str("-x");
        }
        let _ = write!(
            self.out,
            "---\napiVersion: {API}\nkind: {kind}\nmetadata:\n  name: {}\n  labels:\n    \
             strimzi.io/cluster: {}\nspec:\n",
            quoted(&resource),
            quoted(self.cluster)
        );
    }

    fn topic(&mut self, topic: &Topic) {
        let Topic { name, partitions, replication_factor, config, .. } = topic;
        self.head("KafkaTopic", name);
        let out = &mut self.out;
        let _ = writeln!(out, "  topicName: {}", quoted(name));
        if let Some(partitions) = partitions {
            let _ = writeln!(out, "  partitions: {partitions}");
        }
        if let Some(replicas) = replication_factor {
            let _ = writeln!(out, "  replicas: {replicas}");
        }
        if !config.is_empty() {
            out.push_str("  config:\n");
        }
        for (key, value) in config {
            let _ = writeln!(out, "    {key}: {value}");
        }
    }

    fn user(&mut self, setup: &Kafka) {
        let name = setup.principal.trim_start_matches("User:").trim_start_matches("CN=");
        self.head("KafkaUser", name.split(',').next().unwrap_or(name));
        let authentication = match setup.login {
            Login::Password => "scram-sha-512",
            Login::Certificate => "tls",
        };
        let operations = setup.operations.join(", ");
        let out = &mut self.out;
        let _ = write!(
            out,
            "  authentication:\n    type: {authentication}\n  authorization:\n    type: simple\n    acls:\n"
        );
        for topic in &setup.topics {
            let _ = write!(
                out,
                "      - resource:\n          type: topic\n          name: {}\n          patternType: literal\n        \
                 operations: [{operations}]\n        host: \"*\"\n",
                quoted(&topic.name)
            );
        }
    }
}

/// What Kubernetes takes as a name: lower case letters, digits, - and . between letters or digits.
fn resource_name(name: &str) -> String {
    let fitting = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let tokens = name.split('.').map(|token| token.chars().map(fitting).collect::<String>());
    tokens
        .map(|token| token.trim_matches('-').to_owned())
        .filter(|token| !token.is_empty())
        .collect::<Vec<_>>()
        .join(".")
}
