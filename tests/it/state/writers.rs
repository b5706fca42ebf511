//! Several writers of the same states at once, on real brokers: what is stored keeps the rule.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use attio_bridge::bus;
use attio_bridge::bus::read::{Begin, Item, Plan};
use attio_bridge::bus::state::{
    Change, Content, Outcome, Role, State, StateError, Version, Writer, milliseconds,
};
use attio_bridge::bus::states::{self, Publisher};
use attio_bridge::cloudevent::{Attribute, CloudEvent, Data, timestamp};
use attio_bridge::pipeline::publish::Destination;
use bytes::Bytes;
use parking_lot::Mutex;
use time::OffsetDateTime;

use super::scene::{Bus, Kept, Scene};
use crate::support::bridge::config;
use crate::support::kafka::Broker;
use crate::support::kafka::gate::{LIST_OFFSETS, gate};
use crate::support::kafka::security::{Door, PASSWORD, UNPRIVILEGED_USER, shared};
use crate::support::kafka::variables::variables as kafka_variables;
use crate::support::nats::cluster::Cluster;
use crate::support::ports::free_address;
use crate::support::program::lent;
use crate::support::{nats, unique};

const KEYS: usize = 12;
const ROUNDS: usize = 40;

/// A state of a key that was true at a time.
pub fn state(prefix: &str, key: &str, at: Option<i64>) -> State {
    let address: Arc<str> = format!("{prefix}-state.record").into();
    let destination = Arc::new(Destination { subject: format!("{address}.{key}").into(), address });
    let Some(at) = at else {
        let content = Content::Gone("com.attio.record.gone".into());
        return State { destination, key: key.into(), at: 0, content };
    };
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000).unwrap();
    let mut event =
        CloudEvent::new(&format!("{key}-{at}"), &["urn:x"], Data::Json(Bytes::from_static(b"{}")));
    event.set(Attribute::Type, "com.attio.record.state");
    event.set(Attribute::Time, timestamp(time).unwrap());
    State { destination, key: key.into(), at, content: Content::Value(Arc::new(event)) }
}

fn writer(scene: &Scene, role: Role) -> Writer {
    let prefix = format!("{}-state", scene.prefix);
    let stream = scene.variables.iter().find(|(name, _)| name.ends_with("STATE__STREAM"));
    let stream = stream.map_or_else(|| "none".to_owned(), |(_, name)| name.clone());
    let addresses = vec![format!("{prefix}.record").into()];
    Writer { group: prefix.clone(), role, addresses, prefix, stream }
}

fn options(scene: &Scene) -> bus::Options {
    config(&lent(&scene.variables)).bus
}

pub async fn start(scene: &Scene, role: Role) -> Publisher {
    states::writer(&options(scene), writer(scene, role), OffsetDateTime::now_utc).await.unwrap()
}

pub fn change(state: State) -> Change {
    Change { state: Some(state), events: Vec::new() }
}

/// Writes states of all keys, as old as reads are; returns the newest of each key that was stored or found newer.
async fn write(
    publisher: Publisher,
    prefix: String,
    clock: Arc<AtomicI64>,
    buries: bool,
) -> BTreeMap<String, Version> {
    let mut newest = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut batch = Vec::new();
        for key in (0..KEYS).filter(|_| fastrand::bool()) {
            let at = clock.fetch_add(1, Ordering::Relaxed) - fastrand::i64(0..20);
            let is_last = buries && round == ROUNDS / 2 && key % 3 == 0;
            batch.push(state(&prefix, &format!("key-{key}"), (!is_last).then_some(at)));
        }
        let outcomes = publisher.publish(batch.iter().cloned().map(change).collect()).await.unwrap();
        for (state, outcome) in batch.into_iter().zip(outcomes) {
            if outcome == Outcome::Done {
                let known: &mut Version = newest.entry(state.key.to_string()).or_insert(state.version());
                *known = (*known).max(state.version());
            }
        }
    }
    newest
}

