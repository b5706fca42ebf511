//! Replicas as processes on a real Kafka: sharing Redis, and sharing nothing.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::client::Client;
use crate::support::kafka::{Broker, shared};
use crate::support::program::lent;
use crate::support::proxy::{Flow, Way};
use crate::support::real_bus;
use crate::support::redis::{self, Redis};
use crate::support::replicas::{event, until_acknowledged};
use crate::support::served::Served;
use crate::support::shared_store::SharedStore;
use crate::support::wait::eventually;
use crate::support::{stress, unique};

const ACCEPTED: (u16, &str) = (200, "accepted");
const DUPLICATE: (u16, &str) = (200, "duplicate");
/// Nothing is published without the store, also where this machine stands still for longer than its deadline.
const REFUSE: (&str, &str) = ("ATTIO_BRIDGE__DEDUP__ON_STORE_FAILURE", "refuse");
/// The machine may be busy.
const PATIENT: (&str, &str) = ("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "20s");

/// A process onto topics with this prefix, ready, with what they share.
async fn replica(
    broker: &Broker,
    prefix: &str,
    store: Option<&SharedStore>,
    more: &[(&str, &str)],
) -> Served {
    let bus = real_bus::kafka(broker, prefix, "structured");
    let own = store.map(SharedStore::variables).unwrap_or_default();
    let mut variables = lent(&bus);
    variables.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
    variables.extend_from_slice(more);
    let replica = Served::start(&variables);
    eventually("it is ready, and shares", || async {
        replica.probe("/readyz").await == 200 && replica.metrics().await.get("dedup_store_up", &[]) == 1.0
    })
    .await;
    replica
}

async fn three(
    broker: &Broker,
    prefix: &str,
    store: Option<&SharedStore>,
    more: &[(&str, &str)],
) -> Vec<Served> {
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(replica(broker, prefix, store, more).await);
    }
    replicas
}

async fn answer(replica: &Served, id: &str) -> (u16, String) {
    replica.ask(&event(id)).await.status_and_reason()
}

async fn expect(replica: &Served, id: &str, (status, reason): (u16, &str)) {
    assert_eq!(answer(replica, id).await, (status, reason.to_owned()), "{id}");
}

