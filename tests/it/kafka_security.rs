//! The Kafka adapter on a broker with TLS and logins.

use attio_bridge::bus::kafka::Options;
use attio_bridge::bus::kafka::options::Ensure;
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::pipeline::publish::{Bus, BusState};

use crate::support::bus::{label, message};
use crate::support::client::Client;
use crate::support::kafka::bench::Bench;
use crate::support::kafka::security::wrong::{self, Wrong};
use crate::support::kafka::security::{
    Door, Operation, PASSWORD, SECOND_USER, Secured, Topics, USER, shared,
};
use crate::support::kafka::variables::variables;
use crate::support::program::lent;
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::unique;
use crate::support::wait::{eventually, eventually_blocking};

fn plain(secured: &Secured, password: &str) -> Options {
    secured.login(Door::Sasl, "PLAIN", USER, password)
}

fn started(options: Options, topics: &[&str]) -> Bench {
    Bench::with(options, topics, ContentMode::Structured)
}

#[test]
fn every_supported_login_publishes() {
    let secured = shared();
    let topic = secured.broker.topic("ways-in", 1);
    secured.allow(USER, &topic);
    let ways = [
        plain(&secured, PASSWORD),
        secured.login(Door::SaslTls, "PLAIN", USER, PASSWORD),
        secured.login(Door::Sasl, "SCRAM-SHA-256", USER, PASSWORD),
        secured.login(Door::SaslTls, "SCRAM-SHA-256", USER, PASSWORD),
        secured.login(Door::Sasl, "SCRAM-SHA-512", USER, PASSWORD),
        secured.login(Door::SaslTls, "SCRAM-SHA-512", USER, PASSWORD),
        secured.options(Door::Tls),
        secured.with_certificate(),
        secured.with_token(USER),
    ];
    let benches = ways.map(|options| (format!("{options:?}"), started(options, &[&topic])));
    for (way, bench) in &benches {
        eventually_blocking(&format!("up: {way}"), || bench.bus.state() == BusState::Up);
        assert_eq!(label(&bench.result(&topic)), "acknowledged", "{way}");
    }
    assert_eq!(secured.broker.read_all(&topic).len(), benches.len());
}

#[test]
fn wrong_credentials_and_certificates_fail_publishes_at_once_with_the_cause() {
    let secured = shared();
    let topic = secured.broker.topic("wrong-ways", 1);
    let ways: Vec<_> = wrong::ways(&secured)
        .into_iter()
        .map(|Wrong { options, words, .. }| (format!("{options:?}"), started(options, &[&topic]), words))
        .collect();
    for (way, bench, words) in &ways {
        eventually_blocking(&format!("{words:?} is reported: {way}"), || {
            let result = bench.publish(message(&topic, "rec-1", "{}")).now();
            let text = result.and_then(Result::err).map(|error| error.to_string()).unwrap_or_default();
            assert!(!text.contains("wrong-password"), "{text}");
            text.starts_with("broker unavailable: ") && words.iter().all(|word| text.contains(word))
        });
        assert_eq!((bench.bus.state(), bench.metrics.bus().up.get()), (BusState::Starting, 0), "{way}");
    }
    assert_eq!(secured.broker.read_all(&topic).len(), 0, "nothing was published another way");
}

#[test]
fn host_name_verification_can_be_disabled() {
    let secured = shared();
    let topic = secured.broker.topic("any-host", 1);
    let mut options = secured.options(Door::Elsewhere);
    options.properties.insert("ssl.endpoint.identification.algorithm".into(), "none".into());
    let bench = started(options, &[&topic]);
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result(&topic)), "acknowledged");
}

#[test]
fn renewed_certificates_and_passwords_need_no_restart() {
    let secured = Secured::start();
    let topic = secured.broker.topic("granted", 1);
    secured.allow(USER, &topic);
    let refused = [
        secured.options(Door::Expired),
        secured.options(Door::Elsewhere),
        secured.login(Door::Sasl, "PLAIN", USER, "the new password"),
    ];
    let benches = refused.map(|options| started(options, &[&topic]));
    for bench in &benches {
        eventually_blocking("it is refused", || {
            let result = bench.publish(message(&topic, "rec-1", "{}")).now();
            result.is_some_and(|result| label(&result) == "unavailable")
        });
    }
    secured.certificates.replace("expired.pem", "server.pem");
    secured.certificates.replace("elsewhere.pem", "server.pem");
    secured.change_password("the new password");
    secured.broker.kill();
    secured.broker.restart();
    for bench in &benches {
        bench.until(BusState::Up);
        assert_eq!(label(&bench.result(&topic)), "acknowledged");
    }
}

