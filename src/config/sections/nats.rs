//! `[nats]` and `[nats.stream]`.

use std::time::Duration;

use super::{CENTURY, DAY, INSTANT, paired, readable, value};
use crate::bus::nats::{Auth, Ensure, Options, Stream};
use crate::bus::{StartError, nats};
use crate::config::diagnostics::Diagnostics;
use crate::config::kinds::{
    Boolean, Case, Choice, FilePath, Form, Integer, List, Pattern, Secret, Text, TimeSpan,
};
use crate::config::section::{Section, keys};
use crate::config::tree::{Origin, Table};

const ENSURE: [(&str, Ensure); 3] =
    [("verify", Ensure::Verify), ("off", Ensure::Off), ("create", Ensure::Create)];

const STREAM_NAME: Pattern = Pattern {
    expects: "1 to 255 letters, digits, _ and -",
    regex: "^[A-Za-z0-9_-]{1,255}$",
    accepts: |name| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        (1..=255).contains(&name.len()) && name.bytes().all(fits)
    },
};

keys! {
    Nats {
        /// Addresses of the servers. Required for NATS.
        servers: List like "nats://localhost:4222";
        /// Log in with a credentials file. Give one of creds_file, nkey_file, token, username with
        /// password.
        creds_file: FilePath like "/etc/attio-bridge/nats.creds";
        /// Log in with the seed of an nkey.
        nkey_file: FilePath like "/etc/attio-bridge/nats.nk";
        /// Log in with a token.
        token: Secret like "change-me";
        /// Log in with a user name and a password.
        username: Text like "attio-bridge";
        /// The password of username.
        password: Secret like "change-me";
        /// PEM file with the authorities that may sign the server's certificate. If not set,
        /// the system's.
        ca_file: FilePath like "/etc/attio-bridge/ca.pem";
        /// PEM file with the bridge's own certificate.
        cert_file: FilePath like "/etc/attio-bridge/client.pem";
        /// PEM file with the key of cert_file.
        key_file: FilePath like "/etc/attio-bridge/client.key";
        /// Do not connect to the addresses that the cluster advertises, which clients may be unable to reach.
        ignore_discovered_servers: Boolean = "false";
        /// How long to wait for the ack of an event.
        publish_timeout: TimeSpan(INSTANT..=DAY) = "10s";
    }
}

keys! {
    StreamKeys {
        /// Name of the stream.
        name: Form(&STREAM_NAME) = "ATTIO";
        /// "verify": the log names what is missing or wrong, and the bridge is not ready. "create": it is
        /// created. "off": neither.
        ensure: Choice<Ensure>(&ENSURE, Case::Exact) = "verify";
        /// How long the server remembers message ids. At most max_age.
        duplicate_window: TimeSpan(INSTANT..=CENTURY) = "2h";
        /// How long messages are kept; "0s" is forever.
        max_age: TimeSpan(Duration::ZERO..=CENTURY) = "168h";
        /// Replicas of a stream that is created. If not set, the server's default.
        replicas: Integer(1..=5) like "3";
    }
}

impl Options {
    /// The declared defaults for these servers.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        let defaults = read(&mut Section::root(&Diagnostics::default(), Table::new()), false);
        Self { servers: servers.into_iter().map(Into::into).collect(), ..defaults }
    }
}

/// Reads `[nats]`; `used` says whether it is the bus.
pub fn read(section: &mut Section<'_>, used: bool) -> Options {
    let diagnostics = section.diagnostics();
    let keys = Nats::read(section);
    if used && keys.servers.as_ref().is_none_or(|given| given.value.is_empty()) {
        let message = "required for NATS: addresses of one or more servers, as in servers = \
                       [\"nats://localhost:4222\"] (also ATTIO_BRIDGE__NATS__SERVERS, comma separated)";
        diagnostics.required("nats.servers", None, message);
    }
    if used {
        for file in [&keys.creds_file, &keys.nkey_file, &keys.ca_file, &keys.cert_file, &keys.key_file] {
            readable(diagnostics, file.as_ref());
        }
        paired(diagnostics, keys.cert_file.as_ref(), keys.key_file.as_ref());
    }
    let options = Options {
        auth: auth(diagnostics, &keys, used),
        servers: value(keys.servers).unwrap_or_default(),
        ca_file: value(keys.ca_file),
        cert_file: value(keys.cert_file),
        key_file: value(keys.key_file),
        ignore_discovered_servers: keys.ignore_discovered_servers.value,
        publish_timeout: keys.publish_timeout.value,
        stream: stream(&mut section.section("stream")),
    };
    if used && let Err(StartError::Setting { key, reason }) = nats::check(&options) {
        diagnostics.problem(&key, diagnostics.origin_of(&key).as_ref(), reason);
    }
    options
}

/// One way to log in, or none.
fn auth(diagnostics: &Diagnostics, keys: &Nats, used: bool) -> Option<Auth> {
    let mut ways: Vec<(&str, &Origin, Auth)> = Vec::new();
    if let Some(given) = &keys.creds_file {
        ways.push((&given.key, &given.origin, Auth::CredsFile(given.value.clone())));
    }
    if let Some(given) = &keys.nkey_file {
        ways.push((&given.key, &given.origin, Auth::NkeyFile(given.value.clone())));
    }
    if let Some(given) = &keys.token {
        ways.push((&given.key, &given.origin, Auth::Token(given.value.clone())));
    }
    match (&keys.username, &keys.password) {
        (Some(given), Some(password)) => {
            let auth = Auth::User { username: given.value.clone(), password: password.value.clone() };
            ways.push((&given.key, &given.origin, auth));
        }
        (Some(username), None) => diagnostics.refuse(username, "needs nats.password"),
        (None, Some(password)) => diagnostics.refuse(password, "needs nats.username"),
        (None, None) => {}
    }
    if let [(first, ..), others @ ..] = &ways[..]
        && used
    {
        for (key, origin, _) in others {
            let message = format!(
                "{first} is set too; keep one of creds_file, nkey_file, token, username with password"
            );
            diagnostics.problem(key, Some(origin), message);
        }
    }
    ways.pop().map(|(.., auth)| auth)
}

fn stream(section: &mut Section<'_>) -> Stream {
    let keys = StreamKeys::read(section);
    let (window, max_age) = (&keys.duplicate_window, keys.max_age.value);
    if !max_age.is_zero() && window.value > max_age {
        section.diagnostics().refuse(window, "must not be longer than nats.stream.max_age");
    }
    Stream {
        name: keys.name.value,
        ensure: keys.ensure.value,
        duplicate_window: window.value,
        max_age,
        replicas: keys.replicas.map(|given| usize::try_from(given.value).expect("at most 5")),
    }
}
