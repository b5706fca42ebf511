//! Dedup that replicas share: bridges in this process onto one bus in memory, and a real store.

use std::time::Duration;

use attio_bridge::cloudevent::Attribute;
use attio_bridge::pipeline::publish::{BusState, PublishError};
use tokio::task::JoinSet;

use crate::support::memory::Answer;
use crate::support::replicas::{Replicas, batch, count, event, until};
use crate::support::shared_store::{Kind, SharedStore};
use crate::support::stress;
use crate::support::wait::eventually;

async fn replicas(kind: Kind, count: usize) -> Replicas {
    Replicas::start(SharedStore::start(kind), count, &[]).await
}

const ACCEPTED: (u16, &str) = (200, "accepted");
const DUPLICATE: (u16, &str) = (200, "duplicate");
const LATE: (u16, &str) = (503, "broker_timeout");

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_knows_what_one_has_published() {
    for kind in Kind::ALL {
        let replicas = replicas(kind, 3).await;
        let [first, second, third] = &replicas.bridges[..] else { panic!("three replicas") };
        assert_eq!(first.answer(&event("one")).await, ACCEPTED);
        until(first, "committed", 1.0).await;
        for bridge in [second, third, second, first] {
            assert_eq!(bridge.answer(&event("one")).await, DUPLICATE);
        }
        assert_eq!(replicas.bus.attempts(), 1);
        // The second time the second replica remembers it itself.
        assert_eq!((count(second, "hit").await, count(third, "hit").await), (1.0, 1.0));
        let key = replicas.last_key();
        assert_eq!(replicas.store.value(&key).await.as_deref(), Some("D"));
        let (life, window) = (replicas.store.life(&key).await, Duration::from_secs(96 * 3600));
        assert!((window - Duration::from_secs(600)..=window).contains(&life), "{life:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_sent_to_three_replicas_at_the_same_moment_are_published_once() {
    for kind in Kind::ALL {
        // Nothing is published without the store, also where this machine stands still for longer than its deadline.
        let refuse = ("ATTIO_BRIDGE__DEDUP__ON_STORE_FAILURE", "refuse");
        let replicas = Replicas::start(SharedStore::start(kind), 3, &[refuse]).await;
        let ids = stress(1_000, 10_000);
        let mut senders = JoinSet::new();
        for lane in 0..8 {
            for bridge in &replicas.bridges {
                let mut client = bridge.connect().await;
                senders.spawn(async move {
                    for id in (lane..ids).step_by(8) {
                        while client.ask(&event(&format!("id-{id}"))).await.status != 200 {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                });
            }
        }
        while let Some(sender) = senders.join_next().await {
            sender.unwrap();
        }
        let copies = replicas.copies();
        assert_eq!(copies.len(), ids);
        assert!(copies.values().all(|copies| *copies == 1), "{kind:?}: some were published twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_flight_at_another_replica_is_waited_for_and_never_answered_200() {
    for kind in Kind::ALL {
        let answer_timeout = ("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "700ms");
        let replicas = Replicas::start(SharedStore::start(kind), 2, &[answer_timeout]).await;
        let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
        replicas.bus.answer(Answer::Late);
        assert_eq!(first.answer(&event("one")).await, LATE);
        assert_eq!(second.answer(&event("one")).await, LATE);
        assert_eq!(replicas.bus.attempts(), 1, "it is published once");
        assert!(count(second, "in_flight").await > 1.0, "it asks again");
        // The ack comes while the second replica waits.
        let mut waiting = second.connect().await;
        waiting.send(&event("one")).await;
        eventually("the second replica waits", || async {
            second.metrics().await.sum("dedup_lookups_total", &[]) == 2.0
        })
        .await;
        replicas.bus.release();
        let answer = waiting.receive().await;
        // On a busy machine the answer may be due before it asks again.
        assert!([DUPLICATE, LATE].contains(&(answer.status, &answer.reason())), "{answer:?}");
        assert_eq!(second.answer(&event("one")).await, DUPLICATE);
        assert_eq!(replicas.bus.attempts(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_publish_releases_the_claim_so_that_another_replica_publishes() {
    for kind in Kind::ALL {
        let replicas = replicas(kind, 2).await;
        let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
        for round in 1..=2 {
            let detail = "as the test asked".into();
            replicas.bus.answer(Answer::Fail(PublishError::Unavailable { detail }));
            assert_eq!(first.answer(&event("one")).await, (503, "broker_unavailable"));
            until(first, "released", f64::from(round)).await;
        }
        replicas.bus.answer(Answer::Acknowledge);
        assert_eq!(second.answer(&event("one")).await, ACCEPTED);
        until(second, "committed", 1.0).await;
        assert_eq!(first.answer(&event("one")).await, DUPLICATE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_leaves_the_claim_of_another_alone() {
    for kind in Kind::ALL {
        let replicas = replicas(kind, 1).await;
        let bridge = &replicas.bridges[0];
        assert_eq!(bridge.answer(&event("one")).await, ACCEPTED);
        until(bridge, "committed", 1.0).await;
        // The same event again, as if it were unknown.
        replicas.store.flush().await;
        let bridge = replicas.another(&[]).await;
        replicas.bus.answer(Answer::Hang);
        let mut client = bridge.connect().await;
        client.send(&event("one")).await;
        until(&bridge, "claimed", 1.0).await;
        let key = replicas.last_key();
        let claim = replicas.store.value(&key).await.unwrap();
        assert!(claim.starts_with("L:") && claim.len() == 34, "{claim}");
        // stdout has 5 s to publish; its answer to the claim, and a margin.
        let life = replicas.store.life(&key).await;
        assert!(life <= Duration::from_secs(10), "a claim ends by itself: {life:?}");
        // Its lease ends, and another replica claims the id.
        replicas.store.put(&key, "L:another", Duration::from_secs(60)).await;
        replicas.bus.release();
        assert_eq!(client.receive().await.status, 503);
        until(&bridge, "released", 1.0).await;
        assert_eq!(replicas.store.value(&key).await.as_deref(), Some("L:another"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_replica_died_ends_with_its_lease() {
    for kind in Kind::ALL {
        let replicas = replicas(kind, 1).await;
        assert_eq!(replicas.bridges[0].answer(&event("one")).await, ACCEPTED);
        until(&replicas.bridges[0], "committed", 1.0).await;
        let second = replicas.another(&[]).await;
        // As if the replica had died after its claim, and the end of its lease were near.
        replicas.store.put(&replicas.last_key(), "L:gone", Duration::from_secs(3)).await;
        eventually("the lease ends", || async {
            let answer = second.answer(&event("one")).await;
            assert_ne!(answer, DUPLICATE);
            answer == ACCEPTED
        })
        .await;
        assert!(count(&second, "in_flight").await >= 1.0);
        assert_eq!(replicas.bus.attempts(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_one_delivery_are_claimed_in_one_request_and_keep_their_order() {
    for kind in Kind::ALL {
        let replicas = replicas(kind, 2).await;
        let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
        assert_eq!(first.ask(&batch("a", 0..500)).await.json()["published"], 500);
        assert_eq!(first.metric("dedup_store_duration_seconds_count", &[]).await, 1.0);
        until(first, "committed", 500.0).await;
        let answer = second.ask(&batch("b", 250..750)).await.json();
        assert_eq!((answer["published"].as_u64(), answer["duplicates"].as_u64()), (Some(250), Some(250)));
        let stored = replicas.bus.stored();
        let ids: Vec<_> = stored.iter().map(|message| message.event.get(Attribute::Id).unwrap()).collect();
        assert_eq!(ids, (0..750).map(|at| format!("e{at}")).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_delivery_is_claimed_in_several_requests() {
    for kind in Kind::ALL {
        // The machine may be busy.
        let patient = ("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "10s");
        let replicas = Replicas::start(SharedStore::start(kind), 2, &[patient]).await;
        let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
        assert_eq!(first.ask(&batch("a", 0..1_100)).await.json()["published"], 1_100);
        assert_eq!(first.metric("dedup_store_duration_seconds_count", &[]).await, 3.0);
        until(first, "committed", 1_100.0).await;
        assert_eq!(second.ask(&batch("b", 0..1_100)).await.json()["duplicates"], 1_100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_claimed_for_a_broker_that_is_down() {
    for kind in Kind::ALL {
        let replicas = replicas(kind, 1).await;
        let bridge = &replicas.bridges[0];
        replicas.bus.set_state(BusState::Down);
        assert_eq!(bridge.answer(&event("one")).await, (503, "broker_unavailable"));
        replicas.bus.set_state(BusState::Up);
        assert_eq!((count(bridge, "claimed").await, replicas.bus.attempts()), (0.0, 0));
        assert_eq!(bridge.answer(&event("one")).await, ACCEPTED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_committed_before_a_replica_ends() {
    for kind in Kind::ALL {
        let mut replicas = replicas(kind, 1).await;
        let first = replicas.bridges.remove(0);
        for id in 0..200 {
            assert_eq!(first.answer(&event(&format!("id-{id}"))).await, ACCEPTED);
        }
        first.stop().await.unwrap();
        let second = replicas.another(&[]).await;
        for id in 0..200 {
            assert_eq!(second.answer(&event(&format!("id-{id}"))).await, DUPLICATE);
        }
        assert_eq!(replicas.bus.attempts(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_forgets_what_a_broker_has_lost() {
    for kind in Kind::ALL {
        let replicas = replicas(kind, 3).await;
        let [first, second, third] = &replicas.bridges[..] else { panic!("three replicas") };
        assert_eq!(first.answer(&event("one")).await, ACCEPTED);
        until(first, "committed", 1.0).await;
        assert_eq!(second.answer(&event("one")).await, DUPLICATE);
        replicas.bus.lose_data();
        assert_eq!(second.answer(&event("one")).await, ACCEPTED, "{kind:?}: it is stored again");
        assert_eq!(third.answer(&event("one")).await, ACCEPTED, "each replica notices by itself");
        assert_eq!(first.answer(&event("two")).await, ACCEPTED);
        for bridge in &replicas.bridges {
            bridge.until("dedup_store_up", &[], 1.0).await;
        }
        // From then on they share what they remember again, under keys of a new generation.
        assert_eq!(first.answer(&event("three")).await, ACCEPTED);
        eventually("it is committed", || async { second.answer(&event("three")).await == DUPLICATE }).await;
        let register = replicas.store.value("generation").await.unwrap();
        assert!(
            !register.contains("\"generation\":0,") && register.matches("memory").count() == 1,
            "{register}"
        );
        assert_eq!(replicas.bus.attempts(), 5);
    }
}