fn version(kept: &Kept) -> Version {
    let Some(event) = &kept.event else { return Version::Gone };
    let time = OffsetDateTime::parse(
        event["time"].as_str().unwrap(),
        &time::format_description::well_known::Rfc3339,
    );
    Version::At(milliseconds(time.unwrap()))
}

#[test]
fn three_writers_at_once_keep_the_rule_on_either_bus() {
    for scene in Scene::both() {
        if let Bus::Nats(server) = &scene.bus {
            // One that keeps everything, to see the order.
            let Writer { stream, prefix, .. } = writer(&scene, Role::Run);
            server.create_stream(&stream, &[&format!("{prefix}.>")], |config| config.allow_direct = true);
        }
        let runtime = nats::runtime();
        let now = milliseconds(OffsetDateTime::now_utc());
        let clock = Arc::new(AtomicI64::new(now));
        let mut newest: BTreeMap<String, Version> = BTreeMap::new();
        let written = runtime.block_on(async {
            let mut writers = Vec::new();
            for role in [Role::Run, Role::Backfill, Role::Repair] {
                let publisher = start(&scene, role).await;
                let write = write(publisher, scene.prefix.clone(), Arc::clone(&clock), role == Role::Run);
                writers.push(tokio::spawn(write));
            }
            let mut written = Vec::new();
            for writer in writers {
                written.push(writer.await.unwrap());
            }
            written
        });
        for (key, version) in written.into_iter().flatten() {
            let known = newest.entry(key).or_insert(version);
            *known = (*known).max(version);
        }
        assert_eq!(newest.len(), KEYS);
        let mut last: BTreeMap<String, Version> = BTreeMap::new();
        for kept in scene.kept() {
            let (key, version) = (kept.key.clone(), version(&kept));
            if let Some(before) = last.insert(key, version) {
                assert!(before.allows(version), "{before:?} is followed by {version:?} of {}", kept.key);
            }
        }
        assert_eq!(last, newest);
    }
}

/// Another writer's state may come before any of the requests with which the tail finds out where to begin.
#[test]
fn what_another_writes_while_a_writer_asks_where_to_begin_is_seen_by_it() {
    let (broker, proxy) = Broker::start_behind_a_proxy();
    let (broker, far) = (Arc::new(broker), proxy.upstream());
    let mut request = 0;
    loop {
        let mut scene = Scene::on_kafka(Arc::clone(&broker));
        let now = milliseconds(OffsetDateTime::now_utc());
        let other = nats::runtime().block_on(start(&scene, Role::Backfill));
        let newer = vec![change(state(&scene.prefix, "one", Some(now)))];
        let asked = Arc::new(Mutex::new((0, None)));
        let gate = {
            let asked = Arc::clone(&asked);
            gate(far, LIST_OFFSETS, move || {
                let (count, written) = &mut *asked.lock();
                if *count == request {
                    *written = Some(nats::runtime().block_on(other.publish(newer.clone())));
                }
                *count += 1;
            })
        };
        proxy.lead_to(gate);
        scene.set("KAFKA__BOOTSTRAP_SERVERS", &proxy.addr().to_string());
        let outcomes = nats::runtime().block_on(async {
            let run = writer(&scene, Role::Run);
            match states::writer(&options(&scene), run, OffsetDateTime::now_utc).await {
                Ok(run) => run.publish(vec![change(state(&scene.prefix, "one", Some(now - 1)))]).await,
                Err(error) => Err(error),
            }
        });
        let (count, written) = std::mem::take(&mut *asked.lock());
        let outcomes = match outcomes {
            // The other one was slower than the client waits for an answer.
            Err(StateError::Passing(_)) => continue,
            outcomes => outcomes.unwrap(),
        };
        let Some(written) = written else {
            assert!(count > 3 && count == request, "{count} requests");
            assert_eq!(outcomes, [Outcome::Done], "the other one has written nothing");
            return;
        };
        assert_eq!(written.unwrap(), [Outcome::Done]);
        assert_eq!(outcomes, [Outcome::Newer], "written before request {request}");
        request += 1;
    }
}

