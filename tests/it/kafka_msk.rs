//! The login by AWS IAM: a Kafka with a validator of its own checks the tokens, and AWS's published signer makes the
//! same ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use attio_bridge::bus::kafka::Options;
use attio_bridge::bus::kafka::options::{MskIam, Source};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::check_connect::{found_with, row};
use crate::support::aws::{AUTHORIZATION, Container, SESSION, assumed, role_variables};
use crate::support::certificates::Certificates;
use crate::support::consumer::NAMES;
use crate::support::kafka::security::msk::{KEY, Msk, REGION, SECRET};
use crate::support::kafka::variables::variables;
use crate::support::ports::free_address;
use crate::support::program::lent;
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::tls;
use crate::support::traffic::Traffic;
use crate::support::unique;
use crate::support::wait::{PATIENCE, eventually};
use crate::support::watched::kit;

const BODY: &str = r#"{"event_type":"task.created","id":{"workspace_id":"w","task_id":"t"}}"#;

type Variables = Vec<(String, String)>;

/// A prefix whose topics all exist.
fn prefix(kafka: &Msk) -> String {
    let prefix = unique("msk");
    NAMES.iter().for_each(|name| kafka.broker.create_topic(&format!("{prefix}.{name}"), 1, &[]));
    prefix
}

/// The variables of a bridge that has these of AWS too. No instance answers, here or elsewhere.
fn with(options: &Options, prefix: &str, aws: &[(&str, &str)]) -> Variables {
    let own = [("AWS_EC2_METADATA_DISABLED", "true")];
    let aws = own.iter().chain(aws).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    variables(options, prefix).into_iter().chain(aws).collect()
}

fn keys<'a>(key: &'a str, secret: &'a str) -> [(&'a str, &'a str); 2] {
    [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)]
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

/// No line has a secret.
fn is_discreet(served: &Served) {
    let lines = served.log();
    let secret = |line: &&String| [SECRET, SESSION, AUTHORIZATION].iter().any(|secret| line.contains(secret));
    assert_eq!(lines.iter().find(secret), None);
}

/// Ends the traffic; asserts that every 200 is in the topic.
async fn account(traffic: Traffic, kafka: &Msk, prefix: &str) {
    let accepted = traffic.stop().await;
    let records = kafka.broker.read_all(&format!("{prefix}.task"));
    let lost: Vec<_> = accepted.iter().filter(|key| !records.iter().any(|it| it.key() == **key)).collect();
    assert!(lost.is_empty(), "answered 200 and not stored: {lost:?}");
}

/// The parts of a token: the URL up to the query, and its parameters as they are written.
fn parts(token: &str) -> (String, BTreeMap<String, String>) {
    let url = String::from_utf8(URL_SAFE_NO_PAD.decode(token).expect("base64")).expect("text");
    let (address, query) = url.split_once('?').expect("a query");
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let parameters: Vec<_> = query.split('&').map(|it| pair(it).expect("name=value")).collect();
    let (count, parameters) = (parameters.len(), BTreeMap::from_iter(parameters));
    assert_eq!(parameters.len(), count, "{url}");
    (address.to_owned(), parameters)
}

