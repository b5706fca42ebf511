//! The Kafka adapter on a real broker.

use std::time::Duration;

use attio_bridge::bus::kafka::Options;
use attio_bridge::bus::kafka::options::{Ensure, Topics};
use attio_bridge::cloudevent::{Attribute, ContentMode};
use attio_bridge::pipeline::publish::{Bus, BusState};
use time::OffsetDateTime;

use crate::support::bus::{Awaited, label, message};
use crate::support::kafka::bench::Bench;
use crate::support::kafka::{Broker, CLUSTER, Layout, OTHER_CLUSTER, shared};
use crate::support::proxy::{Door, Flow, Way};
use crate::support::unique;
use crate::support::wait::{PATIENCE, eventually_blocking};

#[test]
fn structured_mode_keeps_data_byte_for_byte() {
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
    assert_eq!(records[0].header("content-type"), Some("application/cloudevents+json; charset=utf-8"));
}

#[test]
fn binary_mode_puts_attributes_into_headers() {
    let broker = shared();
    let topic = broker.topic("binary", 1);
    let bench = Bench::start_in(&broker, &[&topic], ContentMode::Binary, |_| {});
    let mut quarantined = message(&topic, "rec-2", "{}");
    quarantined.structured_only = true;
    let results = [message(&topic, "rec-1", "{\"a\":1}"), quarantined].map(|message| bench.publish(message));
    assert!(results.into_iter().all(|result| label(&result.wait()) == "acknowledged"));
    let records = broker.read_all(&topic);
    assert_eq!(records[0].value(), "{\"a\":1}");
    assert_eq!(records[0].header("content-type"), Some("application/json"));
    assert_eq!(records[0].header("ce_specversion"), Some("1.0"));
    assert_eq!(records[0].header("ce_partitionkey"), Some("rec-1"));
    assert_eq!(records[1].headers.len(), 1, "quarantine is structured in both modes");
}

