//! Authentication and TLS of the NATS bus: every login, with right and wrong credentials.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use async_nats::ConnectOptions;
use attio_bridge::bus::nats::Options;
use attio_bridge::bus::nats::{Auth, Ensure};
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::pipeline::publish::{Bus, BusState};
use nkeys::KeyPair;

use crate::support::bus::label;
use crate::support::certificates::Certificates;
use crate::support::nats::bench::{Bench, stream_name};
use crate::support::nats::trust::Trust;
use crate::support::nats::{Server, Settings};
use crate::support::unique;
use crate::support::wait::{eventually_blocking, eventually_some};

fn secured(more: String, admin: impl Fn() -> ConnectOptions + Send + Sync + 'static) -> Server {
    Server::with(Settings { jetstream: true, more, admin: Arc::new(admin) })
}

fn bench(url: &str, change: impl FnOnce(&mut Options)) -> Bench {
    let mut options = Options::new([url]);
    options.stream.name = stream_name("secured");
    options.stream.ensure = Ensure::Create;
    change(&mut options);
    Bench::with(options, &unique("secured"), ContentMode::Structured)
}

/// Asserts that a publish with these options is acknowledged.
fn connects(url: &str, change: impl FnOnce(&mut Options)) -> Bench {
    let bench = bench(url, change).wait_for(BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
    bench
}

/// Asserts that every publish fails with this cause.
fn is_refused(url: &str, why: &str, change: impl FnOnce(&mut Options)) {
    let bench = bench(url, change);
    let text = eventually_some(&format!("{why} is reported"), || {
        let result = bench.publish(bench.message("{}")).now()?;
        assert_eq!(label(&result), "unavailable");
        result.err().map(|error| error.to_string()).filter(|text| text.contains(why))
    });
    assert!(!text.contains("wrong-secret"), "{text}");
    assert_eq!(bench.bus.state(), BusState::Starting);
}

const DENIED: &str = "authorization violation";

fn user(password: &str) -> Option<Auth> {
    Some(Auth::User { username: "bridge".into(), password: password.to_owned().into() })
}

fn file(server: &Server, name: &str, text: &str) -> PathBuf {
    let path = server.folder().join(name);
    fs::write(&path, text).expect("the file is written");
    path
}

fn seed(pair: &KeyPair) -> String {
    pair.seed().expect("a new key has its seed")
}

#[test]
fn user_and_password_login() {
    let users = "authorization { users: [ { user: bridge, password: right } ] }";
    let admin = || ConnectOptions::with_user_and_password("bridge".into(), "right".into());
    let server = secured(users.into(), admin);
    let bench = connects(&server.url(), |options| options.auth = user("right"));
    assert_eq!(bench.stored(&server).len(), 1);
    is_refused(&server.url(), DENIED, |options| options.auth = user("wrong-secret"));
    is_refused(&server.url(), DENIED, |_| {});
}

#[test]
fn token_login() {
    let admin = || ConnectOptions::with_token("right".into());
    let server = secured("authorization { token: right }".into(), admin);
    let token = |text: &str| Some(Auth::Token(text.to_owned().into()));
    connects(&server.url(), |options| options.auth = token("right"));
    is_refused(&server.url(), DENIED, |options| options.auth = token("wrong-secret"));
}

#[test]
fn renewed_nkey_file_is_read_again() {
    let (old, new) = (KeyPair::new_user(), KeyPair::new_user());
    let users = |pair: &KeyPair| format!("authorization {{ users: [ {{ nkey: {} }} ] }}", pair.public_key());
    let server = secured(users(&old), ConnectOptions::new);
    let path = file(&server, "bridge.nk", &seed(&old));
    let bench = connects(&server.url(), |options| options.auth = Some(Auth::NkeyFile(path.clone())));
    let wrong = file(&server, "wrong.nk", &seed(&new));
    is_refused(&server.url(), DENIED, |options| options.auth = Some(Auth::NkeyFile(wrong)));

    server.kill();
    server.configure(|settings| settings.more = users(&new));
    server.restart();
    eventually_blocking("the old key is refused", || {
        let result = bench.publish(bench.message("{}")).now();
        result.is_some_and(|result| result.is_err_and(|error| error.to_string().contains(DENIED)))
    });
    fs::write(&path, seed(&new)).expect("the key is renewed");
    bench.until(BusState::Up);
    eventually_blocking("the new key is accepted", || label(&bench.result()) == "acknowledged");
}

#[test]
fn jwt_credentials_file_login() {
    let (trust, untrusted) = (Trust::new(), Trust::new());
    let credentials = trust.user();
    let admin = {
        let credentials = credentials.clone();
        move || ConnectOptions::with_credentials(&credentials).expect("the credentials are good")
    };
    let server = secured(trust.configuration(), admin);
    let path = file(&server, "bridge.creds", &credentials);
    let bench = connects(&server.url(), |options| options.auth = Some(Auth::CredsFile(path)));
    assert_eq!(bench.stored(&server).len(), 1);
    let path = file(&server, "untrusted.creds", &untrusted.user());
    is_refused(&server.url(), DENIED, |options| options.auth = Some(Auth::CredsFile(path)));
}

fn tls(certificates: &Certificates, certificate: &str, verify: bool) -> String {
    let path = |name: &str| certificates.path(name).display().to_string();
    format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: {verify} }}",
        path(&format!("{certificate}.crt")),
        path(&format!("{certificate}.key")),
        path("ca.pem"),
    )
}

#[test]
fn tls_server_certificate_is_verified() {
    let certificates = Certificates::make();
    let (ca, other_ca) = (certificates.path("ca.pem"), certificates.path("other-ca.pem"));
    let admin = {
        let ca = ca.clone();
        move || ConnectOptions::new().add_root_certificates(ca.clone())
    };
    let server = secured(tls(&certificates, "server", false), admin);
    let bench = connects(&server.url(), |options| options.ca_file = Some(ca.clone()));
    assert_eq!(bench.stored(&server).len(), 1);
    is_refused(&server.url(), "UnknownIssuer", |options| options.ca_file = Some(other_ca));
    let elsewhere = secured(tls(&certificates, "elsewhere", false), ConnectOptions::new);
    is_refused(&elsewhere.url(), "not valid for", |options| options.ca_file = Some(ca.clone()));
    // With `nats.ca_file`, the client never uses plaintext.
    let plain = Server::start();
    is_refused(&plain.url(), "", |options| options.ca_file = Some(ca));
}

#[test]
fn tls_client_certificate_login() {
    let certificates = Certificates::make();
    let path = |name: &str| Some(certificates.path(name));
    let (ca, cert, key) =
        (certificates.path("ca.pem"), certificates.path("client.crt"), certificates.path("client.key"));
    let admin = move || {
        ConnectOptions::new()
            .add_root_certificates(ca.clone())
            .add_client_certificate(cert.clone(), key.clone())
    };
    let server = secured(tls(&certificates, "server", true), admin);
    let bench = connects(&server.url(), |options| {
        options.ca_file = path("ca.pem");
        options.cert_file = path("client.crt");
        options.key_file = path("client.key");
    });
    assert_eq!(bench.stored(&server).len(), 1);
    is_refused(&server.url(), "ertificate", |options| options.ca_file = path("ca.pem"));
}
