//! Broker failures as the sender sees them: B1 (killed), B3 (retriable errors), B4 (permanent errors).

use std::sync::Arc;
use std::time::{Duration, Instant};

use attio_bridge::pipeline::publish::Bus;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::network::{check, flows, load};
use crate::support::bridge::{Bridge, config};
use crate::support::client::Client;
use crate::support::consumer::{Found, NAMES};
use crate::support::kafka::{Broker, shared};
use crate::support::load::{check_bus, ready, send_and_check, until_accepted};
use crate::support::mix::{Mix, Planned};
use crate::support::network::{ProxiedBroker, ProxiedKafka, ProxiedNats};
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::wait::eventually;
use crate::support::{full_tier, unique};

/// Asserts that so many deliveries are refused because of the client's own state: none waits for the answer
/// timeout, which would answer `broker_timeout`.
async fn assert_unavailable(bridge: &Bridge<dyn Bus>, count: usize) {
    let mut client = bridge.connect().await;
    for n in 0..count {
        let body = r#"{"event_type":"task.created","id":{"task_id":"t"}}"#;
        let answer = client.ask(&Request::keyed(&format!("while-down-{n}"), body)).await;
        assert_eq!(answer.status_and_reason(), (503, "broker_unavailable".into()));
        assert!(answer.header("retry-after").is_some());
    }
}

/// B1: killed under load, again and again.
async fn killed_broker_answers_broker_unavailable_until_it_is_back<B: ProxiedBroker>() {
    let broker = B::new();
    let (bridge, mut mix) = (broker.bridge(&[]).await, Mix::new(broker.prefix(), 51));
    let kills = if full_tier() { 20 } else { 2 };
    let load = load(&mut mix, 600 * (kills + 1), &bridge);
    let mut random = fastrand::Rng::with_seed(51);
    for kill in 1..=kills {
        flows(&load, 500).await;
        broker.kill();
        let gone = Instant::now();
        eventually("the loss is noticed", || async { bridge.metrics().await.sum("bus_up", &[]) == 0.0 })
            .await;
        let noticed = gone.elapsed();
        assert_unavailable(&bridge, 200).await;
        assert_eq!(bridge.admin("/readyz").await.status, 200, "readiness does not follow the broker");
        let down = if full_tier() { random.u64(2000..10_000) } else { 1000 };
        tokio::time::sleep(Duration::from_millis(down).saturating_sub(gone.elapsed())).await;
        broker.restart();
        let (back, accepted) = (Instant::now(), load.accepted());
        eventually("deliveries are accepted again", || async { load.accepted() > accepted }).await;
        let recovered = back.elapsed();
        println!("kill {kill}: noticed after {noticed:?}, first ack {recovered:?} after the restart");
    }
    let retried = load.finish().await;
    check(&broker, &mix, &retried);
    assert!(bridge.metrics().await.balances());
}

mod kafka {
    #[tokio::test(flavor = "multi_thread")]
    async fn killed_broker_answers_broker_unavailable_until_it_is_back() {
        super::killed_broker_answers_broker_unavailable_until_it_is_back::<super::ProxiedKafka>().await;
    }
}

mod nats {
    #[tokio::test(flavor = "multi_thread")]
    async fn killed_broker_answers_broker_unavailable_until_it_is_back() {
        super::killed_broker_answers_broker_unavailable_until_it_is_back::<super::ProxiedNats>().await;
    }
}

/// librdkafka's mock cluster, which returns the errors it is given.
struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
    prefix: String,
}

impl Mock {
    fn new() -> Self {
        let (cluster, prefix) = (MockCluster::new(1).unwrap(), unique("mock"));
        NAMES.iter().for_each(|name| cluster.create_topic(&format!("{prefix}.{name}"), 1, 1).unwrap());
        Self { cluster, prefix }
    }