/// A record that carried the event's time would be deleted at once on a topic with a shorter retention.
#[test]
fn record_is_stamped_with_the_time_of_publishing() {
    let now = || i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap();
    let broker = shared();
    let topic = broker.topic("stamped", 1);
    let bench = Bench::up(&broker, &[&topic]);
    let mut old = message(&topic, "rec-1", "{}");
    old.event.set(Attribute::Time, "2020-01-02T03:04:05.000Z");
    let before = now();
    assert_eq!(label(&bench.publish(old).wait()), "acknowledged");
    assert!((before..=now()).contains(&broker.read_all(&topic)[0].timestamp));
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
fn keys_are_partitioned_as_by_the_java_client() {
    const PARTITIONS: i32 = 7;
    let broker = shared();
    let topic = broker.topic("placed", PARTITIONS);
    let bench = Bench::up(&broker, &[&topic]);
    let results = MURMUR2.map(|(key, _)| bench.publish(message(&topic, key, "{}")));
    assert!(results.into_iter().all(|result| label(&result.wait()) == "acknowledged"));
    let records = broker.read_all(&topic);
    for (key, hash) in MURMUR2 {
        let record = records.iter().find(|record| record.key() == key).expect("the record is stored");
        assert_eq!(record.partition, (hash & i32::MAX) % PARTITIONS, "{key}");
    }
}

#[test]
fn events_of_one_key_keep_their_order() {
    const KEYS: usize = 5;
    const EACH: usize = 200;
    let broker = shared();
    let topic = broker.topic("ordered", 3);
    let bench = Bench::up(&broker, &[&topic]);
    let numbered = |n: usize| message(&topic, &format!("rec-{}", n % KEYS), format!("{{\"n\":{n:06}}}"));
    let results: Vec<_> = (0..KEYS * EACH).map(|n| bench.publish(numbered(n))).collect();
    assert!(results.into_iter().all(|result| label(&result.wait()) == "acknowledged"));
    let records = broker.read_all(&topic);
    assert_eq!(records.len(), KEYS * EACH);
    for key in (0..KEYS).map(|key| format!("rec-{key}")) {
        let values: Vec<_> = records.iter().filter(|record| record.key() == key).map(|r| r.value()).collect();
        assert_eq!(values.len(), EACH);
        assert!(values.is_sorted(), "{key}");
    }
}

#[test]
fn missing_topic_is_refused_by_name_until_it_is_created() {
    let broker = shared();
    let topic = unique("missing");
    let there = broker.topic("there", 1);
    let bench = Bench::up(&broker, &[&there]);
    let refused = bench.result(&topic);
    assert_eq!(label(&refused), "refused", "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains(&topic));
    assert_eq!(label(&bench.result(&there)), "acknowledged", "other topics are not affected");
    broker.create_topic(&topic, 1, &[]);
    eventually_blocking("it recovers", || label(&bench.result(&topic)) == "acknowledged");
}

#[test]
fn deleted_topic_is_refused_until_it_is_created_again() {
    let broker = shared();
    let topic = broker.topic("deleted", 1);
    let bench = Bench::up(&broker, &[&topic]);
    assert_eq!(label(&bench.result(&topic)), "acknowledged");
    broker.delete_topic(&topic);
    // What the client holds for the deleted partition may fail as "unavailable" first, which is retried too.
    // It is never acknowledged.
    eventually_blocking("it is refused", || {
        let result = bench.result(&topic);
        assert_ne!(label(&result), "acknowledged");
        label(&result) == "refused"
    });
    broker.create_topic(&topic, 1, &[]);
    eventually_blocking("it recovers", || label(&bench.result(&topic)) == "acknowledged");
}

#[test]
fn ensure_verify_waits_for_missing_topics() {
    let broker = shared();
    let (there, missing) = (broker.topic("verified", 1), unique("verified"));
    let bench = Bench::start(&broker, &[&there, &missing], |_| {});
    eventually_blocking("the bus is connected", || bench.metrics.bus().up.get() == 1);
    assert_eq!(label(&bench.result(&there)), "acknowledged");
    assert_eq!(bench.bus.state(), BusState::Starting);
    broker.create_topic(&missing, 1, &[]);
    bench.until(BusState::Up);
}

/// A broker that creates topics on metadata requests, as Kafka does by default.
fn auto_creating_broker() -> Broker {
    Broker::start_where(|_, _| Layout {
        properties: vec![("auto.create.topics.enable".into(), "true".into())],
        ..Layout::default()
    })
}

#[test]
fn no_topic_is_auto_created_by_metadata_requests_or_publishes() {
    let broker = auto_creating_broker();
    let (missing, other, gone) = (unique("verified"), unique("unlisted"), broker.topic("gone", 1));
    for ensure in [Ensure::Verify, Ensure::Off] {
        let bench = Bench::start(&broker, &[&missing, &gone], |options| options.topics.ensure = ensure);
        eventually_blocking("the bus is connected", || bench.metrics.bus().up.get() == 1);
        if ensure == Ensure::Verify {
            assert_eq!(label(&bench.result(&gone)), "acknowledged");
            broker.delete_topic(&gone);
        }
        for topic in [&missing, &other, &gone] {
            // A deleted topic may be "unavailable" first.
            eventually_blocking(&format!("{ensure:?}: {topic} is refused"), || {
                let result = bench.result(topic);
                assert_ne!(label(&result), "acknowledged", "{ensure:?}: {topic}");
                label(&result) == "refused"
            });
        }
        // Long enough for several metadata requests.
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
    assert_eq!(broker.partitions(&missing), Some(4), "created by the bridge, as configured");
    assert_eq!(label(&bench.result(&missing)), "acknowledged");
}

#[test]
fn ensure_create_creates_topics_as_configured() {
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
        assert_eq!(label(&bench.result(name)), "acknowledged");
    }
}

#[test]
fn ensure_create_uses_the_brokers_defaults() {
    let broker = shared();
    let name = unique("made");
    Bench::start(&broker, &[&name], |options| options.topics.ensure = Ensure::Create).wait_for(BusState::Up);
    assert_eq!(broker.partitions(&name), Some(1));
}

#[test]
fn too_large_message_is_rejected_and_its_neighbours_acknowledged() {
    let broker = shared();
    let topic = unique("small");
    broker.create_topic(&topic, 1, &[("max.message.bytes", "100000")]);
    let bench = Bench::up(&broker, &[&topic]);
    let of = |size: usize| message(&topic, "rec-1", format!("\"{}\"", "x".repeat(size)));
    let results: Vec<_> = (0..60).map(|n| bench.publish(of(if n == 30 { 150_000 } else { 5_000 }))).collect();
    for (n, result) in results.into_iter().enumerate() {
        let expected = if n == 30 { "rejected" } else { "acknowledged" };
        assert_eq!(label(&result.wait()), expected, "message {n}");
    }
}

#[test]
fn messages_of_a_too_large_batch_are_sent_one_by_one() {
    let broker = shared();
    let topic = unique("narrow");
    broker.create_topic(&topic, 1, &[("max.message.bytes", "10000")]);
    // Lingering makes batches that the topic refuses.
    let bench = Bench::start(&broker, &[&topic], |options| options.linger = Duration::from_millis(50));
    bench.until(BusState::Up);
    let of = |size: usize| message(&topic, "rec-1", format!("\"{}\"", "x".repeat(size)));
    let results: Vec<_> = (0..20).map(|n| bench.publish(of(if n == 7 { 12_000 } else { 3_000 }))).collect();
    for (n, result) in results.into_iter().enumerate() {
        let expected = if n == 7 { "rejected" } else { "acknowledged" };
        assert_eq!(label(&result.wait()), expected, "message {n}");
    }
    assert_eq!(broker.read_all(&topic).len(), 19);
}

#[test]
fn killed_broker_fails_publishes_at_once_until_it_is_back() {
    let broker = Broker::start();
    let topic = broker.topic("killed", 1);
    let bench = Bench::up(&broker, &[&topic]);
    assert_eq!(label(&bench.result(&topic)), "acknowledged");
    broker.kill();
    bench.until(BusState::Down);
    assert_eq!(bench.metrics.bus().up.get(), 0);
    let result = bench.publish(message(&topic, "rec-1", "{}"));
    let result = result.now().expect("settled when publish returns");
    assert_eq!(label(&result), "unavailable");
    assert!(result.unwrap_err().to_string().contains(broker.bootstrap()));
    broker.restart();
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result(&topic)), "acknowledged");
    assert_eq!(bench.metrics.bus().rebuilds.get(), 0);
}

