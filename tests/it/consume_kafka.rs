//! What `deploy/docs/consume-kafka.md` says about groups: who keeps the order of a key, what a rebalance takes away.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;

use crate::support::kafka::{Broker, shared};
use crate::support::program::{lent, lines, printed};
use crate::support::real_bus;
use crate::support::request::{Request, SECRET};
use crate::support::served::Served;
use crate::support::unique;
use crate::support::wait::{PATIENCE, eventually, eventually_some};
use crate::support::watched::kit;

/// The group protocol of old, and that of KIP-848.
const PROTOCOLS: [&str; 2] = ["classic", "consumer"];

/// How many partitions each rebalance took away.
#[derive(Default)]
struct Revocations(Mutex<Vec<usize>>);

impl ClientContext for Revocations {}

impl ConsumerContext for Revocations {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(partitions) = rebalance {
            self.0.lock().unwrap().push(partitions.count());
        }
    }
}

type Member = BaseConsumer<Revocations>;

fn join(broker: &Broker, protocol: &str, group: &str, topic: &str) -> Member {
    let mut config = broker.client();
    config.set("group.protocol", protocol).set("group.id", group).set("enable.auto.commit", "false");
    config.set("auto.offset.reset", "earliest");
    let member = Member::from_config_and_context(&config, Revocations::default()).unwrap();
    member.subscribe(&[topic]).unwrap();
    member
}

/// The next record; its value has its number. What is assigned or revoked meanwhile is handled by the client.
fn next(member: &Member) -> BorrowedMessage<'_> {
    eventually_some("a record comes", || member.poll(Duration::from_millis(50))).unwrap()
}

fn number(record: &BorrowedMessage<'_>) -> i64 {
    record.offset()
}

fn assigned(member: &Member) -> usize {
    let _ = member.poll(Duration::from_millis(20));
    member.assignment().unwrap().count()
}

/// Produces records of one key.
fn produce(broker: &Broker, topic: &str, count: usize) {
    let producer: BaseProducer = broker.client().create().unwrap();
    for _ in 0..count {
        assert!(producer.send(BaseRecord::to(topic).key("rec-1").payload("{}")).is_ok());
    }
    producer.flush(PATIENCE).unwrap();
}

#[test]
fn ordinary_group_keeps_the_order_of_a_key_across_a_rebalance() {
    let broker = shared();
    for protocol in PROTOCOLS {
        let (topic, group) = (broker.topic("ordered", 1), unique("ordered"));
        produce(&broker, &topic, 4);
        let first = join(&broker, protocol, &group, &topic);
        let mut handled = Vec::new();
        for _ in 0..2 {
            let record = next(&first);
            handled.push(number(&record));
            first.commit_message(&record, CommitMode::Sync).unwrap();
        }
        // In hand and not handled when the member leaves.
        assert_eq!(number(&next(&first)), 2, "{protocol}");
        let second = join(&broker, protocol, &group, &topic);
        first.unsubscribe();
        drop(first);
        for _ in 0..2 {
            handled.push(number(&next(&second)));
        }
        assert_eq!(handled, [0, 1, 2, 3], "{protocol}");
    }
}

#[test]
fn new_group_protocol_takes_away_only_the_partitions_that_move() {
    let broker = shared();
    for (protocol, taken) in PROTOCOLS.into_iter().zip([4, 2]) {
        let (topic, group) = (broker.topic("rebalanced", 4), unique("rebalanced"));
        let first = join(&broker, protocol, &group, &topic);
        eventually_some("it has all", || (assigned(&first) == 4).then_some(()));
        let second = join(&broker, protocol, &group, &topic);
        eventually_some("each has half", || {
            let counts = [assigned(&first), assigned(&second)];
            (counts == [2, 2]).then_some(())
        });
        assert_eq!(*first.context().0.lock().unwrap(), [taken], "{protocol}");
    }
}

/// A program of Kafka's own client.
fn java(file: &str, arguments: &[&str]) -> String {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/groups").join(file);
    let mut java = Command::new("java");
    java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]).arg(kit("kafka.jsa").join("jars/*"));
    let output = java.arg(program).args(arguments).output().expect("java starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn share_group_breaks_the_order_of_a_key_and_its_dead_letters_lose_their_headers() {
    let (broker, prefix, dead) = (shared(), unique("shared"), format!("dlq.{}", unique("shared")));
    broker.create_topic(&format!("{prefix}.record"), 1, &[]);
    broker.create_topic(&dead, 1, &[("errors.deadletterqueue.group.enable", "true")]);
    let mut variables = real_bus::kafka(&broker, &prefix, "structured");
    let bridge = real_bus::bridge(&variables).await;
    for id in ["e0", "e1", "e2"] {
        let ids = format!(r#"{{"workspace_id":"w","object_id":"o","record_id":"r","event_id":"{id}"}}"#);
        let body = format!(r#"{{"event_type":"record.updated","id":{ids}}}"#);
        assert_eq!(bridge.ask(&Request::keyed(id, body)).await.status, 200);
    }
    let said =
        java("ShareGroup.java", &[broker.bootstrap(), &format!("{prefix}.record"), &unique("share"), &dead]);
    // Which of the newer ones `b` gets first is up to the broker.
    let steps = |newer, last| {
        format!(
            "a got 0\nb got {newer}\nb accepted {newer}\na released 0\nb got 0\nb accepted 0\nb got {last}\nb rejected {last}\n"
        )
    };
    let last = [2, 1].into_iter().find(|last| said == steps(3 - last, *last));
    let last = last.unwrap_or_else(|| panic!("two members have events of one key at once: {said}"));

    let rejected = eventually_some("the broker writes the dead letter", || broker.read_all(&dead).pop());
    let names: BTreeSet<_> = rejected.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert!(!names.is_empty() && names.iter().all(|name| name.starts_with("__dlq.")), "{names:?}");
    assert_eq!(rejected.key(), "r");
    // A structured event is whole in its value, and the bridge's verbs read it.
    variables.push(("ATTIO_BRIDGE__ROUTE__CATEGORIES__RECORD".into(), dead));
    let read = ["tail", "--category", "record", "--from", "beginning", "--count", "1", "--json"];
    let event: &Value = &lines(&printed(&read, &variables))[0];
    assert_eq!(
        (&event["id"], &event["type"]),
        (&format!("e{last}").into(), &"com.attio.record.updated".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_by_a_quota_is_logged() {
    let (broker, prefix, client) = (shared(), unique("throttled"), unique("throttled"));
    java("Quota.java", &[broker.bootstrap(), &client, "10000"]);
    let mut variables = real_bus::kafka(&broker, &prefix, "structured");
    variables.push(("ATTIO_BRIDGE__KAFKA__PROPERTIES__CLIENT_ID".into(), client));
    variables.push(("ATTIO_WEBHOOK_SECRET".into(), SECRET.into()));
    let served = Served::start(&lent(&variables));
    let large = format!(
        r#"{{"event_type":"task.created","id":{{"workspace_id":"w","task_id":"t"}},"filler":"{}"}}"#,
        "x".repeat(100_000)
    );
    // Kafka lets the message pass, and delays what follows.
    eventually("it is published", || async {
        served.ask(&Request::keyed("large", &large)).await.status == 200
    })
    .await;
    eventually("the log names the quota", || async {
        served.log().concat().contains("a quota of the broker delays the bridge's messages")
    })
    .await;
}
