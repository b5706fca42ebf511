//! Dedup: one publish per event, and only acknowledged ids are remembered.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use attio_bridge::cloudevent::Attribute;
use attio_bridge::metrics::Metrics;
use attio_bridge::pipeline::dedup::{Dedup, Lookup, Options};
use attio_bridge::pipeline::identify::DedupKey;
use attio_bridge::pipeline::publish::{Ack, AckCallback, PublishError};
use proptest::prelude::*;
use serde_json::json;

use crate::support::bridge::Bridge;
use crate::support::bus::metrics;
use crate::support::fixtures;
use crate::support::logs::Logs;
use crate::support::memory::Answer;
use crate::support::request::Request;
use crate::support::wait::{PATIENCE, eventually};

/// A delivery of one event, the same every time.
fn event() -> Request {
    Request::keyed("one", r#"{"event_type":"task.created","id":{"workspace_id":"w","task_id":"t"}}"#)
}

/// A delivery of so many events, all different.
fn batch(key: &str, events: usize) -> Request {
    let event =
        |at| format!(r#"{{"event_type":"task.created","id":{{"workspace_id":"w","task_id":"t{at}"}}}}"#);
    let events = (0..events).map(event).collect::<Vec<_>>().join(",");
    Request::keyed(key, format!(r#"{{"webhook_id":"w","events":[{events}]}}"#))
}

fn failures() -> [(PublishError, &'static str); 6] {
    let detail = || Arc::from("as the test asked");
    [
        (PublishError::Unavailable { detail: detail() }, "broker_unavailable"),
        (PublishError::Timeout { detail: detail() }, "broker_timeout"),
        (PublishError::Refused { detail: detail() }, "broker_refused"),
        (PublishError::Busy { detail: detail() }, "overloaded"),
        (PublishError::Abandoned, "internal"),
        // Of the event and of its quarantine alike: then its topic is at fault.
        (PublishError::Rejected { detail: detail() }, "broker_refused"),
    ]
}

async fn lookups(bridge: &Bridge) -> [f64; 3] {
    let scrape = bridge.metrics().await;
    ["miss", "joined", "hit"].map(|result| scrape.get("dedup_lookups_total", &[("result", result)]))
}

/// Sends 50 copies at once, of which one publishes; lets the bus settle; gives their answers back.
async fn fifty_copies(bridge: &Bridge) -> Vec<(u16, String)> {
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(bridge.connect().await);
    }
    for client in &mut clients {
        client.send(&event()).await;
    }
    bridge.until("dedup_lookups_total", &[("result", "joined")], 49.0).await;
    assert_eq!(bridge.bus.attempts(), 1);
    bridge.bus.release();
    let mut answers = Vec::new();
    for mut client in clients {
        answers.push(client.receive().await.status_and_reason());
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_repeats_publish_once_and_share_the_ack() {
    let bridge = Bridge::start().await;
    bridge.bus.answer(Answer::Late);
    let answers = fifty_copies(&bridge).await;
    let of = |reason: &str| answers.iter().filter(|answer| **answer == (200, reason.into())).count();
    assert_eq!((of("accepted"), of("duplicate")), (1, 49), "{answers:?}");
    assert_eq!(bridge.bus.stored().len(), 1);
    assert_eq!(lookups(&bridge).await, [1.0, 49.0, 0.0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_repeats_share_the_failure_and_it_is_forgotten() {
    let bridge = Bridge::start().await;
    bridge.bus.answer(Answer::Hang);
    let answers = fifty_copies(&bridge).await;
    assert!(answers.iter().all(|answer| *answer == (503, "broker_timeout".into())), "{answers:?}");
    assert!(bridge.bus.stored().is_empty());
    bridge.bus.answer(Answer::Acknowledge);
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (200, "accepted".into()));
    assert_eq!(bridge.bus.stored().len(), 1);
}

#[tokio::test]
async fn an_acknowledged_event_is_not_published_again() {
    let bridge = Bridge::start().await;
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (200, "accepted".into()));
    for _ in 0..5 {
        assert_eq!(bridge.ask(&event()).await.status_and_reason(), (200, "duplicate".into()));
    }
    assert_eq!(bridge.bus.attempts(), 1);
    assert_eq!(lookups(&bridge).await, [1.0, 0.0, 5.0]);
    assert_eq!(bridge.metric("dedup_entries", &[]).await, 1.0);
}

#[tokio::test]
async fn a_duplicate_at_the_broker_is_a_duplicate_and_is_remembered() {
    let bridge = Bridge::start().await;
    bridge.bus.answer(Answer::Duplicate);
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (200, "duplicate".into()));
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (200, "duplicate".into()));
    assert_eq!(bridge.bus.attempts(), 1);
}

#[tokio::test]
async fn a_failure_is_forgotten_so_that_the_retry_publishes() {
    for (error, reason) in failures() {
        let bridge = Bridge::start().await;
        bridge.bus.answer(Answer::Fail(error));
        for _ in 0..3 {
            assert_eq!(bridge.ask(&event()).await.status_and_reason().1, reason);
        }
        assert_eq!(bridge.metric("dedup_entries", &[]).await, 0.0, "{reason}");
        bridge.bus.answer(Answer::Acknowledge);
        assert_eq!(bridge.ask(&event()).await.status_and_reason(), (200, "accepted".into()), "{reason}");
        assert_eq!(bridge.ask(&event()).await.status_and_reason(), (200, "duplicate".into()), "{reason}");
        assert_eq!(bridge.bus.stored().len(), 1, "{reason}");
    }
}

#[tokio::test]
async fn late_ack_after_the_answer_is_remembered() {
    let bridge = Bridge::impatient().await;
    bridge.bus.answer(Answer::Late);
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (503, "broker_timeout".into()));
    // A retry before the ack joins the in-flight entry, and times out too.
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (503, "broker_timeout".into()));
    assert_eq!(bridge.bus.waiting(), 1);
    bridge.bus.release();
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (200, "duplicate".into()));
    assert_eq!(bridge.bus.stored().len(), 1);
    assert!(bridge.metrics().await.balances());
}

#[tokio::test]
async fn publish_that_fails_after_the_answer_is_forgotten() {
    let bridge = Bridge::impatient().await;
    bridge.bus.answer(Answer::Hang);
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (503, "broker_timeout".into()));
    bridge.bus.release();
    bridge.bus.answer(Answer::Acknowledge);
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (200, "accepted".into()));
    assert_eq!(bridge.bus.stored().len(), 1);
}

