//! Credentials of Kafka that are replaced while the bridge serves: no restart, and no delivery lost.

use std::fs;
use std::path::Path;

use attio_bridge::bus::kafka::Options;

use crate::support::consumer::NAMES;
use crate::support::kafka::security::tokens::Tokens;
use crate::support::kafka::security::{Door, PASSWORD, SECOND_USER, Secured, USER};
use crate::support::kafka::variables::variables;
use crate::support::kafka::{Broker, Record};
use crate::support::oidc::{Oidc, SECRET};
use crate::support::program::{Variables, lent};
use crate::support::served::Served;
use crate::support::traffic::Traffic;
use crate::support::unique;
use crate::support::wait::{eventually, eventually_blocking};

const NEW_PASSWORD: &str = "the new password";

/// A prefix whose topics all exist.
fn prefix(broker: &Broker) -> String {
    let prefix = unique("relogin");
    NAMES.iter().for_each(|name| broker.create_topic(&format!("{prefix}.{name}"), 1, &[]));
    prefix
}

/// The variables of these options, with a secret taken from a file.
fn with_file(options: &Options, prefix: &str, key: &str, file: &Path) -> Variables {
    let name = format!("ATTIO_BRIDGE__KAFKA__{key}");
    let mut variables = variables(options, prefix);
    variables.retain(|(known, _)| *known != name);
    variables.push((format!("{name}_FILE"), file.display().to_string()));
    variables
}

async fn serve(variables: &Variables) -> Served {
    let served = Served::start(&lent(variables));
    eventually("it is ready", || async { served.probe("/readyz").await == 200 }).await;
    served
}

fn is_logged(served: &Served, words: &str) {
    let before = || served.log().iter().filter(|line| line.contains(words)).count();
    eventually_blocking(&format!("{words:?} is logged"), || before() > 0);
}

/// Ends the traffic; asserts that every 200 is in the topic.
async fn account(traffic: Traffic, broker: &Broker, prefix: &str) {
    let accepted = traffic.stop().await;
    let records: Vec<Record> = broker.read_all(&format!("{prefix}.task"));
    let lost: Vec<_> = accepted.iter().filter(|key| !records.iter().any(|it| it.key() == **key)).collect();
    assert!(lost.is_empty(), "answered 200 and not stored: {lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn password_is_replaced_under_traffic() {
    let secured = Secured::start();
    let prefix = prefix(&secured.broker);
    secured.allow_all(USER, &prefix);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, PASSWORD).unwrap();
    let options = secured.login(Door::SaslTls, "SCRAM-SHA-512", USER, PASSWORD);
    let served = serve(&with_file(&options, &prefix, "SASL_PASSWORD", &file)).await;
    let traffic = Traffic::start(served.http);
    traffic.goes_on().await;

    // The broker does not know it yet, so the present connection stays.
    fs::write(&file, NEW_PASSWORD).unwrap();
    is_logged(&served, "the new login does not work; the former connection stays");
    traffic.goes_on().await;
    secured.change_scram(USER, NEW_PASSWORD);
    is_logged(&served, "connected with the new login");
    traffic.goes_on().await;
    assert_eq!(traffic.refused(), 0);
    // Without a connection there is no other way in than the new password.
    secured.broker.kill();
    traffic.is_refused().await;
    secured.broker.restart();
    traffic.goes_on().await;
    account(traffic, &secured.broker, &prefix).await;
    let shown = |line: &String| line.contains(PASSWORD) || line.contains(NEW_PASSWORD);
    assert!(!served.log().iter().any(shown) && served.logged("changed, and needs a restart").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_is_replaced_under_traffic() {
    let secured = Secured::start();
    let prefix = prefix(&secured.broker);
    secured.allow_all(USER, &prefix);
    let served = serve(&variables(&secured.with_certificate(), &prefix)).await;
    let traffic = Traffic::start(served.http);
    traffic.goes_on().await;
    let install = |name: &str| {
        secured.certificates.replace("client.key", &format!("{name}.key"));
        secured.certificates.replace("client.crt", &format!("{name}.crt"));
    };
    install("expired");
    is_logged(&served, "the new login does not work; the former connection stays");
    // Another user, who is allowed nothing yet.
    install("renewed");
    is_logged(&served, "connected with the new login");
    traffic.is_refused().await;
    secured.allow_all(SECOND_USER, &prefix);
    traffic.goes_on().await;
    account(traffic, &secured.broker, &prefix).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authority_is_replaced_while_the_broker_has_a_certificate_of_the_new_one() {
    let secured = Secured::start();
    let prefix = prefix(&secured.broker);
    secured.certificates.replace("present-ca.pem", "ca.pem");
    let mut options = secured.options(Door::Foreign);
    options.ca_file = Some(secured.certificates.path("present-ca.pem"));
    let served = Served::start(&lent(&variables(&options, &prefix)));
    is_logged(&served, "its authority is unknown here");
    secured.certificates.replace("present-ca.pem", "other-ca.pem");
    eventually("it is ready", || async { served.probe("/readyz").await == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_of_the_token_server_is_replaced() {
    let server = Oidc::start(4);
    let kafka = Tokens::start(&server, 0);
    let prefix = prefix(&kafka.broker);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    fs::write(&file, SECRET).unwrap();
    let served = serve(&with_file(&kafka.options(&server), &prefix, "OAUTH__CLIENT_SECRET", &file)).await;
    let traffic = Traffic::start(served.http);
    traffic.goes_on().await;
    server.set_secret("another-secret");
    is_logged(&served, "check kafka.oauth.client_id and kafka.oauth.client_secret");
    let before = server.granted();
    fs::write(&file, "another-secret").unwrap();
    is_logged(&served, "getting a new token with it");
    eventually("there are new tokens", || async { server.granted() > before + 1 }).await;
    traffic.goes_on().await;
    account(traffic, &kafka.broker, &prefix).await;
}
