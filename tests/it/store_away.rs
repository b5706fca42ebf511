//! The store that replicas share is frozen, killed, emptied or full, or evicts.

use crate::support::bridge::Bridge;
use crate::support::redis::{self, Redis};
use crate::support::replicas::{Replicas, batch, count, event, until};
use crate::support::shared_store::{Kind, SharedStore};
use crate::support::wait::eventually;

const ACCEPTED: (u16, &str) = (200, "accepted");
const DUPLICATE: (u16, &str) = (200, "duplicate");
const DEADLINE: (&str, &str) = ("ATTIO_BRIDGE__DEDUP__STORE_TIMEOUT", "100ms");
const REFUSE: (&str, &str) = ("ATTIO_BRIDGE__DEDUP__ON_STORE_FAILURE", "refuse");

async fn readiness(bridge: &Bridge) -> (u16, String) {
    let answer = bridge.admin("/readyz").await;
    (answer.status, String::from_utf8(answer.body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_delays_one_delivery_and_is_shared_again_when_it_answers() {
    for kind in Kind::ALL {
        let replicas = Replicas::start(SharedStore::start(kind), 1, &[DEADLINE]).await;
        let first = &replicas.bridges[0];
        // What it is asked is not a matter of time.
        let second = &replicas.another(&[]).await;
        assert_eq!(first.answer(&event("before")).await, ACCEPTED);
        replicas.store.pause();
        for id in 0..100 {
            assert_eq!(first.answer(&event(&format!("id-{id}"))).await, ACCEPTED);
        }
        let waited = count(first, "failed").await;
        assert!(waited <= 3.0, "{kind:?}: {waited} deliveries waited for the store");
        assert!(count(first, "skipped").await >= 97.0);
        assert_eq!(first.metric("dedup_store_up", &[]).await, 0.0);
        let (status, text) = readiness(first).await;
        assert!(status == 200 && text.contains("warning: dedup store"), "{status} {text}");
        assert_eq!(first.answer(&event("id-1")).await, DUPLICATE, "memory is left");
        replicas.store.resume();
        first.until("dedup_store_up", &[], 1.0).await;
        second.until("dedup_store_up", &[], 1.0).await;
        assert_eq!(readiness(first).await, (200, "ready\n".into()));
        // What was acknowledged meanwhile is committed, and known to the other replica.
        until(first, "committed", 101.0).await;
        for id in 0..100 {
            assert_eq!(second.answer(&event(&format!("id-{id}"))).await, DUPLICATE);
        }
        assert_eq!(replicas.bus.attempts(), 101);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_required_is_503_while_it_is_away_and_nothing_is_published() {
    for kind in Kind::ALL {
        let replicas = Replicas::start(SharedStore::start(kind), 2, &[REFUSE, DEADLINE]).await;
        let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
        assert_eq!(first.answer(&event("before")).await, ACCEPTED);
        replicas.store.kill();
        for _ in 0..3 {
            assert_eq!(first.answer(&event("one")).await, (503, "store_unavailable"));
        }
        assert_eq!(first.answer(&event("before")).await, DUPLICATE, "its own memory is left");
        assert_eq!(replicas.bus.attempts(), 1);
        assert!(readiness(first).await.1.contains("503 store_unavailable"));
        replicas.store.restart();
        first.until("dedup_store_up", &[], 1.0).await;
        second.until("dedup_store_up", &[], 1.0).await;
        // A claim whose answer was lost may keep it in flight for longer than a delivery waits: then it is published
        // behind the answer, and the next one is a duplicate.
        eventually("it is stored", || async { first.answer(&event("one")).await.0 == 200 }).await;
        until(first, "committed", 2.0).await;
        // It may notice only now that the store was away.
        eventually("the other replica knows it", || async {
            second.answer(&event("one")).await == DUPLICATE
        })
        .await;
        assert_eq!(replicas.bus.attempts(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_at_the_start_is_found_later() {
    for kind in Kind::ALL {
        let store = SharedStore::start(kind);
        store.kill();
        let replicas = Replicas::start(store, 0, &[]).await;
        let bridge = replicas.another_without_waiting(&[DEADLINE]).await;
        assert_eq!(bridge.answer(&event("one")).await, ACCEPTED);
        assert_eq!(bridge.metric("dedup_store_up", &[]).await, 0.0);
        replicas.store.restart();
        until(&bridge, "committed", 1.0).await;
        assert_eq!(replicas.another(&[]).await.answer(&event("one")).await, DUPLICATE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_delays_no_answer_beyond_its_time_and_nothing_is_published_after_it() {
    for kind in Kind::ALL {
        let (due, patient) =
            (("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "300ms"), ("ATTIO_BRIDGE__DEDUP__STORE_TIMEOUT", "2s"));
        let replicas = Replicas::start(SharedStore::start(kind), 1, &[due, patient]).await;
        let bridge = &replicas.bridges[0];
        replicas.store.pause();
        assert_eq!(bridge.answer(&event("one")).await, (503, "broker_timeout"));
        assert_eq!(replicas.bus.attempts(), 0);
        replicas.store.resume();
        // On a busy machine it may be published behind an answer.
        eventually("it is free", || async { bridge.answer(&event("one")).await.0 == 200 }).await;
        assert_eq!(replicas.bus.attempts(), 1);
        assert!(count(bridge, "released").await >= 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_killed_frozen_or_emptied_under_load_doubles_only_what_it_met() {
    for kind in Kind::ALL {
        let replicas = Replicas::start(SharedStore::start(kind), 3, &[DEADLINE]).await;
        let store = &replicas.store;
        let load = replicas.under_load(async || {
            store.kill();
            replicas.until_alone().await;
            store.restart();
            replicas.until_shared().await;
            store.pause();
            replicas.until_alone().await;
            store.resume();
            store.flush().await;
        });
        println!("{kind:?}: copies of an event, and how many have so many: {:?}", load.await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_full_under_load_doubles_only_what_it_refused() {
    for kind in [redis::Kind::Redis, redis::Kind::Valkey] {
        let redis = Redis::with(kind, &["--maxmemory-policy", "noeviction"]);
        let replicas = Replicas::start(SharedStore::Redis(redis), 3, &[DEADLINE]).await;
        let SharedStore::Redis(redis) = &replicas.store else { unreachable!() };
        let load = replicas.under_load(async || {
            redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
            replicas.until_alone().await;
            redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
        });
        println!("{kind:?}: copies of an event, and how many have so many: {:?}", load.await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_remembers_what_is_in_its_append_only_file() {
    for kind in [redis::Kind::Redis, redis::Kind::Valkey] {
        for (append_only, answer) in [("no", ACCEPTED), ("yes", DUPLICATE)] {
            let redis = Redis::with(kind, &["--appendonly", append_only]);
            let replicas = Replicas::start(SharedStore::Redis(redis), 2, &[REFUSE]).await;
            let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
            assert_eq!(first.answer(&event("one")).await, ACCEPTED);
            until(first, "committed", 1.0).await;
            replicas.store.kill();
            replicas.store.restart();
            eventually("the other one can ask", || async {
                let found = second.answer(&event("one")).await;
                assert!(found.0 != 200 || found == answer, "{kind:?}, appendonly {append_only}: {found:?}");
                found.0 == 200
            })
            .await;
        }
    }
}

/// What a server says of its memory, in bytes.
fn used_memory(redis: &Redis) -> u64 {
    let memory: String = redis.run(&["INFO", "memory"]);
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:"));
    used.expect("it says so").trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_redis_that_evicts_has_forgotten_and_nothing_else_is_published_again() {
    for kind in [redis::Kind::Redis, redis::Kind::Valkey] {
        let redis = Redis::with(kind, &["--maxmemory-policy", "allkeys-lru"]);
        let patient = ("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "10s");
        let replicas = Replicas::start(SharedStore::Redis(redis), 2, &[patient]).await;
        let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
        let SharedStore::Redis(redis) = &replicas.store else { unreachable!() };
        let deliveries: Vec<_> = (0..8).map(|at| batch(&format!("{at}"), at * 500..(at + 1) * 500)).collect();
        for delivery in &deliveries {
            assert_eq!(first.answer(delivery).await, ACCEPTED);
        }
        until(first, "committed", 4_000.0).await;
        let limit = (used_memory(redis) - 100_000).to_string();
        redis.run::<()>(&["CONFIG", "SET", "maxmemory", &limit]);
        eventually("some are evicted", async || redis.run::<u64>(&["DBSIZE"]) < 3_900).await;
        redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
        let mut forgotten = Vec::new();
        for key in replicas.copies().into_keys() {
            if replicas.store.value(&key).await.is_none() {
                forgotten.push(key);
            }
        }
        println!("{kind:?}: {} of 4,000 ids are evicted", forgotten.len());
        for delivery in &deliveries {
            assert_eq!(second.ask(delivery).await.status, 200);
        }
        let twice = replicas.copies().into_iter().filter(|(_, copies)| *copies == 2);
        assert_eq!(twice.map(|(key, _)| key).collect::<Vec<_>>(), forgotten);
        assert_eq!(replicas.bus.attempts(), 4_000 + forgotten.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_is_a_store_that_is_away() {
    for kind in [redis::Kind::Redis, redis::Kind::Valkey] {
        let redis = Redis::with(kind, &["--maxmemory-policy", "noeviction"]);
        let replicas = Replicas::start(SharedStore::Redis(redis), 2, &[]).await;
        let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
        let SharedStore::Redis(redis) = &replicas.store else { unreachable!() };
        assert_eq!(first.answer(&event("before")).await, ACCEPTED);
        until(first, "committed", 1.0).await;
        redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
        assert_eq!(first.answer(&event("one")).await, ACCEPTED);
        // On a busy machine the first reason is that the answer came too late.
        eventually("it says that the store is full", async || {
            let (status, text) = readiness(first).await;
            status == 200 && text.contains("OOM")
        })
        .await;
        redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
        until(first, "committed", 2.0).await;
        second.until("dedup_store_up", &[], 1.0).await;
        assert_eq!(second.answer(&event("one")).await, DUPLICATE);
    }
}