    async fn bridge(&self) -> Bridge<dyn Bus> {
        let bridge = Bridge::serving(config(&[
            ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
            ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", &self.cluster.bootstrap_servers()),
            ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "off"),
            ("ATTIO_BRIDGE__ROUTE__PREFIX", &self.prefix),
        ]))
        .await;
        ready(&bridge).await;
        bridge
    }

    /// Scripts its answers to the next publishes.
    fn fail_with(&self, errors: &[RDKafkaRespErr]) {
        self.cluster.request_errors(RDKafkaApiKey::Produce, errors);
    }

    fn found(&self) -> Found {
        Found::on(&Broker::at(self.cluster.bootstrap_servers()), &self.prefix)
    }
}

/// B3: errors of a broker that will accept the message later.
const NOT_NOW: [RDKafkaRespErr; 6] = [
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
];

#[tokio::test(flavor = "multi_thread")]
async fn retriable_broker_errors_are_retried_before_the_200() {
    let (mock, rounds) = (Mock::new(), if full_tier() { 250 } else { 8 });
    let (bridge, mut mix) = (mock.bridge().await, Mix::new(&mock.prefix, 53));
    for code in NOT_NOW {
        let begun = Instant::now();
        for _ in 0..rounds {
            mock.fail_with(&[code]);
            // One at a time: the mock ignores sequence numbers and accepts a later batch before the one it
            // has just refused, which no real broker does. The client would infer the ack of both.
            let planned: Arc<[Planned]> = [mix.single()].into();
            // Answered 200 at the first attempt.
            send_and_check(&planned, 1, bridge.http).await;
        }
        println!("{code:?}: {rounds} times, {:?} each", begun.elapsed() / rounds);
    }
    check_bus(&mix.ledger, &mock.found());
    assert!(bridge.metrics().await.balances());
}

/// B4: errors of a broker that will never accept the message.
const NEVER: [RDKafkaRespErr; 3] = [
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE,
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD,
];