#[test]
fn messages_in_flight_survive_a_broker_restart_without_duplicates() {
    let broker = Broker::start();
    let topic = broker.topic("under-way", 1);
    let bench = Bench::start(&broker, &[&topic], |options| options.publish_timeout = PATIENCE);
    let bench = bench.wait_for(BusState::Up);
    broker.pause();
    let results: Vec<_> = (0..100).map(|n| bench.publish(message(&topic, "rec-1", n.to_string()))).collect();
    broker.kill();
    broker.restart();
    assert!(results.into_iter().all(|result| label(&result.wait()) == "acknowledged"));
    assert_eq!(broker.read_all(&topic).len(), 100, "each is stored once");
}

#[test]
fn flush_waits_for_a_stalled_broker() {
    let broker = Broker::start();
    let topic = broker.topic("flushed", 1);
    let bench = Bench::up(&broker, &[&topic]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    broker.pause();
    let results: Vec<_> = (0..5).map(|_| bench.publish(message(&topic, "rec-1", "{}"))).collect();
    assert_eq!(runtime.block_on(bench.bus.flush(Duration::from_millis(200))), 5);
    broker.resume();
    assert_eq!(runtime.block_on(bench.bus.flush(PATIENCE)), 0);
    assert!(results.iter().all(|result| result.now().is_some_and(|v| label(&v) == "acknowledged")));
}

#[test]
fn broker_that_starts_after_the_bus_is_reached() {
    let broker = Broker::start();
    let topic = broker.topic("late", 1);
    broker.kill();
    let bench = Bench::start(&broker, &[&topic], |_| {});
    eventually_blocking("the bus is down", || {
        let result = bench.publish(message(&topic, "rec-1", "{}"));
        result.now().is_some_and(|result| label(&result) == "unavailable")
    });
    assert_eq!(bench.bus.state(), BusState::Starting);
    broker.restart();
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result(&topic)), "acknowledged");
}

/// What was acknowledged, and is to be in the topic.
#[derive(Default)]
struct Acknowledged(Vec<String>);

