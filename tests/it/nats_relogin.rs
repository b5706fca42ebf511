//! Credentials of NATS that are replaced while the bridge serves: no restart, and no delivery lost.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::ConnectOptions;
use nkeys::KeyPair;

use crate::support::nats::bench::stream_name;
use crate::support::nats::callout::Callout;
use crate::support::nats::trust::Trust;
use crate::support::nats::{Server, Settings};
use crate::support::program::{lent, variables};
use crate::support::served::Served;
use crate::support::traffic::Traffic;
use crate::support::unique;
use crate::support::wait::{eventually, eventually_blocking};

const OLD: &str = "the-old-password";
const NEW: &str = "the-new-password";

fn admin() -> ConnectOptions {
    ConnectOptions::with_user_and_password("admin".into(), "admin".into())
}

/// The users of a server: the administrator, and one more.
fn users(more: &str) -> String {
    format!("authorization {{ users: [ {{ user: admin, password: admin }}, {more} ] }}")
}

fn server(more: String) -> Server {
    Server::with(Settings { jetstream: true, more, admin: Arc::new(admin) })
}

/// A bridge that serves, under traffic, and the stream of its events.
struct Running {
    served: Served,
    traffic: Traffic,
    stream: String,
}

impl Running {
    /// Started with these variables.
    async fn start(server: &Server, login: &[(&str, &str)]) -> Self {
        let (stream, prefix, url) = (stream_name("relogin"), unique("relogin"), server.url());
        let usual = [
            ("BUS__TYPE", "nats"),
            ("ROUTE__PREFIX", &*prefix),
            ("NATS__SERVERS", &*url),
            ("NATS__STREAM__NAME", &*stream),
            ("NATS__STREAM__ENSURE", "create"),
        ];
        let served = Served::start(&lent(&variables(&[&usual[..], login].concat())));
        eventually("it is ready", || async { served.probe("/readyz").await == 200 }).await;
        let traffic = Traffic::start(served.http);
        traffic.goes_on().await;
        Self { served, traffic, stream }
    }

    /// Ends the traffic; asserts that every 200 is in the stream, and no secret in the log.
    async fn account(self, server: &Server) {
        let accepted = self.traffic.stop().await;
        let stored: Vec<_> = server.read_all(&self.stream).iter().map(|it| it.text().to_owned()).collect();
        let is_lost = |key: &&String| !stored.iter().any(|text| text.contains(&format!("\"{key}\"")));
        let lost: Vec<_> = accepted.iter().filter(is_lost).collect();
        assert!(lost.is_empty(), "answered 200 and not stored: {lost:?}");
        let log = self.served.log();
        assert!(!log.iter().any(|line| line.contains(OLD) || line.contains(NEW)), "{log:#?}");
        assert!(self.served.logged("changed, and needs a restart").is_empty(), "{log:#?}");
    }
}

fn file(server: &Server, name: &str, text: &str) -> PathBuf {
    let path = server.folder().join(name);
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn password_and_token_are_replaced_under_traffic() {
    let user = |password: &str| users(&format!("{{ user: bridge, password: {password} }}"));
    let server = server(user(OLD));
    let path = file(&server, "password", OLD);
    let login = [("NATS__USERNAME", "bridge"), ("NATS__PASSWORD_FILE", path.to_str().unwrap())];
    let running = Running::start(&server, &login).await;
    fs::write(&path, NEW).unwrap();
    eventually_blocking("it is logged", || {
        !running.served.logged("nats: the login has changed: the next connection uses the new one").is_empty()
    });
    server.configure(|settings| settings.more = user(NEW));
    // The server ends the connections of users that it no longer knows.
    server.reload();
    running.traffic.goes_on().await;
    running.account(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nkey_is_replaced_under_traffic() {
    let (old, new) = (KeyPair::new_user(), KeyPair::new_user());
    let user = |pair: &KeyPair| users(&format!("{{ nkey: {} }}", pair.public_key()));
    let server = server(user(&old));
    let path = file(&server, "bridge.nk", &old.seed().unwrap());
    let running = Running::start(&server, &[("NATS__NKEY_FILE", path.to_str().unwrap())]).await;
    // The server is first this time: its refusals end once the file has the new seed.
    server.configure(|settings| settings.more = user(&new));
    server.reload();
    running.traffic.is_refused().await;
    fs::write(&path, new.seed().unwrap()).unwrap();
    running.traffic.goes_on().await;
    running.account(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_jwt_is_replaced_before_it_expires() {
    let trust = Trust::new();
    let credentials = trust.user();
    let admin = move || ConnectOptions::with_credentials(&credentials).unwrap();
    let server =
        Server::with(Settings { jetstream: true, more: trust.configuration(), admin: Arc::new(admin) });
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(6);
    let path = file(&server, "bridge.creds", &trust.user_until(Some(soon.as_secs())));
    let running = Running::start(&server, &[("NATS__CREDS_FILE", path.to_str().unwrap())]).await;
    fs::write(&path, trust.user()).unwrap();
    eventually("the old JWT has expired", || async {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap() > soon + Duration::from_secs(1)
    })
    .await;
    running.traffic.goes_on().await;
    let log = running.served.log();
    assert!(log.iter().any(|line| line.contains("nats: reconnected")), "{log:#?}");
    running.account(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auth_callout_decides_at_every_connection() {
    let callout = Callout::new();
    let server = server(callout.configuration());
    let responder = callout.respond(&server).await;
    responder.allow(OLD);
    let path = file(&server, "password", OLD);
    let login = [("NATS__USERNAME", "bridge"), ("NATS__PASSWORD_FILE", path.to_str().unwrap())];
    let running = Running::start(&server, &login).await;
    // The service takes another password from now on; connections stay until they are closed.
    responder.allow(NEW);
    running.traffic.goes_on().await;
    server.kill();
    running.traffic.is_refused().await;
    server.restart();
    responder.until_connected().await;
    running.traffic.is_refused().await;
    eventually_blocking("the refusal is logged", || {
        running.served.log().iter().any(|line| line.contains("authorization violation"))
    });
    fs::write(&path, NEW).unwrap();
    running.traffic.goes_on().await;
    running.account(&server).await;
}