#[tokio::test(flavor = "multi_thread")]
async fn permanent_broker_errors_quarantine_the_event_before_the_200() {
    let mock = Mock::new();
    let bridge = mock.bridge().await;
    for (n, code) in NEVER.into_iter().enumerate() {
        let body = format!(r#"{{"event_type":"task.created","id":{{"workspace_id":"w","task_id":"t{n}"}}}}"#);
        let request = Request::keyed(&format!("never-{n}"), &body);
        // In a batch, by itself, and then quarantine, which refuses at first.
        mock.fail_with(&[code, code, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
        assert_eq!(
            bridge.ask(&request).await.status_and_reason(),
            (503, "broker_refused".into()),
            "{code:?}"
        );
        assert_eq!(mock.found().quarantine.len(), n, "{code:?}");
        eventually("quarantine accepts it", || async {
            mock.fail_with(&[code, code]);
            let answer = bridge.ask(&request).await;
            mock.cluster.clear_request_errors(RDKafkaApiKey::Produce);
            answer.status == 200
        })
        .await;
        let quarantine = mock.found().quarantine;
        assert_eq!(quarantine.len(), n + 1, "{code:?}: stored before the 200");
        assert!(quarantine.contains(&body.into_bytes()), "{code:?}: byte for byte");
    }
    assert!(mock.found().events.is_empty());
    assert!(bridge.metrics().await.balances());
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_quarantine_topic_answers_503_until_it_is_created() {
    let (broker, prefix) = (shared(), unique("no-quarantine"));
    broker.create_topic(&format!("{prefix}.task"), 1, &[("max.message.bytes", "2000")]);
    let bridge = Bridge::serving(config(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap()),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "off"),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", &prefix),
    ]))
    .await;
    ready(&bridge).await;
    let long = "x".repeat(4000);
    let too_large = format!(r#"{{"event_type":"task.created","id":{{"task_id":"t"}},"x":"{long}"}}"#);
    let bodies = [too_large, "this is no JSON".to_owned()];
    let ask = async |body: &String| bridge.ask(&Request::keyed(&body[..10], body)).await.status_and_reason();
    for body in &bodies {
        assert_eq!(ask(body).await, (503, "broker_refused".into()), "{body}");
    }
    let quarantine = format!("{prefix}.quarantine");
    broker.create_topic(&quarantine, 1, &[]);
    for (n, body) in bodies.iter().enumerate() {
        eventually("it is quarantined", || async { ask(body).await == (200, "quarantined".into()) }).await;
        let stored = broker.read_all(&quarantine);
        assert_eq!(stored.len(), n + 1);
        let envelope: serde_json::Value = serde_json::from_str(stored[n].value()).unwrap();
        assert_eq!(STANDARD.decode(envelope["data_base64"].as_str().unwrap()).unwrap(), body.as_bytes());
    }
}

/// In base64 it is larger than the 8 MiB that the client accepts with the default `http.max_body_bytes`.
#[tokio::test(flavor = "multi_thread")]
async fn quarantined_body_of_7_mib_fits_the_client_where_max_body_bytes_allows_it() {
    const LIMIT: &str = "33554432";
    let (broker, prefix) = (shared(), unique("large-body"));
    let quarantine = format!("{prefix}.quarantine");
    broker.create_topic(&quarantine, 1, &[("max.message.bytes", LIMIT)]);
    let bridge = Bridge::serving(config(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap()),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "off"),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", &prefix),
        ("ATTIO_BRIDGE__HTTP__MAX_BODY_BYTES", "16777216"),
        ("ATTIO_BRIDGE__HTTP__BODY_TIMEOUT", "60s"),
        ("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "60s"),
    ]))
    .await;
    ready(&bridge).await;
    let body = "not JSON ".repeat(7 * 1024 * 1024 / 9);
    let request = Request::keyed("large-body", &body);
    eventually("it is quarantined", || async {
        let answer = bridge.ask(&request).await.status_and_reason();
        assert_ne!(answer, (503, "broker_refused".into()));
        answer == (200, "quarantined".into())
    })
    .await;
    let stored = broker.read_all(&quarantine);
    assert_eq!(stored.len(), 1);
    let envelope: serde_json::Value = serde_json::from_str(stored[0].value()).unwrap();
    assert_eq!(STANDARD.decode(envelope["data_base64"].as_str().unwrap()).unwrap(), body.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn leaderless_partition_is_logged_once_and_keeps_the_bridge_unready() {
    let mock = Mock::new();
    let topic = format!("{}.headless", mock.prefix);
    mock.cluster.create_topic(&topic, 3, 1).unwrap();
    mock.cluster.partition_leader(&topic, 1, None).unwrap();
    let served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", &mock.cluster.bootstrap_servers()),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", &mock.prefix),
        ("ATTIO_BRIDGE__ROUTE__CATEGORIES__NOTE", &topic),
    ]);
    let named = format!("{topic} (partition 1)");
    eventually("/readyz names the partition", || async {
        let answer = served.admin("/readyz").await;
        answer.status == 503 && String::from_utf8_lossy(&answer.body).contains(&named)
    })
    .await;
    // The topics are checked every second.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let logged: Vec<_> = served.log().into_iter().filter(|line| line.contains(&named)).collect();
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains("no leader") && logged[0].contains("WARN"), "{logged:?}");

    mock.cluster.partition_leader(&topic, 1, Some(1)).unwrap();
    eventually("the bridge is ready", || async { served.probe("/readyz").await == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_kafka_does_not_flood_the_log() {
    let broker = Broker::start();
    let prefix = unique("frozen");
    let served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap()),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "create"),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", &prefix),
        ("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "1s"),
    ]);
    eventually("the bridge is ready", || async { served.probe("/readyz").await == 200 }).await;
    let mut mix = Mix::new(&prefix, 91);
    let mut client = Client::connect(served.http).await;
    until_accepted(&mut client, served.http, &mix.single().request).await;
    broker.pause();
    for _ in 0..20 {
        served.ask(&mix.single().request).await;
    }
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for line in served.log().iter().filter(|line| line.contains("librdkafka: ")) {
        *kinds
            .entry(line.split("facility").nth(1).unwrap_or_default().chars().take(20).collect())
            .or_default() += 1;
    }
    assert!(kinds.values().all(|count| *count <= 2), "{kinds:?}");
    broker.resume();
}
