//! What must exist on a broker for a configuration, and the least that must be granted: as data, and as input for
//! the tools that create it.

mod kafka;
mod kafka_state;

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::inspect::{Ensure, Requirements};
use super::nats::{self, Auth, stream_config};
use super::state::Needs;
use super::{Kind, Options};
pub use kafka::Kafka;

/// The bridge's principal where neither the configuration nor the operator names one.
const PRINCIPAL: &str = "attio-bridge";
/// The server's default `max_payload`. Source: the NATS server's configuration.
const DEFAULT_MAX_PAYLOAD: usize = 1_048_576;

/// For which tool. The help lists the names alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    // Commands of Kafka's own tools.
    Kafka,
    // Resources of the Terraform provider `Mongey/kafka`.
    Terraform,
    // Resources of the Strimzi operator.
    Strimzi,
    // Commands of the `nats` tool, and a part of the server's configuration.
    Nats,
}

/// What the bus of a configuration must have and grant.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "bus", rename_all = "lowercase")]
pub enum Setup {
    Kafka(Kafka),
    Nats(Nats),
}

/// Why there is nothing to print.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("bus.type is stdout, which needs no topics: set it to kafka or nats")]
    Nothing,
    #[error(
        "bus.type is {0}: choose a format of that bus (kafka, terraform and strimzi are Kafka's, nats is NATS's)"
    )]
    OtherBus(&'static str),
    #[error("the principal has {0:?} in it, which not every format can hold: choose another name")]
    Principal(char),
}

impl Setup {
    /// What the bus of the options needs. The default `principal` is the user of the configuration.
    pub fn new(
        options: &Options,
        requirements: &Requirements,
        state: Option<&Needs>,
        principal: Option<&str>,
    ) -> Result<Self, Error> {
        let unusable = |c: &char| !(c.is_ascii_graphic() || *c == ' ') || "\"'\\`$%".contains(*c);
        if let Some(c) = principal.and_then(|name| name.chars().find(unusable)) {
            return Err(Error::Principal(c));
        }
        match &options.kind {
            Kind::Kafka(options) => Ok(Self::Kafka(Kafka::new(options, requirements, state, principal))),
            Kind::Nats(options) => Ok(Self::Nats(Nats::new(options, requirements, state, principal))),
            Kind::Stdout => Err(Error::Nothing),
        }
    }

    /// The same for a tool; the default is the bus's own. `cluster` is for Strimzi.
    pub fn write(&self, format: Option<Format>, cluster: &str) -> Result<String, Error> {
        match (self, format) {
            (Self::Kafka(setup), None | Some(Format::Kafka)) => Ok(setup.commands()),
            (Self::Kafka(setup), Some(Format::Terraform)) => Ok(setup.terraform()),
            (Self::Kafka(setup), Some(Format::Strimzi)) => Ok(setup.strimzi(cluster)),
            (Self::Kafka(_), Some(Format::Nats)) => Err(Error::OtherBus("kafka")),
            (Self::Nats(setup), None | Some(Format::Nats)) => Ok(setup.commands()),
            (Self::Nats(_), Some(_)) => Err(Error::OtherBus("nats")),
        }
    }
}

/// A text in double quotes, for shells, HCL and NATS alike: it has the alphabet of an address, or was checked in
/// [`Setup::new`].
fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn quoted_all<T: AsRef<str>>(texts: &[T], between: &str) -> String {
    texts.iter().map(|text| quoted(text.as_ref())).collect::<Vec<_>>().join(between)
}

/// NATS: the stream, and the permission to publish to its subjects.
#[derive(Clone, Debug, Serialize)]
pub struct Nats {
    /// The stream, as in JetStream's API.
    stream: Json,
    /// The bridge's user name or nkey.
    principal: String,
    /// The subjects that the principal must be allowed to publish to, and no others.
    publish: Vec<String>,
    /// The subjects that it must be allowed to subscribe to, for acks.
    subscribe: [&'static str; 1],
    /// The server's `max_payload` must not be less.
    largest_message_bytes: usize,
    /// What `state` needs in addition.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<NatsState>,
    #[serde(skip)]
    by_credentials: bool,
}

/// The stream of the states, and what their writer may do.
#[derive(Clone, Debug, Serialize)]
struct NatsState {
    stream: Json,
    publish: Vec<String>,
    subscribe: [&'static str; 1],
}

impl Nats {
    fn new(
        options: &nats::Options,
        requirements: &Requirements,
        state: Option<&Needs>,
        principal: Option<&str>,
    ) -> Self {
        let wanted = stream_config(&options.stream, &requirements.destinations);
        let of_configuration = match &options.auth {
            Some(Auth::User { username, .. }) => Some(username.as_str()),
            _ => None,
        };
        let name = &options.stream.name;
        // To check that the stream exists and accepts the subjects, and to find the one that does otherwise.
        let check = [format!("$JS.API.STREAM.INFO.{name}"), "$JS.API.STREAM.NAMES".to_owned()];
        let create =
            (options.stream.ensure == Ensure::Create).then(|| format!("$JS.API.STREAM.CREATE.{name}"));
        let sizes = requirements.addresses.iter().map(|address| requirements.largest(address));
        let nanoseconds = |time: std::time::Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        Self {
            publish: wanted.subjects.iter().cloned().chain(check).chain(create).collect(),
            subscribe: ["_INBOX.>"],
            principal: principal.or(of_configuration).unwrap_or(PRINCIPAL).to_owned(),
            largest_message_bytes: sizes.max().unwrap_or(0),
            state: state.map(|needs| NatsState::new(options, needs)),
            by_credentials: matches!(&options.auth, Some(Auth::CredsFile(_))),
            stream: json!({
                "name": name,
                "description": wanted.description,
                "subjects": wanted.subjects,
                "retention": "limits",
                "storage": "file",
                "discard": "old",
                "persist_mode": "default",
                "no_ack": false,
                "num_replicas": wanted.num_replicas,
                "max_age": nanoseconds(wanted.max_age),
                "duplicate_window": nanoseconds(wanted.duplicate_window),
                "max_consumers": -1,
                "max_msgs": -1,
                "max_msgs_per_subject": -1,
                "max_bytes": -1,
                "max_msg_size": -1,
                "allow_direct": true,
            }),
        }
    }