impl Acknowledged {
    fn publish(&mut self, bench: &Bench, topic: &str, data: &str) -> &'static str {
        self.note(bench.publish(message(topic, "rec-1", data.to_owned())), data)
    }

    fn note(&mut self, result: Awaited, data: &str) -> &'static str {
        let result = label(&result.wait());
        if result == "acknowledged" {
            self.0.push(format!("\"data\":{data}}}"));
        }
        result
    }

    fn assert_stored(&self, broker: &Broker, topic: &str) {
        let records = broker.read_all(topic);
        let stored = |data: &&String| records.iter().any(|record| record.value().ends_with(data.as_str()));
        let lost: Vec<_> = self.0.iter().filter(|data| !stored(data)).collect();
        assert!(lost.is_empty(), "acknowledged and not stored: {lost:?}");
    }
}

/// The broker is formatted anew under two bridges. Both get the same producer id, one from the old cluster and one
/// from the new; where their sequence numbers meet, the broker takes the message of one for a repeat.
fn formatted_anew(cluster: &str, in_flight: bool) {
    let (broker, proxy) = Broker::start_behind_a_proxy();
    let topic = broker.topic("formatted-anew", 1);
    let behind_proxy = |options: &mut Options| options.bootstrap_servers = proxy.addr().to_string();
    let old = Bench::start(&broker, &[&topic], behind_proxy).wait_for(BusState::Up);
    for n in 0..3 {
        assert_eq!(label(&old.publish(message(&topic, "rec-1", n.to_string())).wait()), "acknowledged");
    }
    proxy.set(Way::ToServer, Flow::Stall);
    let pending = in_flight.then(|| old.publish(message(&topic, "rec-1", "\"in flight\"")));
    proxy.door(Door::Shut);
    proxy.reset();
    broker.format_anew(cluster);
    broker.create_topic(&topic, 1, &[]);
    let new = Bench::up(&broker, &[&topic]);
    let mut acknowledged = Acknowledged::default();
    for n in 10..14 {
        assert_eq!(acknowledged.publish(&new, &topic, &n.to_string()), "acknowledged");
    }
    proxy.pass();
    if let Some(pending) = pending {
        acknowledged.note(pending, "\"in flight\"");
    }
    old.until(BusState::Up);
    for n in 20..30 {
        eventually_blocking("it publishes to the new cluster", || {
            acknowledged.publish(&old, &topic, &n.to_string()) == "acknowledged"
        });
        acknowledged.publish(&new, &topic, &(n + 10).to_string());
    }
    acknowledged.assert_stored(&broker, &topic);
    assert_eq!((old.metrics.bus().data_losses.get(), old.metrics.bus().rebuilds.get()), (1, 1));
    assert_eq!(new.metrics.bus().data_losses.get(), 0);
}

/// The broker is restored from an old copy under two bridges: its cluster and topics have the ids that they had. One
/// bridge was connected before, and publishes more or less than the other one does before it is connected again.
fn restored(before: u32, by_another: u32) {
    let (broker, proxy) = Broker::start_behind_a_proxy();
    let topic = broker.topic("restored", 1);
    let copy = broker.copy();
    let behind_proxy = |options: &mut Options| options.bootstrap_servers = proxy.addr().to_string();
    let old = Bench::start(&broker, &[&topic], behind_proxy).wait_for(BusState::Up);
    for n in 0..before {
        assert_eq!(label(&old.publish(message(&topic, "rec-1", n.to_string())).wait()), "acknowledged");
    }
    proxy.door(Door::Shut);
    proxy.reset();
    broker.restore(&copy);
    let new = Bench::up(&broker, &[&topic]);
    let mut acknowledged = Acknowledged::default();
    for n in 0..by_another {
        assert_eq!(acknowledged.publish(&new, &topic, &(100 + n).to_string()), "acknowledged");
    }
    proxy.pass();
    proxy.door(Door::Open);
    for n in 200..210 {
        eventually_blocking("it publishes to the restored cluster", || {
            acknowledged.publish(&old, &topic, &n.to_string()) == "acknowledged"
        });
        acknowledged.publish(&new, &topic, &(n + 100).to_string());
    }
    acknowledged.assert_stored(&broker, &topic);
    assert_eq!(old.metrics.bus().data_losses.get(), u64::from(by_another < before));
}

