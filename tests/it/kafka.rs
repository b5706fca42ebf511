//! The Kafka adapter on a real broker.

use std::time::{Duration, Instant};

use attio_bridge::bus::kafka::options::{Ensure, Topics};
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::pipeline::publish::{Bus, BusState};

use crate::support::bus::{label, message};
use crate::support::kafka::bench::Bench;
use crate::support::kafka::{Broker, Layout, shared};
use crate::support::{PATIENCE, eventually, unique};

#[test]
fn a_structured_event_arrives_byte_for_byte() {
    let broker = shared();
    let topic = broker.topic("structured", 1);
    let bench = Bench::up(&broker, &[&topic]);
    let data = "{ \"big\" : 12345678901234567890.0, \"text\":\"\\u00e9 é\" }";
    assert_eq!(label(&bench.publish(message(&topic, "rec-1", data)).wait()), "acknowledged");
    let records = broker.read_all(&topic);
    assert_eq!(records.len(), 1);
    let envelope = format!(
        "{{\"specversion\":\"1.0\",\"id\":\"event-1\",\"source\":\"https://attio.com/x\",\
         \"type\":\"com.attio.record.created\",\"datacontenttype\":\"application/json\",\
         \"partitionkey\":\"rec-1\",\"data\":{data}}}"
    );
    assert_eq!(records[0].value(), envelope);
    assert_eq!(records[0].key(), "rec-1");
    assert_eq!(records[0].headers.len(), 1, "{:?}", records[0].headers);
    assert_eq!(records[0].header("content-type"), Some("application/cloudevents+json; charset=UTF-8"));
}

#[test]
fn a_binary_event_arrives_with_its_attributes_as_headers() {
    let broker = shared();
    let topic = broker.topic("binary", 1);
    let bench = Bench::start_in(&broker, &[&topic], ContentMode::Binary, |_| {});
    let mut quarantined = message(&topic, "rec-2", "{}");
    quarantined.structured_only = true;
    let verdicts = [message(&topic, "rec-1", "{\"a\":1}"), quarantined].map(|message| bench.publish(message));
    assert!(verdicts.into_iter().all(|verdict| label(&verdict.wait()) == "acknowledged"));
    let records = broker.read_all(&topic);
    assert_eq!(records[0].value(), "{\"a\":1}");
    assert_eq!(records[0].header("content-type"), Some("application/json"));
    assert_eq!(records[0].header("ce_specversion"), Some("1.0"));
    assert_eq!(records[0].header("ce_partitionkey"), Some("rec-1"));
    assert_eq!(records[1].headers.len(), 1, "quarantine is structured in either mode");
}