    /// A script that creates the stream and prints what grants the permissions.
    fn commands(&self) -> String {
        let Self { stream, principal, largest_message_bytes: largest, .. } = self;
        let state = self.state.as_ref().map(NatsState::commands).unwrap_or_default();
        let name = stream["name"].as_str().unwrap_or_default();
        let permissions = if self.by_credentials {
            let (publish, subscribe) = (self.publish.join(","), self.subscribe.join(","));
            let user = quoted(principal);
            let max_payload =
                self.max_payload(&format!("# The server's max_payload must be at least {largest}."));
            format!(
                "# The user's permissions are in its JWT; `nsc generate creds` writes the file for \
                 nats.creds_file.\nnsc add user --name {user} --allow-pub '{publish}' --allow-sub \
                 '{subscribe}'\n{max_payload}"
            )
        } else {
            let user = match nkeys::KeyPair::from_public_key(principal) {
                Ok(_) => format!("nkey: {}", quoted(principal)),
                Err(_) => format!("user: {}, password: $ATTIO_BRIDGE_NATS_PASSWORD", quoted(principal)),
            };
            let max_payload = self.max_payload(&format!("max_payload: {largest}"));
            let publish = quoted_all(&self.publish, ",\n        ");
            let subscribe = quoted_all(&self.subscribe, ", ");
            format!(
                "# For the server's configuration, where $NAME is a variable of its environment.\ncat <<'CONF'\n\
                 {max_payload}authorization {{\n  users: [ {{\n    {user}\n    permissions: {{\n      publish: {{ \
                 allow: [\n        {publish}\n      ] }}\n      subscribe: {{ allow: [{subscribe}] }}\n    }}\n  }} \
                 ]\n}}\nCONF\n"
            )
        };
        format!(
            "#!/bin/sh\n# What attio-bridge needs on NATS for this configuration. `nats` is NATS's own tool: its \
             context names\n# the server and the login.\nset -eu\n\nnats stream add {name} --config /dev/stdin \
             <<'JSON'\n{stream:#}\nJSON\n\n{permissions}{state}"
        )
    }

    /// A line for servers whose default is too small.
    fn max_payload(&self, line: &str) -> String {
        if self.largest_message_bytes > DEFAULT_MAX_PAYLOAD { format!("{line}\n") } else { String::new() }
    }
}

impl NatsState {
    fn new(options: &nats::Options, Needs { writer, .. }: &Needs) -> Self {
        let (name, events, group) = (&writer.stream, &options.stream.name, &writer.group);
        let wanted = nats::state::stream_config(&options.stream, name, &writer.prefix);
        let stream = json!({
            "name": name,
            "description": wanted.description,
            "subjects": wanted.subjects,
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": wanted.num_replicas,
            "max_msgs_per_subject": wanted.max_messages_per_subject,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
            "max_age": 0,
            "duplicate_window": 120_000_000_000_u64,
            "allow_direct": true,
        });
        let api = [
            format!("$JS.API.STREAM.INFO.{name}"),
            format!("$JS.API.STREAM.MSG.GET.{name}"),
            format!("$JS.API.STREAM.INFO.{events}"),
            format!("$JS.API.CONSUMER.CREATE.{events}.{group}"),
            format!("$JS.API.CONSUMER.CREATE.{events}.{group}.>"),
            format!("$JS.API.CONSUMER.DURABLE.CREATE.{events}.{group}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{events}.{group}"),
            format!("$JS.ACK.{events}.{group}.>"),
        ];
        let create =
            (options.stream.ensure == Ensure::Create).then(|| format!("$JS.API.STREAM.CREATE.{name}"));
        let publish = wanted.subjects.iter().cloned().chain(api).chain(create).collect();
        Self { stream, publish, subscribe: ["_INBOX.>"] }
    }

    fn commands(&self) -> String {
        let Self { stream, publish, subscribe } = self;
        let name = stream["name"].as_str().unwrap_or_default();
        let comments = |subjects: &[String]| {
            subjects.iter().fold(String::new(), |out, subject| out + "#   " + subject + "\n")
        };
        format!(
            "\n# For `attio-bridge state`, a process of its own: the newest state of each entity.\nnats stream add {name} \
             --config /dev/stdin <<'JSON'\n{stream:#}\nJSON\n# Its user must be allowed to publish to these subjects, and \
             to subscribe to {}:\n{}",
            subscribe[0],
            comments(publish)
        )
    }
}