/// The token of AWS's signer for Python.
fn signed_by_aws(key: &str, session: Option<&str>, region: &str, date: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/msk/sign.py");
    let wanted = json!({ "key": key, "secret": SECRET, "session": session, "region": region, "date": date });
    let mut signer = Command::new(kit("msk/installed.txt").join("msk/python/bin/python"))
        .arg(script)
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut pipe = signer.stdin.take().expect("a pipe");
    pipe.write_all(wanted.to_string().as_bytes()).expect("it reads");
    drop(pipe);
    let output = signer.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the signer fails; its words are on standard error");
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// Asserts that a token differs from that of AWS's signer in nothing but the name of who made it.
fn equals_that_of_aws(token: &str, session: Option<&str>, region: &str) {
    let (address, mut parameters) = parts(token);
    let key = parameters["X-Amz-Credential"].split('%').next().expect("a key").to_owned();
    let (expected, mut of_aws) = parts(&signed_by_aws(&key, session, region, &parameters["X-Amz-Date"]));
    let agent = parameters.remove("User-Agent").expect("a user agent");
    assert!(agent.starts_with("attio-bridge%2F"), "{agent}");
    assert!(of_aws.remove("User-Agent").is_some());
    assert_eq!(parameters.len(), if session.is_some() { 8 } else { 7 });
    assert_eq!((address, parameters), (expected, of_aws));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_equal_those_of_the_signer_that_aws_publishes() {
    let kafka = Msk::start();
    let prefix = prefix(&kafka);
    let served = Served::start(&lent(&with(&kafka.options(), &prefix, &keys(KEY, SECRET))));
    is_ready(&served).await;
    assert_eq!(served.ask(&Request::keyed("k", BODY)).await.status_and_reason(), (200, "accepted".into()));
    let records = kafka.broker.read_all(&format!("{prefix}.task"));
    assert_eq!(records.iter().map(|record| record.key()).collect::<Vec<_>>(), ["t"]);
    is_discreet(&served);
    equals_that_of_aws(&kafka.tokens()[0], None, REGION);

    let before = kafka.tokens().len();
    let container = Container::start(3600);
    let mut options = kafka.options();
    options.oauth = Some(Source::MskIam(MskIam { region: None }));
    let mut variables = with(&options, &prefix, &[("AWS_REGION", "us-gov-west-1")]);
    variables.extend(container.variables());
    let served = Served::start(&lent(&variables));
    is_ready(&served).await;
    equals_that_of_aws(&kafka.tokens()[before], Some(SESSION), "us-gov-west-1");
    is_discreet(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_renewed_before_they_expire() {
    let kafka = Msk::start();
    let (prefix, container) = (prefix(&kafka), Container::start(20));
    let mut variables = with(&kafka.options(), &prefix, &[]);
    variables.extend(container.variables());
    let served = Served::start(&lent(&variables));
    is_ready(&served).await;
    let traffic = Traffic::start(served.http);
    let before = container.granted();
    eventually("several credentials have expired", || async { container.granted() >= before + 3 }).await;
    traffic.goes_on().await;
    assert_eq!(traffic.refused(), 0, "{:#?}", log(&served));
    assert!(kafka.tokens().len() > 2, "no client has renewed its login");
    account(traffic, &kafka, &prefix).await;
    assert!(!log(&served).iter().any(|line| line.contains("kafka: cannot")), "{:#?}", log(&served));
    is_discreet(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_of_the_credentials_may_be_away() {
    let kafka = Msk::start();
    let (prefix, container) = (prefix(&kafka), Container::start(6));
    container.leave();
    let mut variables = with(&kafka.options(), &prefix, &[]);
    variables.extend(container.variables());
    let served = Served::start(&lent(&variables));
    let no_answer = "no answer of the AWS credentials' server: 127.0.0.1:";
    is_logged(&served, &["cannot connect to a broker", no_answer, "Connection refused"]);
    assert_eq!(
        served.ask(&Request::keyed("k", BODY)).await.status_and_reason(),
        (503, "broker_unavailable".into())
    );
    let ready = served.admin("/readyz").await;
    let text = String::from_utf8_lossy(&ready.body).into_owned();
    assert!(ready.status == 503 && text.contains(no_answer), "{text}");
    container.come();
    is_ready(&served).await;

    let traffic = Traffic::start(served.http);
    traffic.goes_on().await;
    container.leave();
    is_logged(&served, &["cannot get a new token", no_answer]);
    traffic.is_refused().await;
    is_logged(&served, &["cannot connect to a broker", "there is no new token", no_answer]);
    container.come();
    traffic.goes_on().await;
    is_logged(&served, &["there is a new token"]);
    account(traffic, &kafka, &prefix).await;
    is_discreet(&served);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_within_the_time_of_a_check() {
    let kafka = Msk::start();
    let prefix = prefix(&kafka);
    let options = kafka.options();
    let rows = found_with(&with(&options, &prefix, &keys(KEY, SECRET)), 0);
    assert_eq!(row(&rows, "login"), ("ok", "OAUTHBEARER as an AWS identity"));
    assert_eq!(row(&rows, "permission to write").0, "ok");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let nobody = format!("http://{}", free_address());
    let container = Container::start(60);
    let mut strange = container.variables();
    strange[1].1 = "another-login".into();
    let mut broken = container.variables();
    broken[1].1 = format!("{AUTHORIZATION}\n");
    let instance = |url| [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)];
    let denied: &[&str] =
        &["Access denied", "does not accept these AWS credentials", "kafka-cluster:Connect"];
    let none = "there are no AWS credentials";
    let table: [(&[(&str, &str)], &[&str]); 8] = [
        (&keys("AKIDOTHER", SECRET), denied),
        (&keys(KEY, "another-secret"), denied),
        (&[], &[none, "give the bridge an IAM role"]),
        (&instance(&nobody), &[none, "Connection refused"]),
        (&instance(&silent), &[none, "no answer within 2s"]),
        (
            &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &silent)],
            &["no answer of the AWS credentials' server: 127.0.0.1", "no answer within 2s"],
        ),
        (&lent(&strange), &["cannot get AWS credentials", "403"]),
        (&lent(&broken), &["AWS_CONTAINER_AUTHORIZATION_TOKEN (or …_FILE) has a line break"]),
    ];
    for (aws, words) in table {
        let variables = with(&options, &prefix, aws);
        let rows = found_with(&variables, 3);
        let (result, detail) = row(&rows, "login");
        assert!(result == "failed" && words.iter().all(|word| detail.contains(word)), "{aws:?}: {rows:#?}");
        assert!(!detail.contains("password"), "{detail}");
        let served = Served::start(&lent(&variables));
        is_logged(&served, words);
        is_discreet(&served);
    }
    // Its credentials are old; an instance's would be used all the same.
    let old = Container::start(0);
    let mut variables = with(&options, &prefix, &[]);
    variables.extend(old.variables());
    let rows = found_with(&variables, 3);
    assert!(row(&rows, "login").1.contains("the AWS credentials have expired"), "{rows:#?}");
    let mut nowhere = kafka.options();
    nowhere.oauth = Some(Source::MskIam(MskIam { region: None }));
    let rows = found_with(&with(&nowhere, &prefix, &keys(KEY, SECRET)), 3);
    assert!(row(&rows, "login").1.contains("kafka.oauth.region: not set"), "{rows:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_a_profile_an_instance_or_a_role() {
    let (kafka, certificates) = (Msk::start(), Certificates::make());
    let (prefix, folder) = (prefix(&kafka), tempfile::tempdir().unwrap());
    let (options, token) = (kafka.options(), folder.path().join("token"));
    let profile = folder.path().join("credentials");
    let text = format!("[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n");
    fs::write(&profile, text).unwrap();
    let mut variables = with(&options, &prefix, &[]);
    variables.push(("AWS_SHARED_CREDENTIALS_FILE".into(), profile.display().to_string()));
    assert_eq!(row(&found_with(&variables, 0), "login").0, "ok");

    let container = Container::start(3600);
    let mut variables = with(&options, &prefix, &[]);
    variables.extend(container.instance_variables());
    assert_eq!(row(&found_with(&variables, 0), "login").0, "ok");

    let before = kafka.tokens().len();
    let mut variables = with(&options, &prefix, &[]);
    variables.extend(container.role_variables(&token));
    assert_eq!(row(&found_with(&variables, 0), "login").0, "ok");
    equals_that_of_aws(&kafka.tokens()[before], Some(SESSION), REGION);

    let answer = Box::leak(assumed(3600).into_boxed_str());
    let encrypted = tls::serve(&certificates.path("server.pem"), answer);
    let mut variables = with(&options, &prefix, &[]);
    variables.extend(role_variables(&token, &encrypted));
    let trust = |name: &str| ("SSL_CERT_FILE".to_owned(), certificates.path(name).display().to_string());
    variables.push(trust("ca.pem"));
    assert_eq!(row(&found_with(&variables, 0), "login").0, "ok");
    variables.push(trust("other-ca.pem"));
    let rows = found_with(&variables, 3);
    let detail = row(&rows, "login").1;
    assert!(detail.contains("invalid peer certificate") && detail.contains("SSL_CERT_FILE"), "{detail}");
}