#[test]
fn state_that_was_read_before_a_restart_or_long_ago_is_not_written() {
    let scene = Scene::kafka();
    let now = milliseconds(OffsetDateTime::now_utc());
    let one = |key: &str, at: Option<i64>| vec![change(state(&scene.prefix, key, at))];
    let outcomes = nats::runtime().block_on(async {
        let first = start(&scene, Role::Run).await;
        first.publish([one("gone", Some(now - 2000)), one("gone", None)].concat()).await.unwrap();
        drop(first);
        let second = start(&scene, Role::Run).await;
        let old = now - 11 * 60 * 1000;
        second
            .publish([one("gone", Some(now - 1000)), one("new", Some(old)), one("other", Some(now))].concat())
            .await
            .unwrap()
    });
    assert_eq!(outcomes, [Outcome::Gone, Outcome::TooOld, Outcome::Done]);
}

#[test]
fn state_that_is_replaced_while_all_are_read_is_read() {
    const STATES: usize = 200;
    let scene = Scene::nats();
    let stream = scene.stream().to_owned();
    let mut variables = scene.variables.clone();
    variables.push(("ATTIO_BRIDGE__NATS__STREAM__NAME".into(), stream));
    let (now, kind) = (milliseconds(OffsetDateTime::now_utc()), config(&lent(&variables)).bus.kind);
    let one = |number: usize, at: i64| change(state(&scene.prefix, &format!("key-{number}"), Some(at)));
    let seen = nats::runtime().block_on(async {
        let publisher = start(&scene, Role::Run).await;
        publisher.publish((0..STATES).map(|number| one(number, now)).collect()).await.unwrap();
        let address: Arc<str> = format!("{}-state.record", scene.prefix).into();
        let destination = Arc::new(Destination { subject: format!("{address}.>").into(), address });
        let plan = Plan { destinations: vec![destination], begin: Begin::Beginning, follow: false };
        let mut reader = bus::read(&kind, plan).await.unwrap();
        let mut seen = vec![reader.next().await.unwrap().unwrap().address];
        publisher.publish(vec![one(STATES, now)]).await.unwrap();
        publisher.publish(vec![one(STATES - 1, now + 1)]).await.unwrap();
        while let Some(item) = reader.next().await {
            seen.push(item.unwrap().address);
        }
        reader.end().await;
        seen
    });
    let unseen: Vec<_> = (0..STATES)
        .filter(|number| !seen.iter().any(|seen| seen.ends_with(&format!(".key-{number}"))))
        .collect();
    assert_eq!(unseen, [0; 0]);
}

fn any(scene: &Scene) -> Result<Option<Item>, StateError> {
    nats::runtime().block_on(states::any(&options(scene), &writer(scene, Role::Run)))
}

#[test]
fn kept_state_is_found_behind_tombstones_and_none_where_there_is_none() {
    const TOMBSTONES: usize = 150;
    for scene in Scene::both() {
        assert!(any(&scene).unwrap().is_none(), "there is no topic and no stream");
        let now = milliseconds(OffsetDateTime::now_utc());
        let one = |key: &str, at: Option<i64>| change(state(&scene.prefix, key, at));
        nats::runtime().block_on(async {
            let publisher = start(&scene, Role::Run).await;
            let gone = (0..TOMBSTONES).map(|number| one(&format!("gone-{number}"), None)).collect();
            publisher.publish(gone).await.unwrap();
        });
        assert!(any(&scene).unwrap().is_none(), "there are tombstones only");
        nats::runtime().block_on(async {
            let publisher = start(&scene, Role::Run).await;
            publisher.publish(vec![one("kept", Some(now))]).await.unwrap();
        });
        assert!(!any(&scene).unwrap().expect("a state").payload.is_empty());
    }
}

