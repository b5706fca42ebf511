//! `[nats]` and `[nats.stream]`.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::{CENTURY, DAY, INSTANT, readable, tls_files};
use crate::bus::nats::{Auth, Ensure, Options, Stream};
use crate::bus::{StartError, nats};
use crate::config::diagnostics::Diagnostics;
use crate::config::kinds::{
    Boolean, Case, Choice, FilePath, Form, Integer, List, Pattern, Secret, Text, TimeSpan,
};
use crate::config::section::{Section, keys};
use crate::config::tree::Table;

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
    StreamKeys => Stream {
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
        replicas: Integer<usize>(1..=5) like "3";
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
    if used && keys.servers.as_ref().is_none_or(Vec::is_empty) {
        let message = "required for NATS: addresses of one or more servers, as in servers = \
                       [\"nats://localhost:4222\"] (also ATTIO_BRIDGE__NATS__SERVERS, comma separated)";
        diagnostics.required("nats.servers", None, message);
    }
    if used {
        readable(section, "creds_file", keys.creds_file.as_deref());
        readable(section, "nkey_file", keys.nkey_file.as_deref());
        tls_files(section, [keys.ca_file.as_deref(), keys.cert_file.as_deref(), keys.key_file.as_deref()]);
    }
    let options = Options {
        auth: auth(
            section,
            keys.creds_file,
            keys.nkey_file,
            keys.token,
            (keys.username, keys.password),
            used,
        ),
        servers: keys.servers.unwrap_or_default(),
        ca_file: keys.ca_file,
        cert_file: keys.cert_file,
        key_file: keys.key_file,
        ignore_discovered_servers: keys.ignore_discovered_servers,
        publish_timeout: keys.publish_timeout,
        stream: stream(&mut section.section("stream")),
    };
    if used && let Err(StartError::Setting { key, reason }) = nats::check(&options) {
        diagnostics.refuse(&key, reason);
    }
    options
}

/// One way to log in, or none.
fn auth(
    section: &Section<'_>,
    creds_file: Option<PathBuf>,
    nkey_file: Option<PathBuf>,
    token: Option<SecretString>,
    user: (Option<String>, Option<SecretString>),
    used: bool,
) -> Option<Auth> {
    let user = match user {
        (Some(username), Some(password)) => Some(Auth::User { username, password: password.into() }),
        (Some(_), None) => {
            section.refuse("username", "needs nats.password");
            None
        }
        (None, Some(_)) => {
            section.refuse("password", "needs nats.username");
            None
        }
        (None, None) => None,
    };
    let ways = [
        ("creds_file", creds_file.map(Auth::CredsFile)),
        ("nkey_file", nkey_file.map(Auth::NkeyFile)),
        ("token", token.map(|token| Auth::Token(token.into()))),
        ("username", user),
    ];
    let mut ways: Vec<_> = ways.into_iter().filter_map(|(name, way)| Some((name, way?))).collect();
    if let [(first, _), others @ ..] = &ways[..]
        && used
    {
        for (name, _) in others {
            let message = format!(
                "nats.{first} is set too; keep one of creds_file, nkey_file, token, username with password"
            );
            section.refuse(name, message);
        }
    }
    ways.pop().map(|(_, auth)| auth)
}

fn stream(section: &mut Section<'_>) -> Stream {
    let stream = StreamKeys::read(section);
    if !stream.max_age.is_zero() && stream.duplicate_window > stream.max_age {
        section.refuse("duplicate_window", "must not be longer than nats.stream.max_age");
    }
    stream
}