/// Values of the Java client's `Utils.murmur2`, from its own unit test.
const MURMUR2: [(&str, i32); 6] = [
    ("21", -973_932_308),
    ("foobar", -790_332_482),
    ("a-little-bit-long-string", -985_981_536),
    ("a-little-bit-longer-string", -1_486_304_829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
    ("abc", 479_470_107),
];

#[test]
fn a_key_lies_in_the_partition_where_the_java_client_puts_it() {
    const PARTITIONS: i32 = 7;
    let broker = shared();
    let topic = broker.topic("placed", PARTITIONS);
    let bench = Bench::up(&broker, &[&topic]);
    let verdicts = MURMUR2.map(|(key, _)| bench.publish(message(&topic, key, "{}")));
    assert!(verdicts.into_iter().all(|verdict| label(&verdict.wait()) == "acknowledged"));
    let records = broker.read_all(&topic);
    for (key, hash) in MURMUR2 {
        let record = records.iter().find(|record| record.key() == key).expect("the record is there");
        assert_eq!(record.partition, (hash & i32::MAX) % PARTITIONS, "{key}");
    }
}

#[test]
fn the_events_of_one_key_keep_their_order() {
    const KEYS: usize = 5;
    const EACH: usize = 200;
    let broker = shared();
    let topic = broker.topic("ordered", 3);
    let bench = Bench::up(&broker, &[&topic]);
    let numbered = |n: usize| message(&topic, &format!("rec-{}", n % KEYS), format!("{{\"n\":{n:06}}}"));
    let verdicts: Vec<_> = (0..KEYS * EACH).map(|n| bench.publish(numbered(n))).collect();
    assert!(verdicts.into_iter().all(|verdict| label(&verdict.wait()) == "acknowledged"));
    let records = broker.read_all(&topic);
    assert_eq!(records.len(), KEYS * EACH);
    for key in (0..KEYS).map(|key| format!("rec-{key}")) {
        let values: Vec<_> = records.iter().filter(|record| record.key() == key).map(|r| r.value()).collect();
        assert_eq!(values.len(), EACH);
        assert!(values.is_sorted(), "{key}");
    }
}

#[test]
fn a_missing_topic_is_refused_by_name_and_heals_when_it_is_made() {
    let broker = shared();
    let topic = unique("missing");
    let there = broker.topic("there", 1);
    let bench = Bench::up(&broker, &[&there]);
    let begun = Instant::now();
    let refused = bench.verdict(&topic);
    assert_eq!(label(&refused), "refused", "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(refused.unwrap_err().to_string().contains(&topic));
    assert_eq!(label(&bench.verdict(&there)), "acknowledged", "its neighbours go on");
    broker.create_topic(&topic, 1, &[]);
    eventually("it heals", || label(&bench.verdict(&topic)) == "acknowledged");
}

#[test]
fn a_topic_that_is_deleted_and_made_again_heals() {
    let broker = shared();
    let topic = broker.topic("deleted", 1);
    let bench = Bench::up(&broker, &[&topic]);
    assert_eq!(label(&bench.verdict(&topic)), "acknowledged");
    broker.delete_topic(&topic);
    let begun = Instant::now();
    // The client may first give back what it holds for the vanished partition ("unavailable"): the
    // sender tries again then too. What must never come is an ack.
    eventually("it is refused", || {
        let verdict = bench.verdict(&topic);
        assert_ne!(label(&verdict), "acknowledged");
        label(&verdict) == "refused"
    });
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    broker.create_topic(&topic, 1, &[]);
    eventually("it heals", || label(&bench.verdict(&topic)) == "acknowledged");
}

#[test]
fn verify_waits_for_the_topics_before_it_is_up() {
    let broker = shared();
    let (there, missing) = (broker.topic("verified", 1), unique("verified"));
    let bench = Bench::start(&broker, &[&there, &missing], |_| {});
    eventually("first contact", || bench.metrics.bus().up.get() == 1);
    assert_eq!(label(&bench.verdict(&there)), "acknowledged");
    assert_eq!(bench.bus.state(), BusState::Starting);
    broker.create_topic(&missing, 1, &[]);
    bench.until(BusState::Up);
}

/// A broker that makes every topic that a client asks about, as Kafka does by default.
fn obliging() -> Broker {
    Broker::start_where(|_, _| Layout {
        properties: vec![("auto.create.topics.enable".into(), "true".into())],
        ..Layout::default()
    })
}

#[test]
fn no_look_at_topics_and_no_publish_makes_one_where_a_broker_would_make_any_that_is_asked_about() {
    let broker = obliging();
    let (missing, other, gone) = (unique("verified"), unique("unlisted"), broker.topic("gone", 1));
    for ensure in [Ensure::Verify, Ensure::Off] {
        let bench = Bench::start(&broker, &[&missing, &gone], |options| options.topics.ensure = ensure);
        eventually("first contact", || bench.metrics.bus().up.get() == 1);
        if ensure == Ensure::Verify {
            assert_eq!(label(&bench.verdict(&gone)), "acknowledged");
            broker.delete_topic(&gone);
        }
        for topic in [&missing, &other, &gone] {
            // "Unavailable" is what the client may say first of a topic that vanishes.
            eventually(&format!("{ensure:?}: {topic} is refused"), || {
                let verdict = bench.verdict(topic);
                assert_ne!(label(&verdict), "acknowledged", "{ensure:?}: {topic}");
                label(&verdict) == "refused"
            });
        }
        // Long enough for several looks at the topics and at what was refused.
        std::thread::sleep(Duration::from_secs(3));
        let there = broker.topics();
        assert!(
            [&missing, &other, &gone].iter().all(|topic| !there.contains(topic)),
            "{ensure:?}: {there:?}"
        );
        if ensure == Ensure::Verify {
            assert_eq!(bench.bus.state(), BusState::Starting);
        }
    }
    let bench = Bench::start(&broker, &[&missing], |options| {
        options.topics = Topics { ensure: Ensure::Create, partitions: Some(4), ..Topics::default() };
    });
    bench.until(BusState::Up);
    assert_eq!(broker.partitions(&missing), Some(4), "made by the bridge, as told");
    assert_eq!(label(&bench.verdict(&missing)), "acknowledged");
}

#[test]
fn create_makes_the_topics_as_told() {
    let broker = shared();
    let names = [unique("made"), unique("made")];
    let bench = Bench::start(&broker, &[&names[0], &names[1]], |options| {
        options.topics = Topics {
            ensure: Ensure::Create,
            partitions: Some(4),
            replication_factor: Some(1),
            min_insync_replicas: Some(1),
            retention: Some(Duration::from_secs(3600)),
        };
    })
    .wait_for(BusState::Up);
    for name in &names {
        assert_eq!(broker.partitions(name), Some(4));
        assert_eq!(broker.topic_setting(name, "retention.ms").as_deref(), Some("3600000"));
        assert_eq!(label(&bench.verdict(name)), "acknowledged");
    }
}

#[test]
fn create_leaves_numbers_to_the_broker_where_none_are_told() {
    let broker = shared();
    let name = unique("made");
    Bench::start(&broker, &[&name], |options| options.topics.ensure = Ensure::Create).wait_for(BusState::Up);
    assert_eq!(broker.partitions(&name), Some(1));
}

#[test]
fn what_the_topic_does_not_take_is_rejected_alone() {
    let broker = shared();
    let topic = unique("small");
    broker.create_topic(&topic, 1, &[("max.message.bytes", "100000")]);
    let bench = Bench::up(&broker, &[&topic]);
    let of = |size: usize| message(&topic, "rec-1", format!("\"{}\"", "x".repeat(size)));
    let verdicts: Vec<_> =
        (0..60).map(|n| bench.publish(of(if n == 30 { 150_000 } else { 5_000 }))).collect();
    for (n, verdict) in verdicts.into_iter().enumerate() {
        let expected = if n == 30 { "rejected" } else { "acknowledged" };
        assert_eq!(label(&verdict.wait()), expected, "message {n}");
    }
}

#[test]
fn messages_that_are_only_too_large_together_are_acknowledged() {
    let broker = shared();
    let topic = unique("narrow");
    broker.create_topic(&topic, 1, &[("max.message.bytes", "10000")]);
    // They wait for each other, so that they make batches the topic does not take.
    let bench = Bench::start(&broker, &[&topic], |options| options.linger = Duration::from_millis(50));
    bench.until(BusState::Up);
    let of = |size: usize| message(&topic, "rec-1", format!("\"{}\"", "x".repeat(size)));
    let verdicts: Vec<_> = (0..20).map(|n| bench.publish(of(if n == 7 { 12_000 } else { 3_000 }))).collect();
    for (n, verdict) in verdicts.into_iter().enumerate() {
        let expected = if n == 7 { "rejected" } else { "acknowledged" };
        assert_eq!(label(&verdict.wait()), expected, "message {n}");
    }
    assert_eq!(broker.read_all(&topic).len(), 19);
}

#[test]
fn a_killed_broker_is_noticed_refused_at_once_and_taken_up_again() {
    let broker = Broker::start();
    let topic = broker.topic("killed", 1);
    let bench = Bench::up(&broker, &[&topic]);
    assert_eq!(label(&bench.verdict(&topic)), "acknowledged");
    broker.kill();
    bench.until(BusState::Down);
    assert_eq!(bench.metrics.bus().up.get(), 0);
    let verdict = bench.publish(message(&topic, "rec-1", "{}"));
    let verdict = verdict.now().expect("the verdict is there when publish returns");
    assert_eq!(label(&verdict), "unavailable");
    assert!(verdict.unwrap_err().to_string().contains(broker.bootstrap()));
    broker.restart();
    let back = Instant::now();
    bench.until(BusState::Up);
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    assert_eq!(label(&bench.verdict(&topic)), "acknowledged");
    assert_eq!(bench.metrics.bus().rebuilds.get(), 0);
}

#[test]
fn what_is_under_way_when_the_broker_is_killed_arrives_once_it_is_back() {
    let broker = Broker::start();
    let topic = broker.topic("under-way", 1);
    let bench = Bench::start(&broker, &[&topic], |options| options.publish_timeout = PATIENCE);
    let bench = bench.wait_for(BusState::Up);
    broker.pause();
    let verdicts: Vec<_> = (0..100).map(|n| bench.publish(message(&topic, "rec-1", n.to_string()))).collect();
    broker.kill();
    broker.restart();
    assert!(verdicts.into_iter().all(|verdict| label(&verdict.wait()) == "acknowledged"));
    assert_eq!(broker.read_all(&topic).len(), 100, "each is stored once");
}

#[test]
fn flush_waits_for_a_broker_that_stalls() {
    let broker = Broker::start();
    let topic = broker.topic("flushed", 1);
    let bench = Bench::up(&broker, &[&topic]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    broker.pause();
    let verdicts: Vec<_> = (0..5).map(|_| bench.publish(message(&topic, "rec-1", "{}"))).collect();
    assert_eq!(runtime.block_on(bench.bus.flush(Duration::from_millis(200))), 5);
    broker.resume();
    assert_eq!(runtime.block_on(bench.bus.flush(PATIENCE)), 0);
    assert!(verdicts.iter().all(|verdict| verdict.now().is_some_and(|v| label(&v) == "acknowledged")));
}

#[test]
fn a_broker_that_starts_after_the_bus_is_found() {
    let broker = Broker::start();
    let topic = broker.topic("late", 1);
    broker.kill();
    let bench = Bench::start(&broker, &[&topic], |_| {});
    eventually("it is known to be away", || {
        let verdict = bench.publish(message(&topic, "rec-1", "{}"));
        verdict.now().is_some_and(|verdict| label(&verdict) == "unavailable")
    });
    assert_eq!(bench.bus.state(), BusState::Starting);
    broker.restart();
    bench.until(BusState::Up);
    assert_eq!(label(&bench.verdict(&topic)), "acknowledged");
}
