//! NATS: the stream, and the right to publish to its subjects.

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::{PRINCIPAL, quoted, quoted_all};
use crate::bus::inspect::Requirements;
use crate::bus::nats::options::{Auth, Ensure, Options};
use crate::bus::nats::stream_config;

/// What a server takes unless it is told otherwise. Source: the NATS server's configuration, `max_payload`.
const NATS_LARGEST: usize = 1_048_576;

/// What a server must have and grant.
#[derive(Clone, Debug, Serialize)]
pub struct Nats {
    /// The stream, as JetStream's own API has it.
    pub stream: Json,
    /// Who the bridge is: a user's name, or an nkey.
    pub principal: String,
    /// The subjects that the principal must be allowed to publish to, and no others.
    pub publish: Vec<String>,
    /// The subjects that it must be allowed to subscribe to: acks come back there.
    pub subscribe: Vec<String>,
    /// The largest message, in bytes: the server's `max_payload` must not be less.
    pub largest_message_bytes: usize,
    #[serde(skip)]
    login: Login,
}

/// How the bridge proves who it is.
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
        // To look whether the stream is there and takes the subjects, and which one does where not.
        let look = [format!("$JS.API.STREAM.INFO.{name}"), "$JS.API.STREAM.NAMES".to_owned()];
        let create =
            (options.stream.ensure == Ensure::Create).then(|| format!("$JS.API.STREAM.CREATE.{name}"));
        let largest =
            requirements.addresses.iter().map(|address| requirements.largest(address)).max().unwrap_or(0);
        Self {
            publish: wanted.subjects.iter().cloned().chain(look).chain(create).collect(),
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

/// A script that makes the stream and shows what grants the rights.
pub(super) fn commands(setup: &Nats) -> String {
    let name = setup.stream["name"].as_str().unwrap_or_default();
    let rights = match setup.login {
        Login::Credentials => in_a_jwt(setup),
        Login::Nkey => in_the_server(setup, &format!("nkey: {}", quoted(&setup.principal))),
        Login::Password => {
            let user = quoted(&setup.principal);
            in_the_server(setup, &format!("user: {user}, password: $ATTIO_BRIDGE_NATS_PASSWORD"))
        }
    };
    format!(
        "#!/bin/sh\n# What attio-bridge needs on NATS for this configuration. `nats` is NATS's own tool: its \
         context says\n# where, and as whom.\nset -eu\n\n\
         nats stream add {name} --config /dev/stdin <<'JSON'\n{:#}\nJSON\n\n{rights}",
        setup.stream
    )
}

/// Rights that a server has from an account's JWTs.
fn in_a_jwt(setup: &Nats) -> String {
    let Nats { publish, subscribe, largest_message_bytes: largest, .. } = setup;
    let payload = match *largest > NATS_LARGEST {
        true => format!("# The server's max_payload must be at least {largest}.\n"),
        false => String::new(),
    };
    format!(
        "# The user's rights are in its JWT; `nsc generate creds` writes the file for nats.creds_file.\n\
         nsc add user --name {} --allow-pub '{}' --allow-sub '{}'\n{payload}",
        quoted(&setup.principal),
        publish.join(","),
        subscribe.join(",")
    )
}

/// Rights that a server has from its configuration.
fn in_the_server(setup: &Nats, user: &str) -> String {
    let Nats { publish, subscribe, largest_message_bytes: largest, .. } = setup;
    let payload = match *largest > NATS_LARGEST {
        true => format!("max_payload: {largest}\n"),
        false => String::new(),
    };
    format!(
        "# For the server's configuration, where $NAME is a variable of its environment.\ncat <<'CONF'\n\
         {payload}authorization {{\n  users: [ {{\n    {user}\n    permissions: {{\n      publish: {{ allow: \
         [\n        {}\n      ] }}\n      subscribe: {{ allow: [{}] }}\n    }}\n  }} ]\n}}\nCONF\n",
        quoted_all(publish, ",\n        "),
        quoted_all(subscribe, ", ")
    )
}