/// The number of copies in the topic by the key of the delivery.
fn copies(broker: &Broker, prefix: &str) -> BTreeMap<String, usize> {
    broker.read_all(&format!("{prefix}.task")).iter().fold(BTreeMap::new(), |mut copies, record| {
        let event: Value = serde_json::from_str(record.value()).unwrap();
        *copies.entry(event["correlationid"].as_str().unwrap().to_owned()).or_default() += 1;
        copies
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn sharing_a_store_they_publish_ids_that_all_get_at_the_same_moment_once() {
    let (broker, prefix) = (shared(), unique("at-once"));
    let store = SharedStore::Redis(Redis::start(redis::Kind::Redis));
    let replicas = three(&broker, &prefix, Some(&store), &[REFUSE]).await;
    let (ids, mut senders) = (stress(300, 10_000), JoinSet::new());
    for lane in 0..8 {
        let mut clients = join_all(replicas.iter().map(|replica| Client::connect(replica.http))).await;
        senders.spawn(async move {
            for id in (lane..ids).step_by(8) {
                let request = event(&format!("id-{id}"));
                // Another one is the first each time.
                clients.rotate_left(1);
                let answers = clients.iter_mut().map(|client| until_acknowledged(client, &request));
                let answers = join_all(answers).await;
                let accepted = answers.iter().filter(|reason| *reason == ACCEPTED.1).count();
                assert!(accepted <= 1, "id-{id} was published by {accepted}");
            }
        });
    }
    senders.join_all().await;
    let copies = copies(&broker, &prefix);
    assert_eq!(copies.len(), ids);
    assert!(copies.values().all(|copies| *copies == 1), "some are stored twice: {copies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_that_is_frozen_beyond_its_lease_had_in_flight_is_published_again() {
    let (broker, prefix) = (Broker::start(), unique("frozen"));
    let store = SharedStore::Redis(Redis::start(redis::Kind::Redis));
    let soon = ("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "1s");
    let frozen = replica(&broker, &prefix, Some(&store), &[PATIENT]).await;
    let other = replica(&broker, &prefix, Some(&store), &[soon]).await;
    expect(&frozen, "before", ACCEPTED).await;
    eventually("both share it", || async { answer(&other, "before").await.0 == 200 }).await;
    let mut client = Client::connect(frozen.http).await;
    broker.pause();
    client.send(&event("one")).await;
    eventually("it is claimed, and in flight", || async {
        frozen.metrics().await.sum("publish_in_flight", &[]) == 1.0
    })
    .await;
    frozen.signal("STOP");
    broker.resume();
    assert_eq!(answer(&other, "one").await.0, 503, "it is claimed");
    // The lease is half a minute longer than a publish may take: its end.
    let SharedStore::Redis(redis) = &store else { unreachable!() };
    let keys: Vec<String> = redis.run(&["KEYS", "attio-bridge:*"]);
    let is_claim = |key: &&String| redis.run::<String>(&["GET", key]).starts_with("L:");
    let claims: Vec<_> = keys.iter().filter(is_claim).collect();
    assert_eq!(claims.len(), 1);
    redis.run::<()>(&["PEXPIRE", claims[0], "1"]);
    eventually("the other one publishes it", || async { answer(&other, "one").await.0 == 200 }).await;
    frozen.signal("CONT");
    assert!([200, 503].contains(&client.receive().await.status));
    eventually("both know it", || async {
        answer(&frozen, "one").await.1 == DUPLICATE.1 && answer(&other, "one").await.1 == DUPLICATE.1
    })
    .await;
    let expected = [("before", 1), ("one", 2)].map(|(id, copies)| (id.to_owned(), copies));
    assert_eq!(copies(&broker, &prefix), BTreeMap::from(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_stored_without_an_ack_in_time_is_published_again() {
    let ((broker, proxy), prefix) = (Broker::start_behind_a_proxy(), unique("late"));
    let store = SharedStore::Redis(Redis::start(redis::Kind::Redis));
    let bootstrap = proxy.addr().to_string();
    let through_the_proxy = [
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", bootstrap.as_str()),
        ("ATTIO_BRIDGE__KAFKA__PUBLISH_TIMEOUT", "6s"),
        PATIENT,
    ];
    let first = replica(&broker, &prefix, Some(&store), &through_the_proxy).await;
    let other = replica(&broker, &prefix, Some(&store), &through_the_proxy).await;
    expect(&first, "before", ACCEPTED).await;
    proxy.set(Way::ToClient, Flow::Stall);
    assert_eq!(answer(&first, "one").await.0, 503);
    eventually("its claim is released", || async {
        first.metrics().await.get("dedup_store_requests_total", &[("result", "released")]) == 1.0
    })
    .await;
    let expected = |of_one| [("before", 1), ("one", of_one)].map(|(id, copies)| (id.to_owned(), copies));
    assert_eq!(copies(&broker, &prefix), BTreeMap::from(expected(1)));
    proxy.reset();
    proxy.pass();
    eventually("the retry is published", || async { answer(&other, "one").await.0 == 200 }).await;
    assert_eq!(copies(&broker, &prefix), BTreeMap::from(expected(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sharing_nothing_they_publish_repeats_at_another_one_again_and_lose_nothing() {
    let (broker, prefix) = (shared(), unique("alone"));
    let mut replicas = three(&broker, &prefix, None, &[PATIENT]).await;
    let mut expected = BTreeMap::new();
    for number in 0..30 {
        let (id, first, reached) = (format!("id-{number}"), number / 3, number % 3 + 1);
        for replica in (first..first + reached).map(|at| &replicas[at % 3]) {
            expect(replica, &id, ACCEPTED).await;
            expect(replica, &id, DUPLICATE).await;
        }
        expected.insert(id, reached);
    }
    assert_eq!(copies(&broker, &prefix), expected);
    // One that is killed forgets.
    replicas[0].signal("KILL");
    replicas[0] = replica(&broker, &prefix, None, &[PATIENT]).await;
    expect(&replicas[0], "id-0", ACCEPTED).await;
    expect(&replicas[0], "id-0", DUPLICATE).await;
    expected.insert("id-0".into(), 2);
    assert_eq!(copies(&broker, &prefix), expected);
}
