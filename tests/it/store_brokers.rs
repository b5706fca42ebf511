//! The store outlives the brokers: what others have acknowledged, or these have lost, does not count.

use std::collections::BTreeSet;
use std::time::Duration;

use attio_bridge::pipeline::publish::Bus;

use crate::support::bridge::{Bridge, config};
use crate::support::kafka::{self, Broker, shared};
use crate::support::load::ready;
use crate::support::memory::Memory;
use crate::support::nats::Server;
use crate::support::program::{Variables, lent};
use crate::support::real_bus;
use crate::support::redis;
use crate::support::replicas::{Replicas, event, until};
use crate::support::request::Request;
use crate::support::shared_store::{Kind, SharedStore};
use crate::support::unique;
use crate::support::wait::eventually;

const ACCEPTED: (u16, &str) = (200, "accepted");
const DUPLICATE: (u16, &str) = (200, "duplicate");
const REFUSE: (&str, &str) = ("ATTIO_BRIDGE__DEDUP__ON_STORE_FAILURE", "refuse");

/// A bridge onto a real bus with a store; it is ready, and shares.
async fn bridge(bus: &Variables, store: &SharedStore) -> Bridge<dyn Bus> {
    let (own, bus) = (store.variables(), lent(bus));
    let all = bus.into_iter().chain(own.iter().map(|(name, value)| (*name, value.as_str())));
    let bridge = Bridge::serving(config(&all.collect::<Vec<_>>())).await;
    ready(&bridge).await;
    bridge.until("dedup_store_up", &[], 1.0).await;
    bridge
}

