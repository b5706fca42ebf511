//! NATS: the stream, and the permission to publish to its subjects.

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::{PRINCIPAL, quoted, quoted_all};
use crate::bus::inspect::Requirements;
use crate::bus::nats::stream_config;
use crate::bus::nats::{Auth, Ensure, Options};

/// The server's default `max_payload`. Source: the NATS server's configuration.
const DEFAULT_MAX_PAYLOAD: usize = 1_048_576;

/// What a server must have and grant.
#[derive(Clone, Debug, Serialize)]
pub struct Nats {
    /// The stream, as in JetStream's API.
    pub stream: Json,
    /// The bridge's user name or nkey.
    pub principal: String,
    /// The subjects that the principal must be allowed to publish to, and no others.
    pub publish: Vec<String>,
    /// The subjects that it must be allowed to subscribe to, for acks.
    pub subscribe: Vec<String>,
    /// The largest message, in bytes: the server's `max_payload` must not be less.
    pub largest_message_bytes: usize,
    #[serde(skip)]
    login: Login,
}

/// How the bridge authenticates.
#[derive(Clone, Copy, Debug)]
enum Login {
    Password,
    Nkey,
    Credentials,
}

impl Nats {
    pub(super) fn new(options: &Options, requirements: &Requirements, principal: Option<&str>) -> Self {
        let wanted = stream_config(&options.stream, &requirements.destinations);
        let of_configuration = match &options.auth {
            Some(Auth::User { username, .. }) => Some(username.as_str()),
            _ => None,
        };
        let principal = principal.or(of_configuration).unwrap_or(PRINCIPAL).to_owned();
        let login = match &options.auth {
            Some(Auth::CredsFile(_)) => Login::Credentials,
            _ if nkeys::KeyPair::from_public_key(&principal).is_ok() => Login::Nkey,
            _ => Login::Password,
        };
        let name = &options.stream.name;
        // To check that the stream exists and accepts the subjects, and to find the one that does otherwise.
        let check = [format!("$JS.API.STREAM.INFO.{name}"), "$JS.API.STREAM.NAMES".to_owned()];
        let create =
            (options.stream.ensure == Ensure::Create).then(|| format!("$JS.API.STREAM.CREATE.{name}"));
        let largest =
            requirements.addresses.iter().map(|address| requirements.largest(address)).max().unwrap_or(0);
        Self {
            publish: wanted.subjects.iter().cloned().chain(check).chain(create).collect(),
            subscribe: vec!["_INBOX.>".to_owned()],
            principal,
            largest_message_bytes: largest,
            login,
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
}

fn nanoseconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Nats {
    /// A script that creates the stream and prints what grants the permissions.
    pub(super) fn commands(&self) -> String {
        let Self { stream, principal, largest_message_bytes: largest, .. } = self;
        let name = stream["name"].as_str().unwrap_or_default();
        let max_payload = *largest > DEFAULT_MAX_PAYLOAD;
        let permissions = match self.login {
            Login::Credentials => {
                let (publish, subscribe) = (self.publish.join(","), self.subscribe.join(","));
                let user = quoted(principal);
                let max_payload = match max_payload {
                    true => format!("# The server's max_payload must be at least {largest}.\n"),
                    false => String::new(),
                };
                format!(
                    "# The user's permissions are in its JWT; `nsc generate creds` writes the file for \
                     nats.creds_file.\nnsc add user --name {user} --allow-pub '{publish}' --allow-sub \
                     '{subscribe}'\n{max_payload}"
                )
            }
            Login::Nkey => self.server_configuration(max_payload, &format!("nkey: {}", quoted(principal))),
            Login::Password => {
                let user = format!("user: {}, password: $ATTIO_BRIDGE_NATS_PASSWORD", quoted(principal));
                self.server_configuration(max_payload, &user)
            }
        };
        format!(
            "#!/bin/sh\n# What attio-bridge needs on NATS for this configuration. `nats` is NATS's own tool: its \
             context names\n# the server and the login.\nset -eu\n\nnats stream add {name} --config /dev/stdin \
             <<'JSON'\n{stream:#}\nJSON\n\n{permissions}"
        )
    }

    fn server_configuration(&self, max_payload: bool, user: &str) -> String {
        let max_payload = match max_payload {
            true => format!("max_payload: {}\n", self.largest_message_bytes),
            false => String::new(),
        };
        let publish = quoted_all(&self.publish, ",\n        ");
        let subscribe = quoted_all(&self.subscribe, ", ");
        format!(
            "# For the server's configuration, where $NAME is a variable of its environment.\ncat <<'CONF'\n\
             {max_payload}authorization {{\n  users: [ {{\n    {user}\n    permissions: {{\n      publish: {{ \
             allow: [\n        {publish}\n      ] }}\n      subscribe: {{ allow: [{subscribe}] }}\n    }}\n  }} \
             ]\n}}\nCONF\n"
        )
    }
}
