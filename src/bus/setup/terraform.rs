//! Terraform: resources of the provider `Mongey/kafka`.

use std::fmt::Write;

use super::kafka::{Kafka, Topic};
use super::{quoted, quoted_all};

const PROVIDER: &str = r#"# What attio-bridge needs on Kafka for this configuration; the provider's login is yours to configure.
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

/// One file.
pub(super) fn resources(setup: &Kafka) -> String {
    let mut out = String::from(PROVIDER);
    let first = setup.topics.first();
    let partitions = number(&mut out, "partitions", first.and_then(|topic| topic.partitions));
    let replicas = number(&mut out, "replication_factor", first.and_then(|topic| topic.replication_factor));
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "locals {{\n  attio_bridge_principal  = {}\n  attio_bridge_operations = [{}]\n  attio_bridge_topics = {{",
        quoted(&setup.principal),
        quoted_all(&setup.operations, ", ")
    );
    for Topic { name, config, .. } in &setup.topics {
        let _ = writeln!(out, "    {} = {{", quoted(name));
        let widest = config.keys().map(|key| key.len()).max().unwrap_or(0) + 2;
        for (key, value) in config {
            let _ = writeln!(out, "      {:widest$} = {}", quoted(key), quoted(value));
        }
        out.push_str("    }\n");
    }
    let _ = write!(
        out,
        "  }}\n}}\n\nresource \"kafka_topic\" \"attio_bridge\" {{\n  for_each           = \
         local.attio_bridge_topics\n  name               = each.key\n  partitions         = {partitions}\n  \
         replication_factor = {replicas}\n  config             = each.value\n}}\n"
    );
    out.push_str(ACL);
    out
}

/// A number of the configuration, or a variable that Terraform asks for: its provider has no default.
fn number(out: &mut String, name: &str, number: Option<i32>) -> String {
    if let Some(number) = number {
        return number.to_string();
    }
    let _ = write!(
        out,
        "variable \"attio_bridge_{name}\" {{\n  description = \"Not in the bridge's configuration: set it \
         here, or as kafka.topics.{name}\"\n  type        = number\n}}\n\n"
    );
    format!("var.attio_bridge_{name}")
}
