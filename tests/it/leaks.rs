//! Secrets, signatures, headers and bodies appear in no log line of the real program at the most verbose level, in
//! no answer, metric, screen or message, and in no encoding.

use std::process::{Command, Stdio};
use std::sync::Arc;

use async_nats::ConnectOptions;

use crate::support::canaries::Canaries;
use crate::support::client::Client;
use crate::support::kafka::security::{Door, PASSWORD, USER, shared};
use crate::support::kafka::variables::variables;
use crate::support::nats::{Server, Settings};
use crate::support::request::{Request, sign};
use crate::support::served::Served;
use crate::support::unique;
use crate::support::wait::eventually_blocking;

const WEBHOOK: &str = "canary-webhook-secret-5b7e1c";
const PREVIOUS: &str = "canary-previous-secret-a94d02";
const API_KEY: &str = "canary-api-key-0c6f3e9b";
const LOGIN: &str = "canary-broker-login-77e2d1";
const BODY: &str = "canary-body-b1946ac9";
const HEADER: &str = "canary-header-2f83d6f1";

/// All log lines of every dependency.
const LOUDEST: &str = "trace,async_nats=trace,librdkafka=trace,rdkafka=trace";

/// The secrets of Attio, the bus and the bridge.
fn canaries() -> Canaries {
    let mut all: Vec<String> = [WEBHOOK, PREVIOUS, API_KEY, LOGIN, BODY, HEADER].map(str::to_owned).into();
    all.extend(requests().iter().flat_map(|request| request.headers.clone()).filter_map(|(name, value)| {
        let signature = name.to_ascii_lowercase().contains("signature");
        signature.then(|| String::from_utf8(value).unwrap())
    }));
    Canaries::new(all)
}

fn body() -> String {
    format!(
        r#"{{"webhook_id":"w","events":[{{"event_type":"task.created","id":{{"workspace_id":"w","task_id":"t"}},"text":"{BODY}"}},"{BODY}"]}}"#
    )
}

fn signed(secret: &str, body: &str) -> Request {
    Request::unsigned(body).header("Attio-Signature", sign(secret, &[body.as_bytes()]))
}

/// Good, forged and malformed requests, each with a canary.
fn requests() -> Vec<Request> {
    let (body, wrong) = (body(), sign("a secret of another source", &[body().as_bytes()]));
    vec![
        signed(WEBHOOK, &body).header("Idempotency-Key", "k1").header("Authorization", HEADER),
        signed(PREVIOUS, &body).header("Idempotency-Key", "k2").header("Cookie", HEADER),
        signed(WEBHOOK, &format!("{BODY} no JSON")).header("Idempotency-Key", "k3"),
        Request::unsigned(&body).header("Attio-Signature", wrong),
        Request::unsigned(&body).header("Attio-Signature", HEADER),
        Request::unsigned(&body).header(HEADER, "x"),
        signed(WEBHOOK, &body).header("X-Attio-Timestamp", HEADER),
        signed(WEBHOOK, &body).header("Content-Encoding", HEADER),
        signed(WEBHOOK, &body).without("Content-Type").header("Content-Type", HEADER),
        signed(WEBHOOK, &body).path(&format!("/webhooks/{HEADER}?{HEADER}={BODY}")),
        signed(WEBHOOK, &body).method(HEADER),
        signed(WEBHOOK, &body).header("Host", HEADER),
        signed(WEBHOOK, &body).header("Transfer-Encoding", HEADER),
        signed(WEBHOOK, &body).header("X-Long", HEADER.repeat(1000)),
        signed(WEBHOOK, &body).chunked(7),
    ]
}