/// How a client goes away while its event is being published.
#[derive(Clone, Copy, Debug)]
enum Goes {
    /// It closes.
    Away,
    /// It closes with something unread, which resets the connection.
    Abruptly,
    /// It closes its half, and still reads.
    HalfWay,
}

#[tokio::test]
async fn client_disconnect_leaves_no_in_flight_entry() {
    for goes in [Goes::Away, Goes::Abruptly, Goes::HalfWay] {
        let bridge = Bridge::start().await;
        bridge.bus.answer(Answer::Late);
        let mut client = bridge.connect().await;
        if matches!(goes, Goes::Abruptly) {
            client.send(&Request::unsigned("")).await;
        }
        client.send(&event()).await;
        eventually("the event is in flight", || async { bridge.bus.waiting() == 1 }).await;
        let client = match goes {
            Goes::HalfWay => {
                client.half_close().await;
                Some(client)
            }
            Goes::Away | Goes::Abruptly => None,
        };
        assert_eq!(bridge.metric("events_in_flight", &[]).await, 1.0, "{goes:?}");
        bridge.bus.release();
        bridge.until("events_in_flight", &[], 0.0).await;
        bridge.until("publish_in_flight", &[("bus", "memory")], 0.0).await;
        let accepted = [("source", "attio"), ("reason", "accepted")];
        bridge.until("deliveries_total", &accepted, 1.0).await;
        if let Some(mut client) = client {
            assert_eq!(client.receive().await.status_and_reason(), (200, "accepted".into()), "{goes:?}");
        }
        assert_eq!(bridge.ask(&event()).await.status_and_reason(), (200, "duplicate".into()), "{goes:?}");
        assert_eq!(bridge.bus.stored().len(), 1, "{goes:?}");
    }
}

