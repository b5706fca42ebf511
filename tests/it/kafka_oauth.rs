//! The login by tokens of an OpenID provider: Kafka's own validator checks them.

use std::time::{Duration, Instant};

use attio_bridge::bus::kafka::Options;
use attio_bridge::bus::kafka::options::{Oidc as Login, Source};

use crate::check_connect::{found, row};
use crate::support::certificates::Certificates;
use crate::support::consumer::NAMES;
use crate::support::kafka::security::tokens::Tokens;
use crate::support::kafka::variables::variables;
use crate::support::oidc::{CLIENT, Oidc, SECRET};
use crate::support::program::{lent, lines, printed};
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::traffic::Traffic;
use crate::support::unique;
use crate::support::wait::{PATIENCE, eventually};

fn login(options: &mut Options) -> &mut Login {
    match &mut options.oauth {
        Some(Source::Oidc(login)) => login,
        other => panic!("it logs in with {other:?}"),
    }
}

/// No client has to renew its login.
const LASTING: u32 = 0;

/// A prefix whose topics all exist.
fn prefix(kafka: &Tokens) -> String {
    let prefix = unique("tokens");
    NAMES.iter().for_each(|name| kafka.broker.create_topic(&format!("{prefix}.{name}"), 1, &[]));
    prefix
}

fn serve(options: &Options, prefix: &str) -> Served {
    Served::start(&lent(&variables(options, prefix)))
}

async fn is_ready(served: &Served) {
    eventually("it is ready", || async { served.probe("/readyz").await == 200 }).await;
}

/// Its log without the deliveries.
fn log(served: &Served) -> Vec<String> {
    served.log().into_iter().filter(|line| !line.contains("\"message\":\"delivery\"")).collect()
}

