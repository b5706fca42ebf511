//! `[nats]`.

use std::time::Duration;

use super::{CENTURY, DAY, INSTANT, readable, value};
use crate::bus::nats::options::{Auth, Ensure, Options, Stream};
use crate::bus::{StartError, nats};
use crate::config::report::{Given, Report};
use crate::config::section::Section;
use crate::config::types;

const ENSURE: [(&str, Ensure); 3] =
    [("verify", Ensure::Verify), ("off", Ensure::Off), ("create", Ensure::Create)];

/// Reads `[nats]`; `used` says whether it is the bus.
pub fn read(section: &mut Section<'_>, used: bool) -> Options {
    let report = section.report();
    let servers = value(section.optional("servers", types::list)).unwrap_or_default();
    if used && servers.is_empty() {
        let message = "required for NATS: one or more server addresses, comma separated \
                       (also ATTIO_BRIDGE__NATS__SERVERS)";
        report.problem("nats.servers", None, message);
    }
    let auth = auth(section, used);
    let ca_file = section.path_of("ca_file");
    let cert_file = section.path_of("cert_file");
    let key_file = section.path_of("key_file");
    if used {
        for file in [&ca_file, &cert_file, &key_file] {
            readable(report, file.as_ref());
        }
        match (&cert_file, &key_file) {
            (Some(cert), None) => report.refuse(cert, "needs nats.key_file, the key of the certificate"),
            (None, Some(key)) => report.refuse(key, "needs nats.cert_file, the certificate of the key"),
            _ => {}
        }
    }
    let options = Options {
        servers,
        auth,
        ca_file: value(ca_file),
        cert_file: value(cert_file),
        key_file: value(key_file),
        publish_timeout: section.duration_or("publish_timeout", "10s", INSTANT..=DAY).value,
        stream: stream(&mut section.section("stream")),
    };
    if used {
        client(report, &options);
    }
    options
}

/// Whether a client can be made of them. That a file cannot be read has been told already.
fn client(report: &Report, options: &Options) {
    if let Err(StartError::Setting { key, reason }) = nats::check(options) {
        report.problem(&key, report.origin_of(&key).as_ref(), reason);
    }
}

/// One way to say who the bridge is, or none.
fn auth(section: &mut Section<'_>, used: bool) -> Option<Auth> {
    let report = section.report();
    let creds = section.path_of("creds_file");
    let nkey = section.path_of("nkey_file");
    let token = section.secret("token");
    let username = section.text("username");
    let password = section.secret("password");
    if used {
        readable(report, creds.as_ref());
        readable(report, nkey.as_ref());
    }
    let mut ways: Vec<Given<Auth>> = Vec::new();
    ways.extend(creds.map(|given| way(given, Auth::CredsFile)));
    ways.extend(nkey.map(|given| way(given, Auth::NkeyFile)));
    ways.extend(token.map(|given| way(given, Auth::Token)));
    match (username, password) {
        (Some(username), Some(password)) => {
            ways.push(way(username, |username| Auth::User { username, password: password.value }))
        }
        (Some(username), None) => report.refuse(&username, "needs nats.password"),
        (None, Some(password)) => report.refuse(&password, "needs nats.username"),
        (None, None) => {}
    }
    if used {
        one_way(report, &ways);
    }
    ways.pop().map(|given| given.value)
}

fn way<T>(given: Given<T>, make: impl FnOnce(T) -> Auth) -> Given<Auth> {
    Given { key: given.key, value: make(given.value), origin: given.origin }
}

fn one_way(report: &Report, ways: &[Given<Auth>]) {
    if let [first, others @ ..] = ways {
        for other in others {
            let message = format!(
                "{} is given too; give one of creds_file, nkey_file, token, username with password",
                first.key
            );
            report.refuse(other, message);
        }
    }
}

fn stream(section: &mut Section<'_>) -> Stream {
    let name = section.text_or("name", "ATTIO");
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if name.value.is_empty() || name.value.len() > 255 || !name.value.bytes().all(fits) {
        section.report().refuse(&name, "expects letters, digits, _ and -");
    }
    let ensure = section.or("ensure", "verify", |node| types::choice(node, &ENSURE)).value;
    let duplicate_window = section.duration_or("duplicate_window", "2h", INSTANT..=CENTURY);
    let max_age = section.duration_or("max_age", "168h", Duration::ZERO..=CENTURY);
    if !max_age.value.is_zero() && duplicate_window.value > max_age.value {
        section.report().refuse(&duplicate_window, "must not be longer than nats.stream.max_age");
    }
    let replicas = section.whole("replicas", 1..=5);
    Stream {
        name: name.value,
        ensure,
        duplicate_window: duplicate_window.value,
        max_age: max_age.value,
        replicas: replicas.map(|given| usize::try_from(given.value).expect("at most 5")),
    }
}