#[test]
fn permissions_granted_later_need_no_restart() {
    let secured = Secured::start();
    let topics = [secured.broker.topic("granted", 1), secured.broker.topic("granted", 1)];
    let mut options = plain(&secured, PASSWORD);
    options.topics.ensure = Ensure::Off;
    let bench = started(options, &[&topics[0], &topics[1]]);

    // Without any permission the client gets no producer id, which is a fatal error.
    eventually_blocking("it is refused", || label(&bench.result(&topics[0])) == "refused");
    eventually_blocking("the producer is replaced", || bench.metrics.bus().rebuilds.get() >= 1);
    assert_eq!(bench.bus.state(), BusState::Starting);
    secured.allow(USER, &topics[0]);
    eventually_blocking("the first topic heals", || label(&bench.result(&topics[0])) == "acknowledged");
    bench.until(BusState::Up);

    let rebuilds = bench.metrics.bus().rebuilds.get();
    let refused = bench.result(&topics[1]);
    assert_eq!(label(&refused), "refused", "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains(&topics[1]));
    secured.allow(USER, &topics[1]);
    eventually_blocking("the second topic heals", || label(&bench.result(&topics[1])) == "acknowledged");
    assert_eq!(
        bench.metrics.bus().rebuilds.get(),
        rebuilds,
        "a missing permission on one topic is not fatal"
    );
}

#[test]
fn ensure_verify_waits_for_permissions() {
    let secured = shared();
    let topic = secured.broker.topic("seen", 1);
    let bench = started(plain(&secured, PASSWORD), &[&topic]);
    eventually_blocking("the bus is connected", || bench.metrics.bus().up.get() == 1);
    assert_eq!(bench.bus.state(), BusState::Starting);
    secured.allow(USER, &topic);
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result(&topic)), "acknowledged");
}

#[test]
fn write_and_describe_on_the_prefix_are_sufficient() {
    let secured = shared();
    let prefix = unique("least");
    let topics = ["record", "unknown"].map(|name| format!("{prefix}.{name}"));
    topics.iter().for_each(|topic| secured.broker.create_topic(topic, 1, &[]));
    let beside = secured.broker.topic("beside", 1);
    for operation in [Operation::Write, Operation::Describe] {
        secured.grant(SECOND_USER, operation, Topics::Prefixed(&format!("{prefix}.")));
    }
    let options = secured.login(Door::SaslTls, "PLAIN", SECOND_USER, PASSWORD);
    let bench = started(options, &[&topics[0], &topics[1]]);
    bench.until(BusState::Up);
    for topic in &topics {
        assert_eq!(label(&bench.result(topic)), "acknowledged");
    }
    assert_eq!(label(&bench.result(&beside)), "refused", "nothing outside the prefix");
}

/// The program with these options, and a prefix of which one topic exists.
fn served(secured: &Secured, options: &Options) -> (Served, String) {
    let prefix = unique("served");
    secured.broker.create_topic(&format!("{prefix}.task"), 1, &[]);
    let mut variables = variables(options, &prefix);
    variables.push(("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE".into(), "off".into()));
    (Served::start(&lent(&variables)), prefix)
}

async fn ask(served: &Served) -> (u16, String) {
    let body = r#"{"event_type":"task.created","id":{"workspace_id":"w","task_id":"t"}}"#;
    served.ask(&Request::keyed("k", body)).await.status_and_reason()
}

async fn readiness(served: &Served) -> u16 {
    let mut request = Request::unsigned("").method("GET").path("/readyz");
    request.headers.retain(|(name, _)| name == "Host");
    Client::connect(served.admin).await.ask(&request).await.status
}

fn logged(served: &Served, words: &[&str]) -> bool {
    served.log().iter().any(|line| words.iter().all(|word| line.contains(word)))
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_failures_answer_503_and_are_logged_with_advice() {
    let secured = shared();
    for Wrong { options, words, .. } in wrong::ways(&secured) {
        let (served, _) = served(&secured, &options);
        eventually_blocking(&format!("{words:?} is logged"), || logged(&served, &words));
        assert_eq!(ask(&served).await, (503, "broker_unavailable".into()), "{words:?}");
        assert_eq!(readiness(&served).await, 503);
        assert!(!logged(&served, &["wrong-password"]), "{:?}", served.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_permission_is_logged_and_its_grant_needs_no_restart() {
    let secured = shared();
    let (served, prefix) = served(&secured, &secured.login(Door::SaslTls, "SCRAM-SHA-256", USER, PASSWORD));
    let topic = format!("{prefix}.task");
    eventually("it is refused", || async { ask(&served).await == (503, "broker_refused".into()) }).await;
    eventually_blocking("the log names it", || {
        logged(&served, &["not authorised", &topic, "grant Write and Describe"])
    });
    secured.allow(USER, &topic);
    eventually("it recovers", || async { ask(&served).await == (200, "accepted".into()) }).await;
    eventually("it is ready", || async { readiness(&served).await == 200 }).await;
    assert_eq!(secured.broker.read_all(&topic).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_create_permission_is_logged_and_its_grant_needs_no_restart() {
    let (secured, prefix) = (shared(), unique("uncreated"));
    let topics = format!("{prefix}.");
    for operation in [Operation::Write, Operation::Describe] {
        secured.grant(SECOND_USER, operation, Topics::Prefixed(&topics));
    }
    let mut options = secured.login(Door::SaslTls, "PLAIN", SECOND_USER, PASSWORD);
    options.topics.ensure = Ensure::Create;
    let variables = variables(&options, &prefix);
    let variables: Vec<_> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    let served = Served::start(&variables);
    eventually_blocking("the log has advice", || logged(&served, &["cannot create topics", "grant Create"]));
    assert_eq!(readiness(&served).await, 503);
    secured.grant(SECOND_USER, Operation::Create, Topics::Prefixed(&topics));
    eventually("it is ready", || async { readiness(&served).await == 200 }).await;
}