#[tokio::test]
async fn client_disconnect_within_its_body_publishes_nothing() {
    let bridge = Bridge::start().await;
    let request = event();
    for cut in [0, 1, request.body.len() / 2, request.body.len() - 1] {
        let mut client = bridge.connect().await;
        client.write(&request.head()).await;
        client.write(&request.body[..cut]).await;
        client.half_close().await;
        assert_eq!(client.try_receive().await.map(|answer| answer.status).unwrap_or(400), 400, "{cut}");
    }
    assert_eq!(bridge.bus.attempts(), 0);
    assert_eq!(bridge.metric("events_in_flight", &[]).await, 0.0);
    assert_eq!(bridge.ask(&request).await.status_and_reason(), (200, "accepted".into()));
}

#[tokio::test]
async fn a_repeated_event_id_inside_a_delivery_is_published_once() {
    let table = [
        (r#"{"event_type":"task.created","id":{"event_id":"e"}}"#, 1, 1),
        // Without an event_id the index in the delivery distinguishes equal bytes: two honest changes
        // of one attribute are byte-identical.
        (r#"{"event_type":"task.created","id":{"workspace_id":"w","task_id":"t"}}"#, 2, 0),
    ];
    for (event, published, duplicates) in table {
        let bridge = Bridge::start().await;
        let body = format!(r#"{{"webhook_id":"w","events":[{event},{event}]}}"#);
        let answer = bridge.ask(&Request::keyed("k", body)).await.json();
        assert_eq!((&answer["published"], &answer["duplicates"]), (&json!(published), &json!(duplicates)));
        assert_eq!(bridge.bus.stored().len(), published);
    }
}

#[tokio::test]
async fn a_repeat_inside_a_delivery_shares_the_failure() {
    let bridge = Bridge::start().await;
    bridge.bus.script([Answer::Fail(failures()[0].0.clone())]);
    let event = r#"{"event_type":"task.created","id":{"event_id":"e"}}"#;
    let request = Request::keyed("k", format!(r#"{{"webhook_id":"w","events":[{event},{event}]}}"#));
    // The first is settled before the second is enqueued, so that the second may publish.
    assert_eq!(bridge.ask(&request).await.status_and_reason(), (503, "broker_unavailable".into()));
    assert_eq!(bridge.ask(&request).await.status_and_reason(), (200, "duplicate".into()));
    assert_eq!(bridge.bus.stored().len(), 1);
}

#[tokio::test]
async fn sources_do_not_share_their_ids() {
    let bridge = Bridge::with(|config| {
        let mut other = config.sources[0].clone();
        other.name = attio_bridge::delivery::SourceName::new("other").unwrap();
        config.sources.push(other);
    })
    .await;
    assert_eq!(bridge.ask(&event()).await.reason(), "accepted");
    assert_eq!(bridge.ask(&event().path("/webhooks/other")).await.reason(), "accepted");
    let stored = bridge.bus.stored();
    let ids: HashSet<_> = stored.iter().map(|message| message.dedup_key.clone()).collect();
    assert_eq!((stored.len(), ids.len()), (2, 2));
}

#[tokio::test]
async fn an_event_rejected_by_the_broker_is_quarantined_before_the_answer() {
    let bridge = Bridge::start().await;
    let rejected = || Answer::Fail(PublishError::Rejected { detail: "too large".into() });
    bridge.bus.script([rejected(), Answer::Late]);
    let mut client = bridge.connect().await;
    client.send(&event()).await;
    eventually("the quarantined event is in flight", || async { bridge.bus.waiting() == 1 }).await;
    assert_eq!(bridge.metric("events_in_flight", &[]).await, 1.0, "no answer before its ack");
    bridge.bus.release();
    let answer = client.receive().await;
    assert_eq!(answer.status_and_reason(), (200, "quarantined".into()));
    assert_eq!(answer.json()["quarantined"], 1);
    let stored = bridge.bus.stored();
    assert_eq!(stored.len(), 1);
    assert_eq!(&*stored[0].destination.address, "attio.quarantine");
    assert!(stored[0].structured_only);

    // A retry that is rejected again is already in quarantine.
    bridge.bus.script([rejected()]);
    assert_eq!(client.ask(&event()).await.status_and_reason(), (200, "duplicate".into()));
    assert_eq!(bridge.bus.stored().len(), 1);
    let labels = [("source", "attio"), ("category", "task"), ("result", "quarantined")];
    assert_eq!(bridge.metric("events_total", &labels).await, 1.0);
}

#[tokio::test]
async fn all_rejected_events_of_a_delivery_are_quarantined_together() {
    let bridge = Bridge::start().await;
    let rejected = || Answer::Fail(PublishError::Rejected { detail: "too large".into() });
    bridge.bus.script([rejected(), Answer::Acknowledge, rejected(), Answer::Late, Answer::Late]);
    let mut client = bridge.connect().await;
    client.send(&Request::keyed("k", fixtures::delivery("edge/batch-of-three"))).await;
    eventually("both are on their way", || async { bridge.bus.waiting() == 2 }).await;
    bridge.bus.release();
    let answer = client.receive().await.json();
    assert_eq!((&answer["published"], &answer["quarantined"]), (&1.into(), &2.into()), "{answer}");
    let stored = bridge.bus.stored();
    let places: Vec<_> = stored.iter().map(|message| message.event.get(Attribute::AttioIndex)).collect();
    assert_eq!(places, [None, Some("0"), Some("2")], "in the order they had, which a replay keeps");
}

#[tokio::test]
async fn an_event_rejected_beside_one_that_hangs_is_left_to_the_retry() {
    let bridge = Bridge::impatient().await;
    let rejected = || Answer::Fail(PublishError::Rejected { detail: "too large".into() });
    bridge.bus.script([rejected(), Answer::Acknowledge, Answer::Hang]);
    let delivery = Request::keyed("k", fixtures::delivery("edge/batch-of-three"));
    assert_eq!(bridge.ask(&delivery).await.status_and_reason(), (503, "broker_timeout".into()));
    bridge.bus.release();
    bridge.bus.script([rejected(), Answer::Acknowledge, Answer::Acknowledge]);
    let answer = bridge.ask(&delivery).await.json();
    let counts = ["published", "duplicates", "quarantined"].map(|result| answer[result].as_u64().unwrap());
    assert_eq!(counts, [1, 1, 1], "{answer}");
    assert_eq!(bridge.bus.stored().len(), 3);
}

#[tokio::test]
async fn a_quarantine_topic_with_too_low_a_size_limit_is_logged() {
    let (logs, bridge) = (Logs::capture(), Bridge::start().await);
    bridge.bus.answer(Answer::Fail(PublishError::Rejected { detail: "too large".into() }));
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (503, "broker_refused".into()));
    let text = logs.text();
    assert!(text.contains("the quarantine topic rejected it too: too large; raise its size limit"), "{text}");
    assert!(text.contains("max.message.bytes"), "{text}");
}

#[tokio::test]
async fn failed_quarantine_is_not_answered_200() {
    for (error, reason) in failures() {
        let bridge = Bridge::start().await;
        bridge.bus.script([
            Answer::Fail(PublishError::Rejected { detail: "too large".into() }),
            Answer::Fail(error.clone()),
        ]);
        let answer = bridge.ask(&event()).await;
        assert_eq!(answer.reason(), reason);
        assert!(answer.status >= 500, "{answer:?}");
        assert!(bridge.bus.stored().is_empty());

        let bridge = Bridge::start().await;
        bridge.bus.script([Answer::Fail(error)]);
        let unusable = Request::keyed("k", "no JSON");
        assert!(bridge.ask(&unusable).await.status >= 500, "{reason}");
        assert_eq!(bridge.ask(&unusable).await.status_and_reason(), (200, "quarantined".into()), "{reason}");
        assert_eq!(bridge.ask(&unusable).await.status_and_reason(), (200, "duplicate".into()), "{reason}");
        assert_eq!(bridge.bus.stored().len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn retry_publishes_exactly_the_missing_events(fails in prop::collection::vec(any::<bool>(), 1..=20), which in 0..5usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bridge = Bridge::start().await;
            let (error, reason) = failures()[which].clone();
            let answer = |fails: &bool| if *fails { Answer::Fail(error.clone()) } else { Answer::Acknowledge };
            bridge.bus.script(fails.iter().map(answer));
            let request = batch("k", fails.len());
            let missing = fails.iter().filter(|fails| **fails).count();
            let first = bridge.ask(&request).await;
            assert_eq!(first.reason(), if missing > 0 { reason } else { "accepted" });
            assert_eq!(bridge.bus.stored().len(), fails.len() - missing);

            let again = bridge.ask(&request).await;
            assert_eq!(again.status, 200);
            assert_eq!(again.json()["published"], missing);
            assert_eq!(again.json()["duplicates"], fails.len() - missing);
            assert_eq!(bridge.bus.attempts(), fails.len() + missing);
            let ids: HashSet<_> = bridge.bus.stored().into_iter().map(|m| m.dedup_key).collect();
            assert_eq!(ids.len(), fails.len());
            assert_eq!(bridge.bus.stored().len(), fails.len());
            assert!(bridge.metrics().await.balances());
        });
    }
}

/// The stage alone.
fn stage(window: Duration, capacity: u64) -> (Dedup, Arc<Metrics>) {
    let metrics = metrics("memory", &[]);
    (Dedup::new(Options { window, capacity }, metrics.dedup()), metrics)
}

/// A key like those of the bridge: a hash.
fn key(at: u64) -> DedupKey {
    DedupKey::new("attio", &at.to_string())
}

fn acknowledge(dedup: &Dedup, key: DedupKey) {
    let Lookup::Miss(in_flight, _) = dedup.begin(key, true) else { panic!("the key is new") };
    Box::new(in_flight).settle(Ok(Ack { duplicate: false, position: None }));
}

fn is_hit(dedup: &Dedup, key: DedupKey) -> bool {
    matches!(dedup.begin(key, true), Lookup::Hit)
}

#[test]
fn a_full_memory_evicts_the_oldest_ids() {
    let capacity = 5_000;
    let (dedup, metrics) = stage(Duration::from_secs(3600), capacity);
    (0..2 * capacity).for_each(|at| acknowledge(&dedup, key(at)));
    dedup.measure();
    let lost: Vec<u64> =
        (2 * capacity - 1_000..2 * capacity).filter(|at| !is_hit(&dedup, key(*at))).collect();
    assert!(lost.is_empty(), "lost {} of the newest 1000", lost.len());
    dedup.measure();
    let handles = metrics.dedup();
    assert!(handles.entries.get() <= capacity.cast_signed());
    assert!(handles.capacity.get() >= capacity - 1_000, "{}", handles.capacity.get());
    assert_eq!(handles.expired.get(), 0);
}

#[test]
fn a_lookup_updates_recency() {
    let capacity = 2_000;
    let (dedup, _metrics) = stage(Duration::from_secs(3600), capacity);
    acknowledge(&dedup, key(u64::MAX));
    for at in 0..3 * capacity {
        acknowledge(&dedup, key(at));
        if at % 100 == 0 {
            dedup.measure();
            assert!(is_hit(&dedup, key(u64::MAX)), "after {at} others");
        }
    }
}

#[tokio::test]
async fn an_id_expires_at_the_end_of_its_window() {
    let bridge = Bridge::with(|config| config.dedup.window = Duration::from_millis(300)).await;
    assert_eq!(bridge.ask(&event()).await.reason(), "accepted");
    eventually("the window ends", || async { bridge.ask(&event()).await.reason() == "accepted" }).await;
    assert_eq!(bridge.bus.stored().len(), 2);
    let expired = [("cause", "expired")];
    eventually("an expiry is counted", || async {
        bridge.metric("dedup_evictions_total", &expired).await >= 1.0
    })
    .await;
}

#[test]
fn expired_ids_are_counted_once_under_concurrent_scrapes() {
    let (dedup, metrics) = stage(Duration::from_millis(1), 10_000);
    let (rounds, ids) = (40, 50);
    for round in 0..rounds {
        (0..ids).for_each(|at| acknowledge(&dedup, key(round * ids + at)));
        std::thread::sleep(Duration::from_millis(2));
        std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| dedup.measure()))));
    }
    let handles = metrics.dedup();
    let counted = (handles.entries.get(), handles.expired.get(), handles.capacity.get());
    assert_eq!(counted, (0, rounds * ids, 0));
}

