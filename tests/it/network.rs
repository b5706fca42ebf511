//! Failures of the broker, of its network and of the sender's network at every step of a delivery: an
//! acknowledged event is stored, and an event is stored twice only if an attempt failed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attio_bridge::pipeline::publish::Bus;
use tokio::task::JoinSet;

use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::full_tier;
use crate::support::load::{Load, broker_failures, until_accepted};
use crate::support::mix::{Mix, Planned};
use crate::support::network::{ProxiedBroker, ProxiedKafka, ProxiedNats};
use crate::support::proxy::{Door, Flow, Proxy, Way};
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::wait::eventually;

/// Shorter than the failures of these tests, so that deliveries time out.
const ANSWER_TIMEOUT: [(&str, &str); 1] = [("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "1s")];

/// Every event of the ledger is stored, and stored twice only if an attempt failed; never twice if the broker
/// deduplicates.
pub fn check<B: ProxiedBroker>(broker: &B, mix: &Mix, retried: &BTreeSet<String>) {
    let found = broker.found();
    let lost: Vec<_> = mix.ledger.events.keys().filter(|id| found.copies(id) == 0).collect();
    assert!(lost.is_empty(), "acknowledged but not stored: {lost:?}");
    let explained = |id: &String| !B::DEDUPLICATES && retried.contains(id);
    let twice: Vec<_> = found.events.keys().filter(|id| found.copies(id) > 1 && !explained(id)).collect();
    assert!(twice.is_empty(), "stored twice: {twice:?}");
    assert_eq!(found.events.len(), mix.ledger.events.len(), "only what was sent");
}

/// The number of stored copies of the only event of a delivery.
fn copies<B: ProxiedBroker>(broker: &B, mix: &Mix, delivery: &Planned) -> usize {
    let id = &delivery.ids[0];
    broker.copies(id, &mix.ledger.events[id])
}

/// Starts senders of `count` deliveries.
pub fn load(mix: &mut Mix, count: usize, bridge: &Bridge<dyn Bus>) -> Load {
    let planned: Arc<[Planned]> = (0..count).map(|_| mix.single()).collect();
    Load::start(planned, 8, bridge.http)
}

pub async fn flows(load: &Load, more: usize) {
    let enough = load.accepted() + more;
    eventually("deliveries are accepted", || async { load.accepted() >= enough }).await;
}

/// Sends enough that the client has the metadata of every topic.
async fn warm_up(bridge: &Bridge<dyn Bus>, mix: &mut Mix) -> BTreeSet<String> {
    load(mix, 300, bridge).finish().await
}

/// Sends one delivery until it is accepted; returns its ids if that took more than one attempt.
async fn deliver(bridge: &Bridge<dyn Bus>, delivery: &Planned) -> BTreeSet<String> {
    let refused = until_accepted(&mut bridge.connect().await, bridge.http, &delivery.request).await;
    if refused > 0 { delivery.ids.iter().cloned().collect() } else { BTreeSet::new() }
}

/// B2: the broker freezes for a while under load.
async fn frozen_broker_under_load_loses_no_event<B: ProxiedBroker>() {
    let broker = B::new();
    let (bridge, mut mix) = (broker.bridge(&ANSWER_TIMEOUT).await, Mix::new(broker.prefix(), 31));
    let seconds: &[u64] = if full_tier() { &[1, 3, 10, 30] } else { &[1, 3] };
    let load = load(&mut mix, 400 * (seconds.len() + 1), &bridge);
    for seconds in seconds {
        flows(&load, 300).await;
        let (before, frozen) = (broker_failures(&bridge).await, Duration::from_secs(*seconds));
        broker.pause();
        tokio::time::sleep(frozen).await;
        broker.resume();
        let back = Instant::now();
        flows(&load, 1).await;
        let (cost, after) = (broker_failures(&bridge).await - before, back.elapsed());
        println!("frozen {frozen:?}: {cost} attempts failed, the next ack {after:?} after its return");
    }
    let retried = load.finish().await;
    check(&broker, &mix, &retried);
    assert!(bridge.metrics().await.balances());
}

/// Delivers another one over the new connection, as a retry may be answered before the loss of the old one is noticed.
async fn reconnected(bridge: &Bridge<dyn Bus>, mix: &mut Mix) -> BTreeSet<String> {
    let retried = deliver(bridge, &mix.single()).await;
    eventually("bus_up is 1", || async { bridge.metrics().await.sum("bus_up", &[]) == 1.0 }).await;
    retried
}

/// B2: the publish does not reach the broker.
async fn lost_publish_answers_broker_timeout_and_the_retry_is_stored<B: ProxiedBroker>() {
    let broker = B::new();
    let (bridge, mut mix) = (broker.bridge(&ANSWER_TIMEOUT).await, Mix::new(broker.prefix(), 32));
    let mut retried = warm_up(&bridge, &mut mix).await;
    for end in [Proxy::reset, Proxy::close] {
        let delivery = mix.single();
        broker.proxy().set(Way::ToServer, Flow::Stall);
        assert_eq!(bridge.ask(&delivery.request).await.status_and_reason(), (503, "broker_timeout".into()));
        assert_eq!(copies(&broker, &mix, &delivery), 0, "not stored");
        end(broker.proxy());
        broker.proxy().pass();
        deliver(&bridge, &delivery).await;
        retried.extend(delivery.ids);
        retried.extend(reconnected(&bridge, &mut mix).await);
    }
    check(&broker, &mix, &retried);
    assert!(bridge.metrics().await.balances());
}

/// B2: the broker stores the event, and the ack is lost.
async fn lost_ack_answers_broker_timeout_and_the_retry_is_deduplicated<B: ProxiedBroker>() {
    let broker = B::new();
    let (bridge, mut mix) = (broker.bridge(&ANSWER_TIMEOUT).await, Mix::new(broker.prefix(), 33));
    let mut retried = warm_up(&bridge, &mut mix).await;
    for end in [Proxy::reset, Proxy::close] {
        let delivery = mix.single();
        broker.proxy().set(Way::ToClient, Flow::Stall);
        assert_eq!(bridge.ask(&delivery.request).await.status_and_reason(), (503, "broker_timeout".into()));
        assert_eq!(copies(&broker, &mix, &delivery), 1, "stored, although the answer was 503");
        end(broker.proxy());
        broker.proxy().pass();
        deliver(&bridge, &delivery).await;
        // librdkafka resends with the same sequence number, which the broker deduplicates.
        assert_eq!(copies(&broker, &mix, &delivery), 1);
        retried.extend(delivery.ids);
        retried.extend(reconnected(&bridge, &mut mix).await);
    }
    check(&broker, &mix, &retried);
    assert!(bridge.metrics().await.balances());
}

/// B2: the event is acknowledged, and the HTTP response is lost.
async fn retry_after_a_lost_http_response_is_a_duplicate<B: ProxiedBroker>() {
    let broker = B::new();
    let (bridge, mut mix) = (broker.bridge(&[]).await, Mix::new(broker.prefix(), 34));
    let door = Proxy::start(bridge.http);
    for end in [Proxy::reset, Proxy::close] {
        let delivery = mix.single();
        let answered = bridge.metric("deliveries_total", &ACCEPTED).await;
        let mut client = Client::connect(door.addr()).await;
        door.set(Way::ToClient, Flow::Stall);
        client.send(&delivery.request).await;
        bridge.until("deliveries_total", &ACCEPTED, answered + 1.0).await;
        end(&door);
        assert!(client.try_receive().await.is_none());
        door.pass();
        let answer = Client::connect(door.addr()).await.ask(&delivery.request).await;
        assert_eq!(answer.status_and_reason(), (200, "duplicate".into()));
    }
    check(&broker, &mix, &BTreeSet::new());
}

const ACCEPTED: [(&str, &str); 2] = [("source", "attio"), ("reason", "accepted")];

/// B2: connections are cut at arbitrary bytes, in both directions.
async fn connections_cut_at_any_byte_lose_no_event<B: ProxiedBroker>() {
    let broker = B::new();
    let (bridge, mut mix) = (broker.bridge(&ANSWER_TIMEOUT).await, Mix::new(broker.prefix(), 35));
    let cuts = [1, 40, 250, 1000, 3000, 20_000];
    let load = load(&mut mix, 2500, &bridge);
    for (round, bytes) in cuts.into_iter().enumerate() {
        for way in [Way::ToServer, Way::ToClient] {
            flows(&load, 100).await;
            let passed = broker.proxy().passed(way);
            broker.proxy().set(way, Flow::CutAfter(bytes));
            eventually(&format!("cut {round}"), || async { broker.proxy().passed(way) >= passed + bytes })
                .await;
            broker.proxy().pass();
        }
    }
    let retried = load.finish().await;
    check(&broker, &mix, &retried);
    assert!(bridge.metrics().await.balances());
}

/// B2: packets are dropped silently for longer than any timeout.
async fn black_hole_network_loses_no_event<B: ProxiedBroker>() {
    let broker = B::new();
    let (bridge, mut mix) = (broker.bridge(&ANSWER_TIMEOUT).await, Mix::new(broker.prefix(), 36));
    let load = load(&mut mix, 600, &bridge);
    flows(&load, 200).await;
    let before = broker_failures(&bridge).await;
    broker.proxy().black_hole();
    eventually("deliveries time out", || async { broker_failures(&bridge).await >= before + 8.0 }).await;
    broker.proxy().door(Door::Shut);
    broker.proxy().reset();
    eventually("bus_up is 0", || async { bridge.metrics().await.sum("bus_up", &[]) == 0.0 }).await;
    broker.proxy().pass();
    let retried = load.finish().await;
    check(&broker, &mix, &retried);
    assert!(bridge.metrics().await.balances());
}

/// A balancer has dropped the idle connection silently: the first delivery is sent again on a new one in time. The
/// default answer timeout of 4 s is enough where nothing else runs.
#[tokio::test(flavor = "multi_thread")]
async fn first_delivery_after_a_silent_drop_of_the_kafka_connection_is_accepted() {
    let broker = ProxiedKafka::new();
    let bridge = broker.bridge(&[("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "8s")]).await;
    let mut mix = Mix::new(broker.prefix(), 38);
    let mut retried = warm_up(&bridge, &mut mix).await;
    for _ in 0..2 {
        // Right after a connection was lost the client is replaced, and deliveries are refused until then.
        retried.extend(reconnected(&bridge, &mut mix).await);
        broker.proxy().forget();
        let delivery = mix.single();
        assert_eq!(bridge.ask(&delivery.request).await.status_and_reason(), (200, "accepted".into()));
    }
    check(&broker, &mix, &retried);
}

/// Sends all deliveries concurrently, each once; returns the status and duration of each.
async fn all_at_once(address: SocketAddr, planned: &[Planned]) -> Vec<(u16, Duration)> {
    let send = |request: Request| async move {
        let mut client = Client::connect(address).await;
        let begun = Instant::now();
        (client.ask(&request).await.status, begun.elapsed())
    };
    let answers: JoinSet<_> = planned.iter().map(|delivery| send(delivery.request.clone())).collect();
    answers.join_all().await
}

/// B2: 500 deliveries while the broker is down, and 500 while it is frozen.
async fn memory_is_bounded_during_an_outage_and_retries_are_stored<B: ProxiedBroker>() {
    const EACH: usize = 500;
    let broker = B::new();
    let mut variables = broker.variables();
    variables.push((ANSWER_TIMEOUT[0].0, ANSWER_TIMEOUT[0].1.into()));
    let borrowed: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let bridge = Served::start(&borrowed);
    eventually("the bridge is ready", || async { bridge.probe("/readyz").await == 200 }).await;
    let mut mix = Mix::new(broker.prefix(), 37);
    let mut retried = BTreeSet::new();
    // Memory reaches its full size in the first rounds, with the diagnosis of a broker that is down; after them
    // it may not grow, though the allocator may have returned some in between.
    const WARM_UP: usize = 3;
    let (frozen, down) = (
        ("frozen", B::pause as fn(&B), B::resume as fn(&B)),
        ("down", B::kill as fn(&B), B::restart as fn(&B)),
    );
    let mut full = 0;
    for (round, (state, begin, end)) in [frozen, down, frozen, frozen, down, frozen].into_iter().enumerate() {
        let planned: Vec<_> = (0..EACH).map(|_| mix.single()).collect();
        let before = bridge.resident_kib();
        begin(&broker);
        if state == "down" {
            eventually("bus_up is 0", || async { bridge.metrics().await.sum("bus_up", &[]) == 0.0 }).await;
        }
        let mut answers = all_at_once(bridge.http, &planned).await;
        let after = bridge.resident_kib();
        answers.sort_by_key(|(_, took)| *took);
        assert!(answers.iter().all(|(status, _)| *status == 503), "{answers:?}");
        let p99 = answers[EACH * 99 / 100].1;
        println!("{state}: {EACH} answers 503, p99 {p99:?}; resident {before} KiB, then {after} KiB");
        if round < WARM_UP {
            full = full.max(after);
        }
        assert!(after <= full + full / 10, "memory grows while the broker is {state}");
        end(&broker);
        let mut client = Client::connect(bridge.http).await;
        for delivery in &planned {
            until_accepted(&mut client, bridge.http, &delivery.request).await;
            retried.extend(delivery.ids.iter().cloned());
        }
    }
    check(&broker, &mix, &retried);
    assert!(bridge.metrics().await.balances());
}

macro_rules! suite {
    ($bus:ident, $broker:ty, $($test:ident)*) => {
        mod $bus {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$test::<$broker>().await;
                }
            )*
        }
    };
    ($($test:ident)*) => {
        suite!(kafka, ProxiedKafka, $($test)*);
        suite!(nats, ProxiedNats, $($test)*);
    };
}

suite! {
    frozen_broker_under_load_loses_no_event
    lost_publish_answers_broker_timeout_and_the_retry_is_stored
    lost_ack_answers_broker_timeout_and_the_retry_is_deduplicated
    retry_after_a_lost_http_response_is_a_duplicate
    connections_cut_at_any_byte_lose_no_event
    black_hole_network_loses_no_event
    memory_is_bounded_during_an_outage_and_retries_are_stored
}