#[test]
fn what_cannot_be_looked_at_is_not_taken_for_empty() {
    for mut scene in Scene::both() {
        nats::runtime().block_on(async {
            let now = milliseconds(OffsetDateTime::now_utc());
            let publisher = start(&scene, Role::Run).await;
            publisher.publish(vec![change(state(&scene.prefix, "kept", Some(now)))]).await.unwrap();
        });
        let (away, is_kafka) = (free_address(), matches!(scene.bus, Bus::Kafka(_)));
        let (name, value) = match is_kafka {
            true => ("KAFKA__BOOTSTRAP_SERVERS", away),
            false => ("NATS__SERVERS", format!("nats://{away}")),
        };
        scene.set(name, &value);
        let looked = any(&scene);
        assert!(matches!(looked, Err(StateError::Passing(_))), "{looked:?}");
    }
}

#[test]
fn topic_that_may_not_be_read_is_not_taken_for_empty() {
    let secured = shared();
    let mut scene = Scene::on_kafka(Arc::new(Broker::at(secured.broker.bootstrap().to_owned())));
    secured.broker.create_topic(&format!("{}-state.record", scene.prefix), 1, &[]);
    let login = secured.login(Door::SaslTls, "PLAIN", UNPRIVILEGED_USER, PASSWORD);
    scene.variables.extend(kafka_variables(&login, &scene.prefix));
    let looked = any(&scene);
    assert!(
        matches!(&looked, Err(StateError::Passing(reason)) if reason.contains("not authorised")),
        "{looked:?}"
    );
}

/// The ack of the first try was lost, so it is sent again: a stream of one replica refuses it as of another sequence, one
/// of three may call it a duplicate.
#[test]
fn second_try_of_a_stored_state_is_done_and_stored_once() {
    let (server, cluster) = (nats::shared(), Cluster::start());
    for (servers, admin, replicas) in
        [(server.url(), &*server, "1"), (cluster.urls(), &cluster.servers[0], "3")]
    {
        let prefix = unique("again").replace('.', "-");
        let variables = [
            ("ATTIO_BRIDGE__BUS__TYPE", "nats"),
            ("ATTIO_BRIDGE__NATS__SERVERS", &*servers),
            ("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "create"),
            ("ATTIO_BRIDGE__NATS__STREAM__REPLICAS", replicas),
        ];
        let (stream, state_prefix) = (format!("{prefix}-STATE"), format!("{prefix}-state"));
        let writer = Writer {
            group: prefix.clone(),
            role: Role::Run,
            addresses: vec![format!("{state_prefix}.record").into()],
            prefix: state_prefix,
            stream: stream.clone(),
        };
        let (last, sequence) = nats::runtime().block_on(async {
            let bus = config(&variables).bus;
            let publisher = states::writer(&bus, writer, OffsetDateTime::now_utc).await.unwrap();
            let at = milliseconds(OffsetDateTime::now_utc());
            let one = change(state(&prefix, "one", Some(at)));
            let gone = change(state(&prefix, "two", None));
            for _ in 0..2 {
                let outcomes = publisher.publish(vec![one.clone(), gone.clone()]).await.unwrap();
                assert_eq!(outcomes, [Outcome::Done, Outcome::Done]);
            }
            let older = change(state(&prefix, "one", Some(at - 1)));
            let late = change(state(&prefix, "two", Some(at + 1)));
            let last = publisher.publish(vec![older, late]).await.unwrap();
            let stream = admin.admin().await.get_stream(&stream).await.unwrap();
            (last, stream.cached_info().state.last_sequence)
        });
        assert_eq!(last, [Outcome::Newer, Outcome::Gone], "{replicas} replicas");
        assert_eq!(sequence, 2, "{replicas} replicas");
    }
}