#[test]
fn every_id_is_held_or_counted_as_evicted_under_concurrency() {
    let (dedup, metrics) = stage(Duration::from_millis(20), 200);
    let remembered = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for at in (0..4_000).map(|at| at % 1_000) {
                    if let Lookup::Miss(in_flight, _) = dedup.begin(key(at), true) {
                        remembered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        Box::new(in_flight).settle(Ok(Ack { duplicate: false, position: None }));
                    }
                    if at % 50 == 0 {
                        dedup.measure();
                    }
                }
            });
        }
    });
    dedup.measure();
    let handles = metrics.dedup();
    let gone = handles.expired.get() + handles.capacity.get();
    assert_eq!(gone + handles.entries.get().unsigned_abs(), remembered.into_inner());
}

#[tokio::test]
async fn random_ids_are_not_remembered() {
    let (dedup, metrics) = stage(Duration::from_secs(3600), 10);
    let Lookup::Miss(in_flight, waiter) = dedup.begin(key(1), false) else { panic!("the key is new") };
    assert_eq!(dedup.in_flight(), 1);
    Box::new(in_flight).settle(Ok(Ack { duplicate: false, position: None }));
    assert_eq!(waiter.await.unwrap(), Ok(Ack { duplicate: false, position: None }));
    assert_eq!(dedup.in_flight(), 0);
    dedup.measure();
    assert_eq!(metrics.dedup().entries.get(), 0);
    assert!(!is_hit(&dedup, key(1)));
}