/// Sends every request to the program, stops it, and checks its answers, metrics and log for the canaries.
async fn serve_and_check(context: &str, broker: &[(String, String)], ready: impl Fn(&Served) -> bool) {
    let mut variables = vec![
        ("ATTIO_WEBHOOK_SECRET", WEBHOOK),
        ("ATTIO_WEBHOOK_SECRET_PREVIOUS", PREVIOUS),
        ("ATTIO_API_KEY", API_KEY),
        ("RUST_LOG", LOUDEST),
        ("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "500ms"),
        ("ATTIO_BRIDGE__SHUTDOWN__DRAIN_TIMEOUT", "1s"),
    ];
    variables.extend(broker.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let mut served = Served::start(&variables);
    eventually_blocking("the broker has answered", || ready(&served));
    let mut seen = String::new();
    for request in requests() {
        let mut client = Client::connect(served.http).await;
        client.send(&request).await;
        if let Some(answer) = client.try_receive().await {
            seen += &format!("{:?}\n{}\n", answer.headers, String::from_utf8_lossy(&answer.body));
        }
    }
    // A truncated body, and a malformed chunk.
    let cut = signed(WEBHOOK, &body()).bytes();
    Client::connect(served.http).await.write(&cut[..cut.len() - 40]).await;
    let mut client = Client::connect(served.http).await;
    client
        .write(&[&signed(WEBHOOK, &body()).chunked(9).head()[..], BODY.as_bytes(), b"\r\n\r\n"].concat())
        .await;
    client.try_receive().await;
    for path in ["/metrics", "/readyz", "/livez", &format!("/{HEADER}")] {
        let mut request = Request::unsigned("").method("GET").path(path);
        request.headers.retain(|(name, _)| name == "Host");
        let answer = Client::connect(served.admin).await.ask(&request).await;
        seen += &format!("{:?}\n{}\n", answer.headers, String::from_utf8_lossy(&answer.body));
    }
    served.signal("HUP");
    eventually_blocking("it has reloaded", || !served.logged("secrets reloaded").is_empty());
    served.signal("TERM");
    served.ended();
    let log = served.log();
    let verbose =
        broker.len() == 1 || log.iter().any(|line| line.contains("DEBUG") || line.contains("TRACE"));
    assert!(verbose, "the log is at the most verbose level");
    assert!(log.iter().filter(|line| line.contains("\"delivery\"")).count() >= 10, "deliveries are logged");
    seen += &log.join("\n");
    canaries().check(context, &seen);
}

/// Checks the output of the other verbs with the same variables.
fn screens(context: &str, variables: &[(String, String)]) {
    let verbs: [&[&str]; 6] = [
        &["config"],
        &["config", "--json"],
        &["check"],
        &["check", "--connect"],
        &["check", "--connect", "--json"],
        &["serve", "--listen", "no address at all"],
    ];
    for arguments in verbs {
        let mut command = Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
        command.args(arguments).env_clear().stdin(Stdio::null());
        command.envs([
            ("ATTIO_WEBHOOK_SECRET", WEBHOOK),
            ("ATTIO_WEBHOOK_SECRET_PREVIOUS", PREVIOUS),
            ("ATTIO_API_KEY", API_KEY),
            ("RUST_LOG", LOUDEST),
        ]);
        let output = command.envs(variables.iter().cloned()).output().unwrap();
        let output_bytes = [output.stdout, output.stderr].concat();
        assert!(!output_bytes.is_empty(), "{context}: {arguments:?}");
        canaries().check(&format!("{context}: {arguments:?}"), &String::from_utf8_lossy(&output_bytes));
    }
}

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_without_a_broker() {
    let variables = owned(&[("ATTIO_BRIDGE__BUS__TYPE", "stdout")]);
    serve_and_check("stdout", &variables, |_| true).await;
    screens("stdout", &variables);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_with_a_kafka_that_rejects_the_password() {
    let secured = shared();
    for (door, mechanism) in [(Door::Sasl, "PLAIN"), (Door::SaslTls, "SCRAM-SHA-512")] {
        let variables = variables(&secured.login(door, mechanism, USER, LOGIN), &unique("leaks"));
        let refused = |served: &Served| {
            served.log().iter().any(|line| {
                line.contains("refused the login") || line.to_lowercase().contains("authentication")
            })
        };
        serve_and_check(mechanism, &variables, refused).await;
        screens(mechanism, &variables);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_with_a_kafka_that_accepts_the_password() {
    let secured = shared();
    let options = secured.login(Door::SaslTls, "SCRAM-SHA-256", USER, PASSWORD);
    let prefix = unique("leaks");
    let mut variables = variables(&options, &prefix);
    secured.broker.create_topic(&format!("{prefix}.task"), 1, &[]);
    secured.allow(USER, &format!("{prefix}.task"));
    variables.extend(owned(&[
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "off"),
        ("ATTIO_BRIDGE__KAFKA__PROPERTIES__SSL_KEY_PASSWORD", LOGIN),
    ]));
    serve_and_check("Kafka", &variables, |_| true).await;
    screens("Kafka", &variables);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_with_a_nats_that_requires_a_token() {
    let server = Server::with(Settings {
        jetstream: true,
        more: format!("authorization {{ token: \"{LOGIN}\" }}"),
        admin: Arc::new(|| ConnectOptions::new().token(LOGIN.into())),
    });
    for token in [LOGIN, BODY] {
        let variables = owned(&[
            ("ATTIO_BRIDGE__BUS__TYPE", "nats"),
            ("ATTIO_BRIDGE__NATS__SERVERS", &server.url()),
            ("ATTIO_BRIDGE__NATS__TOKEN", token),
            ("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "create"),
        ]);
        let spoken = |served: &Served| served.log().iter().any(|line| line.contains("nats"));
        serve_and_check("NATS", &variables, spoken).await;
        screens("NATS", &variables);
    }
}