fn is_logged(served: &Served, words: &[&str]) {
    let has_line = || log(served).iter().any(|line| words.iter().all(|word| line.contains(word)));
    let deadline = Instant::now() + PATIENCE;
    while !has_line() {
        assert!(Instant::now() < deadline, "{words:?} is not logged: {:#?}", log(served));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the traffic; asserts that every 200 is in the topic.
async fn account(traffic: Traffic, kafka: &Tokens, prefix: &str) {
    let accepted = traffic.stop().await;
    let records = kafka.broker.read_all(&format!("{prefix}.task"));
    let lost: Vec<_> = accepted.iter().filter(|key| !records.iter().any(|it| it.key() == **key)).collect();
    assert!(lost.is_empty(), "answered 200 and not stored: {lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn login_is_renewed_before_its_token_expires() {
    let server = Oidc::start(10);
    // Kafka ends a login with its token.
    let kafka = Tokens::start(&server, 3_600_000);
    let prefix = prefix(&kafka);
    let served = serve(&kafka.options(&server), &prefix);
    is_ready(&served).await;
    let traffic = Traffic::start(served.http);
    let before = server.granted();
    eventually("several tokens have expired", || async { server.granted() >= before + 3 }).await;
    traffic.goes_on().await;
    assert_eq!(traffic.refused(), 0, "{:#?}", log(&served));
    account(traffic, &kafka, &prefix).await;
    assert!(!log(&served).iter().any(|line| line.contains("kafka: cannot") || line.contains(SECRET)));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_server_may_be_down_at_the_start() {
    let server = Oidc::start(60);
    let kafka = Tokens::start(&server, LASTING);
    let prefix = prefix(&kafka);
    server.kill();
    let served = serve(&kafka.options(&server), &prefix);
    let delivery =
        Request::keyed("k", r#"{"event_type":"task.created","id":{"workspace_id":"w","task_id":"t"}}"#);
    is_logged(&served, &["kafka.oauth.token_url: no answer of the token server"]);
    assert_eq!(served.ask(&delivery).await.status_and_reason(), (503, "broker_unavailable".into()));
    let ready = served.admin("/readyz").await;
    let text = String::from_utf8_lossy(&ready.body).into_owned();
    assert!(
        ready.status == 503 && text.contains("kafka.oauth.token_url: no answer of the token server"),
        "{text}"
    );
    server.restart();
    is_ready(&served).await;
    assert_eq!(served.ask(&delivery).await.status_and_reason(), (200, "accepted".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_server_may_be_down_for_longer_than_a_token_lasts() {
    let server = Oidc::start(4);
    let kafka = Tokens::start(&server, 3_600_000);
    let prefix = prefix(&kafka);
    let served = serve(&kafka.options(&server), &prefix);
    is_ready(&served).await;
    let traffic = Traffic::start(served.http);
    traffic.goes_on().await;
    server.kill();
    is_logged(&served, &["cannot get a new token", "kafka.oauth.token_url: no answer of the token server"]);
    traffic.is_refused().await;
    is_logged(&served, &["cannot connect to a broker", "there is no new token", "kafka.oauth.token_url"]);
    server.restart();
    traffic.goes_on().await;
    is_logged(&served, &["there is a new token"]);
    account(traffic, &kafka, &prefix).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_logs_in_by_token() {
    let server = Oidc::start(60);
    let kafka = Tokens::start(&server, LASTING);
    let prefix = prefix(&kafka);
    let options = kafka.options(&server);
    let rows = found(&options, &prefix, 0);
    assert_eq!(row(&rows, "login"), ("ok", &*format!("OAUTHBEARER as {CLIENT}")));
    assert_eq!(row(&rows, "permission to write").0, "ok");
    let durability = |row: &(String, String, String)| row.2.contains("cannot be read with a token");
    assert!(rows.iter().any(durability), "{rows:#?}");

    let served = serve(&options, &prefix);
    is_ready(&served).await;
    let body = r#"{"event_type":"task.created","id":{"workspace_id":"w","task_id":"t"}}"#;
    assert_eq!(served.ask(&Request::keyed("k", body)).await.status, 200);
    let variables = variables(&options, &prefix);
    let tailed = lines(&printed(&["tail", "--from", "beginning", "--count", "1", "--json"], &variables));
    assert_eq!(tailed.len(), 1, "{tailed:?}");
    printed(&["quarantine", "list"], &variables);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_secrets_paths_and_certificates_are_named() {
    let certificates = Certificates::make();
    let (server, encrypted) = (Oidc::start(60), Oidc::start_with_tls(&certificates));
    let kafka = Tokens::start(&server, LASTING);
    let prefix = prefix(&kafka);
    let wrong = |change: fn(&mut Options)| {
        let mut options = kafka.options(&server);
        change(&mut options);
        options
    };
    let secret = wrong(|options| {
        login(options).client_secret = "wrong-secret".to_owned().into();
    });
    let path = wrong(|options| login(options).token_url += "/elsewhere");
    let mut strange = kafka.options(&encrypted);
    login(&mut strange).ca_file = Some(certificates.path("other-ca.pem"));
    let table = [
        (secret, ["401 (invalid_client", "check kafka.oauth.client_id and kafka.oauth.client_secret"]),
        (path, ["answers 404", "check kafka.oauth.token_url"]),
        (strange, ["invalid peer certificate", "kafka.oauth.ca_file"]),
    ];
    for (options, words) in table {
        let rows = found(&options, &prefix, 3);
        let (result, detail) = row(&rows, "login");
        assert!(result == "failed" && words.iter().all(|word| detail.contains(word)), "{words:?}: {rows:#?}");
        let served = serve(&options, &prefix);
        is_logged(&served, &words);
        assert!(!served.log().iter().any(|line| line.contains("wrong-secret")), "{:#?}", served.log());
    }
    // The token is that of another issuer, which Kafka refuses.
    let mut trusted = kafka.options(&encrypted);
    login(&mut trusted).ca_file = Some(certificates.path("ca.pem"));
    let rows = found(&trusted, &prefix, 3);
    assert!(row(&rows, "login").1.contains("the broker does not accept the token"), "{rows:#?}");
}