/// Sends the same delivery before and after the data of the brokers is replaced, so often, while no bridge runs.
async fn replaced_while_down(
    bus: &Variables,
    store: &SharedStore,
    times: usize,
    replace: impl AsyncFn(usize),
) {
    let expect = async |answer: (u16, &str), why: &str| {
        let bridge = bridge(bus, store).await;
        assert_eq!(bridge.answer(&event("one")).await, answer, "{why}");
        bridge.stop().await.unwrap();
    };
    expect(ACCEPTED, "it is new").await;
    expect(DUPLICATE, "the store remembers it").await;
    for time in 0..times {
        replace(time).await;
        expect(ACCEPTED, "these brokers do not have it").await;
        expect(DUPLICATE, "they have it now").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kafka_that_was_replaced_has_acknowledged_is_published_again() {
    let (broker, store) = (Broker::start(), SharedStore::start(Kind::Redis));
    let bus = real_bus::kafka(&broker, "replaced", "structured");
    // Another cluster, and one with the same id and other topics.
    let clusters = [kafka::OTHER_CLUSTER, kafka::OTHER_CLUSTER];
    replaced_while_down(&bus, &store, 2, async |time| broker.format_anew(clusters[time])).await;
    assert_eq!(broker.read_all("replaced.task").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_that_was_created_anew_has_acknowledged_is_published_again() {
    let server = Server::start();
    let bus = real_bus::nats(&server, "ATTIO", "replaced", "structured");
    // The bucket is on the server of the stream.
    let store = SharedStore::Nats(server);
    let SharedStore::Nats(server) = &store else { unreachable!() };
    let delete = async |_| assert!(server.admin().await.delete_stream("ATTIO").await.unwrap().success);
    replaced_while_down(&bus, &store, 2, delete).await;
    let redis = SharedStore::Redis(redis::Redis::start(redis::Kind::Valkey));
    delete(0).await;
    replaced_while_down(&bus, &redis, 1, delete).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deployments_with_different_brokers_that_share_a_prefix_share_no_memory() {
    for kind in Kind::ALL {
        let ours = Replicas::start(SharedStore::start(kind), 2, &[]).await;
        let theirs = Memory::new();
        theirs.become_another(Some("theirs"));
        assert_eq!(ours.bridges[0].answer(&event("one")).await, ACCEPTED);
        let their = ours.onto(&theirs, &[]).await;
        their.until("dedup_store_up", &[], 1.0).await;
        assert_eq!(their.answer(&event("one")).await, ACCEPTED, "{kind:?}: they have not got it");
        eventually("each remembers its own", || async {
            let their_second = ours.onto(&theirs, &[]).await;
            their_second.until("dedup_store_up", &[], 1.0).await;
            their_second.answer(&event("one")).await == DUPLICATE
        })
        .await;
        assert_eq!(ours.bridges[1].answer(&event("one")).await, DUPLICATE);
        assert_eq!(ours.another(&[]).await.answer(&event("one")).await, DUPLICATE, "nor after a restart");
        assert_eq!((ours.bus.stored().len(), theirs.stored().len()), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_generation_is_given_to_two_sets_of_brokers_that_come_at_once() {
    const SETS: usize = 8;
    for kind in Kind::ALL {
        let replicas = Replicas::start(SharedStore::start(kind), 0, &[]).await;
        let start = async |set| {
            let brokers = Memory::new();
            brokers.become_another(Some(&format!("set {set}")));
            replicas.onto(&brokers, &[]).await.until("dedup_store_up", &[], 1.0).await;
        };
        futures_util::future::join_all((0..SETS).map(start)).await;
        let register = replicas.store.value("generation").await.unwrap();
        let entries: Vec<serde_json::Value> = serde_json::from_str(&register).unwrap();
        let generations: BTreeSet<_> =
            entries.iter().filter_map(|entry| entry["generation"].as_u64()).collect();
        assert_eq!(generations.len(), SETS, "{kind:?}: {register}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_counts_as_acknowledged_before_the_brokers_have_told_which_they_are() {
    for kind in Kind::ALL {
        let replicas = Replicas::start(SharedStore::start(kind), 1, &[]).await;
        assert_eq!(replicas.bridges[0].answer(&event("one")).await, ACCEPTED);
        let unknown = Memory::new();
        unknown.become_another(None);
        let degrading = replicas.onto(&unknown, &[("ATTIO_BRIDGE__DEDUP__STORE_TIMEOUT", "100ms")]).await;
        assert_eq!(degrading.answer(&event("one")).await, ACCEPTED, "{kind:?}");
        assert_eq!(degrading.metric("dedup_store_up", &[]).await, 0.0);
        let refusing =
            replicas.onto(&unknown, &[REFUSE, ("ATTIO_BRIDGE__DEDUP__STORE_TIMEOUT", "100ms")]).await;
        assert_eq!(refusing.answer(&event("one")).await, (503, "store_unavailable"));
        assert_eq!(unknown.stored().len(), 1);
        unknown.become_another(Some("memory"));
        refusing.until("dedup_store_up", &[], 1.0).await;
        assert_eq!(refusing.answer(&event("one")).await, DUPLICATE, "now they have");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_the_brokers_were_known_is_remembered_for_them_alone() {
    for kind in Kind::ALL {
        let ours = Replicas::start(SharedStore::start(kind), 1, &[]).await;
        let theirs = Memory::new();
        theirs.become_another(None);
        let their = ours.onto(&theirs, &[("ATTIO_BRIDGE__DEDUP__STORE_TIMEOUT", "100ms")]).await;
        assert_eq!(their.answer(&event("one")).await, ACCEPTED);
        theirs.become_another(Some("theirs"));
        until(&their, "committed", 1.0).await;
        assert_eq!(ours.bridges[0].answer(&event("one")).await, ACCEPTED, "{kind:?}: ours have not got it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_forgets_what_another_one_has_found_lost() {
    for kind in Kind::ALL {
        let replicas = Replicas::start(SharedStore::start(kind), 1, &[]).await;
        let first = &replicas.bridges[0];
        let unaware = Memory::new();
        let second = replicas.onto(&unaware, &[]).await;
        second.until("dedup_store_up", &[], 1.0).await;
        assert_eq!(second.answer(&event("one")).await, ACCEPTED);
        assert_eq!(second.answer(&event("one")).await, DUPLICATE, "it remembers it by itself");
        replicas.bus.lose_data();
        assert_eq!(first.answer(&event("two")).await, ACCEPTED);
        eventually("the other replica has heard of it", || async {
            second.answer(&event("one")).await == ACCEPTED
        })
        .await;
        assert_eq!(unaware.attempts(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_memory_it_is_stays_known_for_longer_than_the_memory() {
    for kind in Kind::ALL {
        let window = [("ATTIO_BRIDGE__DEDUP__WINDOW", "2s")];
        let mut replicas = Replicas::start(SharedStore::start(kind), 1, &window).await;
        let bridge = replicas.bridges.remove(0);
        assert_eq!(bridge.answer(&event("one")).await, ACCEPTED);
        bridge.stop().await.unwrap();
        let key = replicas.last_key();
        eventually("the id is forgotten", || async { replicas.store.value(&key).await.is_none() }).await;
        assert!(replicas.store.value("generation").await.is_some(), "{kind:?}");
        let bridge = replicas.another(&window).await;
        assert_eq!(bridge.answer(&event("one")).await, ACCEPTED, "{kind:?}: its repeat is published again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_former_brokers_had_acknowledged_does_not_count_when_they_come_back_under_a_running_bridge() {
    for kind in Kind::ALL {
        let replicas = Replicas::start(SharedStore::start(kind), 2, &[]).await;
        let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
        assert_eq!(first.answer(&event("one")).await, ACCEPTED);
        until(first, "committed", 1.0).await;
        for (at, name) in ["created anew", "memory"].into_iter().enumerate() {
            replicas.bus.become_another(Some(name));
            replicas.bus.lose_data();
            for bridge in [first, second] {
                // With its next delivery each notices by itself.
                assert_eq!(bridge.answer(&event(&format!("{name} {at}"))).await.0, 200);
                bridge.until("dedup_store_up", &[], 1.0).await;
            }
        }
        // Restored from a copy without the event.
        assert_eq!(second.answer(&event("one")).await, ACCEPTED, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_before_anything_was_learned_from_the_store_counts() {
    for kind in Kind::ALL {
        let replicas = Replicas::start(SharedStore::start(kind), 1, &[]).await;
        assert_eq!(replicas.bridges[0].answer(&event("one")).await, ACCEPTED);
        until(&replicas.bridges[0], "committed", 1.0).await;
        let brokers = Memory::new();
        brokers.become_another(None);
        let late = replicas.onto(&brokers, &[]).await;
        brokers.lose_data();
        brokers.become_another(Some("memory"));
        late.until("dedup_store_up", &[], 1.0).await;
        assert_eq!(late.answer(&event("one")).await, ACCEPTED, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_register_is_none() {
    for kind in Kind::ALL {
        let mut replicas = Replicas::start(SharedStore::start(kind), 1, &[]).await;
        replicas.bridges.remove(0).stop().await.unwrap();
        // As a delete of the KV clients leaves it.
        replicas.store.put("generation", "", Duration::from_secs(60)).await;
        let bridge = replicas.another(&[]).await;
        assert_eq!(bridge.answer(&event("one")).await, ACCEPTED);
        assert!(replicas.store.value("generation").await.unwrap().contains("memory"), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_leaves_the_events_of_others_shared() {
    let (broker, prefix) = (shared(), unique("some-missing"));
    broker.create_topic(&format!("{prefix}.task"), 1, &[]);
    let store = SharedStore::start(Kind::Redis);
    let own = store.variables();
    let mut all: Vec<_> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.extend([
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap()),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", prefix.as_str()),
        REFUSE,
    ]);
    let of_missing =
        Request::keyed("two", r#"{"event_type":"note.created","id":{"workspace_id":"w","note_id":"n"}}"#);
    let [first, second] = [Bridge::serving(config(&all)).await, Bridge::serving(config(&all)).await];
    for bridge in [&first, &second] {
        bridge.until("dedup_store_up", &[], 1.0).await;
        assert_eq!(bridge.answer(&of_missing).await, (503, "store_unavailable"), "what is it?");
    }
    eventually("it is stored", || async { first.answer(&event("one")).await == ACCEPTED }).await;
    eventually("it is known", || async { second.answer(&event("one")).await == DUPLICATE }).await;
    assert_eq!(broker.read_all(&format!("{prefix}.task")).len(), 1);
    broker.create_topic(&format!("{prefix}.note"), 1, &[]);
    eventually("it is known what it is", || async { first.answer(&of_missing).await == ACCEPTED }).await;
}