#[tokio::test]
async fn a_dropped_in_flight_entry_fails_every_waiter_and_is_forgotten() {
    let (dedup, _metrics) = stage(Duration::from_secs(3600), 10);
    let Lookup::Miss(in_flight, first) = dedup.begin(key(1), true) else { panic!("the key is new") };
    let Lookup::Joined(second) = dedup.begin(key(1), true) else { panic!("the key is in flight") };
    drop(in_flight);
    assert!(first.await.is_err() && second.await.is_err());
    assert_eq!(dedup.in_flight(), 0);
    assert!(matches!(dedup.begin(key(1), true), Lookup::Miss(..)));
}

#[test]
fn many_threads_publish_each_id_once() {
    let (dedup, _metrics) = stage(Duration::from_secs(3600), 100_000);
    let published = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for at in 0..5_000 {
                    if let Lookup::Miss(in_flight, _) = dedup.begin(key(at), true) {
                        published.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        Box::new(in_flight).settle(Ok(Ack { duplicate: false, position: None }));
                    }
                }
            });
        }
    });
    assert_eq!(published.into_inner(), 5_000);
    assert_eq!(dedup.in_flight(), 0);
}

#[tokio::test]
async fn a_delivery_of_thousands_of_events_is_published_whole_and_in_order() {
    let bridge = Bridge::with(|config| config.http.answer_timeout = PATIENCE).await;
    let answer = bridge.ask(&batch("many", 4000)).await;
    assert_eq!(answer.json()["published"], 4000, "{answer:?}");
    let keys: Vec<_> = bridge
        .bus
        .stored()
        .iter()
        .map(|message| message.event.get(Attribute::PartitionKey).unwrap().to_owned())
        .collect();
    let sent: Vec<_> = (0..4000).map(|at| format!("t{at}")).collect();
    assert_eq!(keys, sent);
}

#[tokio::test]
async fn repeat_of_a_pending_publish_is_refused_at_once_during_an_outage() {
    let bridge = Bridge::impatient().await;
    bridge.bus.answer(Answer::Late);
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (503, "broker_timeout".into()));
    bridge.bus.set_state(attio_bridge::pipeline::publish::BusState::Down);
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (503, "broker_unavailable".into()));
    bridge.bus.set_state(attio_bridge::pipeline::publish::BusState::Up);
    bridge.bus.release();
    assert_eq!(bridge.ask(&event()).await.status_and_reason(), (200, "duplicate".into()));
    assert_eq!(bridge.bus.attempts(), 1);
}
