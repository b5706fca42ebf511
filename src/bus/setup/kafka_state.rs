//! Kafka, for `state`: the compacted topics, and what their writer must be allowed.

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::kafka::Topic;
use crate::bus::inspect::Ensure;
use crate::bus::kafka::{Options, compacted_topic_settings};
use crate::bus::state::Needs;

/// What `state` needs beside what the bridge needs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct State {
    pub(super) topics: Vec<Topic>,
    /// What the principal must be allowed on each of them.
    operations: Vec<&'static str>,
    /// The events' topics that it follows.
    events: Vec<String>,
    event_operations: [&'static str; 2],
    group: String,
    group_operations: [&'static str; 2],
    /// Its transactional ids begin with it.
    transactional_id_prefix: String,
    transactional_id_operations: [&'static str; 2],
}

impl State {
    pub fn new(options: &Options, Needs { writer, events }: &Needs) -> Self {
        let topic = |name: &str| Topic {
            name: name.to_owned(),
            partitions: options.topics.partitions,
            replication_factor: options.topics.replication_factor,
            config: compacted_topic_settings(&options.topics).into_iter().collect(),
            largest_message_bytes: None,
        };
        let create = (options.topics.ensure == Ensure::Create).then_some("Create");
        let mut events: Vec<_> = events.iter().map(|to| to.address.to_string()).collect();
        events.sort();
        events.dedup();
        Self {
            topics: writer.addresses.iter().map(|name| topic(name)).collect(),
            operations: ["Describe", "Read", "Write"].into_iter().chain(create).collect(),
            events,
            event_operations: ["Describe", "Read"],
            group: writer.group.clone(),
            group_operations: ["Describe", "Read"],
            transactional_id_prefix: writer.group.clone(),
            transactional_id_operations: ["Describe", "Write"],
        }
    }

    /// The rights: the kind of resource, whether its name is a prefix, the names, the operations.
    fn rights(&self) -> [(&'static str, bool, Vec<&str>, &[&'static str]); 4] {
        let states = self.topics.iter().map(|topic| topic.name.as_str()).collect();
        let events = self.events.iter().map(String::as_str).collect();
        [
            ("topic", false, states, &self.operations),
            ("topic", false, events, &self.event_operations),
            ("group", false, vec![&self.group], &self.group_operations),
            (
                "transactional-id",
                true,
                vec![&self.transactional_id_prefix],
                &self.transactional_id_operations,
            ),
        ]
    }

    /// The rights are comments where nobody has named a principal.
    pub fn commands(&self, admin: &str, principal: Option<&str>) -> String {
        let mut out = String::from(
            "\n# For `attio-bridge state`, a process of its own: the newest state of each entity. Never change the number\n\
             # of partitions of these topics: the records of a key would no longer be in one of them.\n",
        );
        out.extend(self.topics.iter().map(|topic| topic.command(admin)));
        for (resource, is_prefix, names, operations) in self.rights() {
            let name = principal.unwrap_or("User:NAME");
            let mut grant = format!("kafka-acls.sh {admin} --add --allow-principal '{name}'");
            grant.extend(operations.iter().map(|operation| format!(" --operation {operation}")));
            grant += if is_prefix { " --resource-pattern-type prefixed" } else { "" };
            grant.extend(names.iter().map(|name| format!(" \\\n  --{resource} {name}")));
            let comment = if principal.is_some() { "" } else { "# " };
            out.extend(grant.lines().map(|line| format!("{comment}{line}\n")));
        }
        out
    }

    /// Strimzi's rules for the same rights.
    pub fn acls(&self) -> Vec<Json> {
        let mut acls = Vec::new();
        for (resource, is_prefix, names, operations) in self.rights() {
            let kind = if resource == "transactional-id" { "transactionalId" } else { resource };
            let pattern = if is_prefix { "prefix" } else { "literal" };
            acls.extend(names.into_iter().map(|name| {
                let resource = json!({ "type": kind, "name": name, "patternType": pattern });
                json!({ "resource": resource, "operations": operations, "host": "*" })
            }));
        }
        acls
    }

    /// Terraform's resources for the rights.
    pub fn terraform(&self) -> String {
        let mut out = String::new();
        for (at, (resource, is_prefix, names, operations)) in self.rights().into_iter().enumerate() {
            let kind = match resource {
                "topic" => "Topic",
                "group" => "Group",
                _ => "TransactionalID",
            };
            let pattern = if is_prefix { "Prefixed" } else { "Literal" };
            let (names, operations) = (super::quoted_all(&names, ", "), super::quoted_all(operations, ", "));
            out += &format!(
                "\nresource \"kafka_acl\" \"attio_bridge_state_{at}\" {{\n  for_each = {{\n    for right in \
                 setproduct([{names}], [{operations}]) :\n    join(\" \", right) => {{ name = right[0], operation = \
                 right[1] }}\n  }}\n  resource_name                = each.value.name\n  resource_type                = \
                 \"{kind}\"\n  resource_pattern_type_filter = \"{pattern}\"\n  acl_principal                = \
                 local.attio_bridge_principal\n  acl_host                     = \"*\"\n  acl_operation                = \
                 each.value.operation\n  acl_permission_type          = \"Allow\"\n}}\n"
            );
        }
        out
    }
}