#[test]
fn restored_cluster_that_lacks_acknowledged_messages_is_noticed() {
    restored(4, 2);
}

#[test]
fn bridge_that_was_cut_off_from_a_restored_cluster_publishes_with_a_new_producer_id() {
    restored(4, 8);
}

/// The first message of a client has the sequence number 0. It is sent again to the new cluster, and the first
/// message of the client's successor, with the same producer id, is taken for a repeat of it.
#[test]
fn message_resent_to_another_cluster_does_not_acknowledge_the_first_message_of_a_new_client() {
    let (broker, proxy) = Broker::start_behind_a_proxy();
    let topic = broker.topic("resent", 1);
    let behind_proxy = |options: &mut Options| options.bootstrap_servers = proxy.addr().to_string();
    let bench = Bench::start(&broker, &[&topic], behind_proxy).wait_for(BusState::Up);
    proxy.set(Way::ToServer, Flow::Stall);
    let pending = bench.publish(message(&topic, "rec-1", "\"in flight\""));
    proxy.door(Door::Shut);
    proxy.reset();
    broker.format_anew(OTHER_CLUSTER);
    broker.create_topic(&topic, 1, &[]);
    proxy.pass();
    let mut acknowledged = Acknowledged::default();
    acknowledged.note(pending, "\"in flight\"");
    bench.until(BusState::Up);
    for n in 0..5 {
        eventually_blocking("it publishes to the new cluster", || {
            acknowledged.publish(&bench, &topic, &n.to_string()) == "acknowledged"
        });
    }
    acknowledged.assert_stored(&broker, &topic);
}

#[test]
fn idle_bridge_does_not_publish_with_the_producer_id_of_another_cluster() {
    formatted_anew(OTHER_CLUSTER, false);
}

#[test]
fn message_in_flight_is_not_acknowledged_by_another_cluster() {
    formatted_anew(OTHER_CLUSTER, true);
}

#[test]
fn idle_bridge_does_not_publish_with_the_producer_id_of_a_cluster_formatted_anew_with_the_same_id() {
    formatted_anew(CLUSTER, false);
}

#[test]
fn message_in_flight_is_not_acknowledged_by_a_cluster_formatted_anew_with_the_same_id() {
    formatted_anew(CLUSTER, true);
}

#[test]
fn changes_of_a_topic_are_noticed_while_nothing_is_published() {
    let broker = shared();
    let topic = broker.topic("changed", 1);
    let bench = Bench::up(&broker, &[&topic]);
    assert_eq!(label(&bench.result(&topic)), "acknowledged");
    broker.set_topic(&topic, "retention.ms", "1000");
    eventually_blocking("the setting is a warning", || {
        bench.bus.warning().is_some_and(|warning| warning.contains("retention.ms 1000"))
    });
    broker.delete_topic(&topic);
    broker.create_topic(&topic, 1, &[]);
    eventually_blocking("the topic is another", || bench.metrics.bus().data_losses.get() == 1);
    bench.until(BusState::Up);
    eventually_blocking("the warning is gone", || {
        !bench.bus.warning().is_some_and(|warning| warning.contains("retention.ms"))
    });
}

/// Within one cluster no producer id is given twice, so the client may stay. What it acknowledges is in the new topic.
#[test]
fn deleted_and_recreated_topic_stores_what_it_acknowledges() {
    let broker = shared();
    let topic = broker.topic("recreated", 1);
    let benches = [Bench::up(&broker, &[&topic]), Bench::up(&broker, &[&topic])];
    for bench in &benches {
        assert_eq!(label(&bench.result(&topic)), "acknowledged");
    }
    broker.delete_topic(&topic);
    broker.create_topic(&topic, 1, &[]);
    let mut acknowledged = Acknowledged::default();
    for n in 0..10 {
        for (bench, data) in benches.iter().zip([n, 100 + n]) {
            eventually_blocking("it publishes to the new topic", || {
                acknowledged.publish(bench, &topic, &data.to_string()) == "acknowledged"
            });
        }
    }
    acknowledged.assert_stored(&broker, &topic);
}
