//! B8: a broker with a wrong certificate or an unresolvable name. Deliveries are answered 503, nothing is sent
//! in plaintext, and recovery needs no restart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;

use crate::support::bridge::config;
use crate::support::certificates::Certificates;
use crate::support::consumer::NAMES;
use crate::support::kafka::security::{self, Door};
use crate::support::kafka::shared as kafka;
use crate::support::nats::bench::stream_name;
use crate::support::nats::{Server, Settings, shared as nats};
use crate::support::proxy::{Proxy, Way};
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::unique;
use crate::support::wait::eventually;

/// The first byte of TLS.
const HANDSHAKE: u8 = 0x16;

fn served(variables: &[(&str, String)]) -> Served {
    let borrowed: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // Reports problems of the configuration better than a process that does not start.
    config(&borrowed);
    Served::start(&borrowed)
}

fn delivery(key: &str) -> Request {
    Request::keyed(key, r#"{"event_type":"task.created","id":{"workspace_id":"w","task_id":"t"}}"#)
}

/// Asserts that the log has the words and that deliveries are answered 503.
async fn answers_503(bridge: &Served, words: &str) {
    eventually(&format!("{words:?} is logged"), || async {
        bridge.log().iter().any(|line| line.contains(words))
    })
    .await;
    assert_eq!(
        bridge.ask(&delivery("early")).await.status_and_reason(),
        (503, "broker_unavailable".into()),
        "{words}"
    );
    assert_eq!(bridge.probe("/readyz").await, 503);
}

/// Waits until the same process accepts the delivery and is ready.
async fn recovers(bridge: &Served, what: &str) {
    eventually(&format!("{what}: the delivery is accepted"), || async {
        bridge.ask(&delivery("early")).await.status == 200
    })
    .await;
    eventually("it is ready", || async { bridge.probe("/readyz").await == 200 }).await;
}

/// Starts a bridge while the proxy leads to the wrong server, and then leads it to the good one.
async fn wrong_then_good(
    proxy: &Proxy,
    variables: &[(&str, String)],
    wrong: SocketAddr,
    good: SocketAddr,
    words: &str,
) {
    proxy.lead_to(wrong);
    let bridge = served(variables);
    answers_503(&bridge, words).await;
    proxy.lead_to(good);
    recovers(&bridge, words).await;
}

fn assert_only_tls(proxy: &Proxy) {
    let first = proxy.first_bytes(Way::ToServer);
    assert!(first.len() > 4 && first.iter().all(|byte| *byte == HANDSHAKE), "{first:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_kafka_certificate_answers_503_never_uses_plaintext_and_recovers() {
    let secured = security::shared();
    let at = |door| secured.bootstrap(door).parse::<SocketAddr>().unwrap();
    let proxy = Proxy::start(at(Door::Tls));
    let plain = secured.broker.bootstrap().parse().unwrap();
    for (wrong, words) in [
        (at(Door::Expired), "it expired on"),
        (at(Door::Elsewhere), "it is for elsewhere.test"),
        (at(Door::Foreign), "its authority is unknown here"),
        (plain, "does not use TLS"),
    ] {
        let prefix = unique("trust");
        NAMES.iter().for_each(|name| secured.broker.create_topic(&format!("{prefix}.{name}"), 1, &[]));
        let variables = [
            ("ATTIO_BRIDGE__BUS__TYPE", "kafka".into()),
            ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", proxy.addr().to_string()),
            ("ATTIO_BRIDGE__KAFKA__SECURITY_PROTOCOL", "ssl".into()),
            ("ATTIO_BRIDGE__KAFKA__CA_FILE", secured.certificates.path("ca.pem").display().to_string()),
            ("ATTIO_BRIDGE__ROUTE__PREFIX", prefix.clone()),
        ];
        wrong_then_good(&proxy, &variables, wrong, at(Door::Tls), words).await;
        assert_eq!(secured.broker.read_all(&format!("{prefix}.task")).len(), 1, "{words}");
    }
    assert_only_tls(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_nats_certificate_answers_503_never_uses_plaintext_and_recovers() {
    let certificates = Certificates::make();
    // `expired` is valid for one second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let file = |name: &str| certificates.path(name).display().to_string();
    let serving = |certificate: &str| {
        let (cert, key) = (file(&format!("{certificate}.crt")), file(&format!("{certificate}.key")));
        let (more, ca) =
            (format!("tls {{ cert_file: \"{cert}\", key_file: \"{key}\" }}"), certificates.path("ca.pem"));
        let admin = move || ConnectOptions::new().add_root_certificates(ca.clone());
        Server::with(Settings { jetstream: true, more, admin: Arc::new(admin) })
    };
    let at = |server: &Server| server.url().trim_start_matches("nats://").parse::<SocketAddr>().unwrap();
    let good = serving("server");
    let proxy = Proxy::start(at(&good));
    for (wrong, words) in [
        (serving("expired"), "expired"),
        (serving("elsewhere"), "not valid for"),
        (serving("foreign"), "UnknownIssuer"),
        (Server::start(), "seems not to use TLS"),
    ] {
        let (prefix, stream) = (unique("trust"), stream_name("trust"));
        let variables = [
            ("ATTIO_BRIDGE__BUS__TYPE", "nats".into()),
            ("ATTIO_BRIDGE__NATS__SERVERS", format!("nats://{}", proxy.addr())),
            ("ATTIO_BRIDGE__NATS__CA_FILE", file("ca.pem")),
            ("ATTIO_BRIDGE__NATS__STREAM__NAME", stream.clone()),
            ("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "create".into()),
            ("ATTIO_BRIDGE__ROUTE__PREFIX", prefix),
        ];
        wrong_then_good(&proxy, &variables, at(&wrong), at(&good), words).await;
        assert_eq!(good.read_all(&stream).len(), 1, "{words}");
    }
    assert_only_tls(&proxy);
}

/// A host name that only the `/etc/hosts` of this test may resolve.
const NAME: &str = "broker.bridge.test";

/// Starts a bridge whose broker name does not resolve, and then makes it resolve.
async fn unresolvable_then_resolvable(variables: &[(&str, String)]) {
    let borrowed: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "127.0.0.1 localhost\n").unwrap();
    let bridge = Served::with_mounted(hosts.path(), "/etc/hosts", &borrowed);
    answers_503(&bridge, NAME).await;
    std::fs::write(hosts.path(), format!("127.0.0.1 localhost {NAME}\n")).unwrap();
    recovers(&bridge, "name").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unresolvable_kafka_host_answers_503_and_recovers() {
    let broker = kafka();
    let (_, port) = broker.bootstrap().rsplit_once(':').unwrap();
    unresolvable_then_resolvable(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka".into()),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", format!("{NAME}:{port}")),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "create".into()),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", unique("named")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unresolvable_nats_host_answers_503_and_recovers() {
    let server = nats();
    let (_, port) =
        server.url().rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    unresolvable_then_resolvable(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "nats".into()),
        ("ATTIO_BRIDGE__NATS__SERVERS", format!("nats://{NAME}:{port}")),
        ("ATTIO_BRIDGE__NATS__STREAM__NAME", stream_name("named")),
        ("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "create".into()),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", unique("named")),
    ])
    .await;
}
