//! The loss checker: real bridges behind a balancer, a real broker, signed traffic with retries,
//! faults from a seed, and a ledger whose laws show whether an event was lost, invented or duplicated.
//!
//! `tests/loss` runs it at any size; the tests here are its short form.

mod broker;
mod closing;
mod command;
mod faults;
mod fleet;
mod laws;
mod ledger;
mod options;
mod plan;
pub mod planted;
mod report;
mod results;
mod sender;
mod store;
mod traffic;
mod wire;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use broker::Broker;
use fleet::Fleet;
use ledger::Ledger;
use options::{Bus, Counts, Options};
use plan::Plan;
use report::Report;
use store::Store;
use traffic::Traffic;

use crate::support::full_tier;

/// The interval of the scrapes of every bridge.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(500);

/// One run, from the first process to the report.
fn run(options: &Options) -> Report {
    let begun = Instant::now();
    let folder = options.folder();
    // Of an earlier run of the same name.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder for the report");
    let plan = Arc::new(Plan::new(options.seed, options.events, options.batch));
    let mut broker = Broker::start(options);
    let mut variables = broker.variables();
    let store = Store::start(options.store, options.bus);
    variables.extend(store.variables(options.bus));
    variables.extend(options.variables.iter().cloned());
    let fleet = Arc::new(Fleet::start(options, variables, folder.clone()));
    if options.formatted_anew {
        broker.format_anew();
    }
    let traffic = Traffic::new(options, Arc::clone(&plan), Arc::clone(&fleet));
    let schedule = faults::schedule(options);
    let (scheduled, over) = (schedule.len(), AtomicBool::new(false));
    let started = Instant::now();
    let injected = std::thread::scope(|scope| {
        let injecting = scope.spawn(|| {
            let is_over = || over.load(Ordering::Relaxed);
            let injected = faults::inject(schedule, &broker, &fleet, &traffic, is_over);
            traffic.calm_down();
            injected
        });
        scope.spawn(|| watch(options, &plan, &fleet, &traffic, &over));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(traffic.flow());
        over.store(true, Ordering::Relaxed);
        injecting.join().expect("the faults are injected")
    });
    let sending = started.elapsed();
    let pasts = fleet.finish(options.quiet);
    let (attempts, slowest) = traffic.finish();
    broker.settle();
    let mut ledger = Ledger::new(&plan, options);
    broker.read(|category, key, value| ledger.found(category, key, value));
    let sums = ledger.close(&attempts, &pasts, fleet.unbalanced());
    let kept = match options.keeps && ledger.laws.stored.violations > 0 {
        true => broker.keep(),
        false => Vec::new(),
    };
    let report = Report {
        kept,
        options: options.clone(),
        sums,
        laws: ledger.laws,
        scheduled,
        injected,
        scrapes: fleet.scrapes.load(Ordering::Relaxed),
        bridges: pasts.len(),
        slowest,
        sending,
        whole: begun.elapsed(),
    };
    report.write(&folder);
    report
}

/// Scrapes the metrics during the run, and prints its progress.
fn watch(options: &Options, plan: &Plan, fleet: &Fleet, traffic: &Traffic, over: &AtomicBool) {
    let mut printed = Instant::now();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(SCRAPE_INTERVAL);
        fleet.check_balance();
        if printed.elapsed() > Duration::from_secs(5) {
            printed = Instant::now();
            let acknowledged = traffic.acknowledged.load(Ordering::Relaxed);
            println!(
                "{} {}: {acknowledged} of {} events acknowledged",
                options.name, options.seed, plan.events
            );
        }
    }
}

/// Runs it and asserts every law.
fn requirements(options: &Options) {
    let report = run(options);
    println!("{}", report.text());
    assert!(report.is_good(), "{}", report.text());
}

/// Every fault that one broker allows.
fn of_one_broker() -> Counts {
    Counts {
        broker_kills: 2,
        freezes: 1,
        cuts: 2,
        stalls: 4,
        bridge_kills: 2,
        drains: 1,
        ..Counts::default()
    }
}

/// Every fault that needs three brokers.
fn of_three_brokers() -> Counts {
    Counts { broker_kills: 1, rolls: 1, moves: 1, bridge_kills: 2, bridge_rolls: 1, ..Counts::default() }
}

#[test]
fn nothing_is_lost_on_kafka() {
    let mut options = Options::new("short-kafka", Bus::Kafka, 8, 6000);
    options.faults = of_one_broker();
    requirements(&options);
}

/// Bridges that are killed and replaced get producer ids that the others have from the old cluster.
fn formatted_anew(name: &str) -> Options {
    let mut options = Options::new(name, Bus::Kafka, 12, 3000);
    (options.formatted_anew, options.replicas, options.faults.bridge_kills) = (true, 3, 4);
    options
}

#[test]
fn nothing_is_lost_on_a_kafka_that_was_formatted_anew_under_three_bridges() {
    requirements(&formatted_anew("formatted-anew"));
}

#[test]
fn with_a_store_only_a_killed_bridge_leaves_a_second_copy() {
    let mut options = Options::new("short-store", Bus::Kafka, 8, 3000);
    options.faults = Counts { bridge_kills: 3, drains: 1, ..Counts::default() };
    (options.replicas, options.store) = (3, options::Store::Redis);
    requirements(&options);
}

#[test]
fn with_a_bucket_on_the_bus_nothing_is_lost_when_it_fails_with_it() {
    let mut options = Options::new("short-nats-kv-on-nats", Bus::Nats, 8, 3000);
    options.faults = Counts { broker_kills: 2, freezes: 1, bridge_kills: 2, drains: 1, ..Counts::default() };
    (options.replicas, options.store) = (3, options::Store::NatsKv);
    requirements(&options);
}

#[test]
#[ignore = "full tier: two more stores"]
fn with_other_stores_only_a_killed_bridge_leaves_a_second_copy() {
    let runs = [
        ("short-valkey", Bus::Kafka, options::Store::Valkey),
        ("short-nats-kv", Bus::Kafka, options::Store::NatsKv),
        ("short-nats-redis", Bus::Nats, options::Store::Redis),
    ];
    for (name, bus, store) in runs {
        let mut options = Options::new(name, bus, 8, 3000);
        options.faults = Counts { bridge_kills: 3, drains: 1, ..Counts::default() };
        (options.replicas, options.store) = (3, store);
        requirements(&options);
    }
}

#[test]
fn nothing_is_lost_on_nats() {
    let mut options = Options::new("short-nats", Bus::Nats, 8, 6000);
    options.faults = of_one_broker();
    options.replicas = 3;
    requirements(&options);
}

#[test]
#[ignore = "full tier: three brokers, minutes"]
fn nothing_is_lost_on_three_kafkas_behind_three_bridges() {
    let mut options = Options::new("cluster-kafka", Bus::Kafka, 9, 20_000);
    options.faults = of_three_brokers();
    (options.replicas, options.brokers) = (3, 3);
    requirements(&options);
}

#[test]
#[ignore = "full tier: three brokers, minutes"]
fn nothing_is_lost_on_three_nats_behind_three_bridges() {
    let mut options = Options::new("cluster-nats", Bus::Nats, 9, 20_000);
    options.faults = of_three_brokers();
    (options.replicas, options.brokers) = (3, 3);
    requirements(&options);
}

/// Drains under load, one bridge or three, on a broker that does not fail.
fn drains(name: &str, bus: Bus, events: u64) -> Options {
    let mut options = Options::new(name, bus, 5, events);
    (options.askers, options.leavers) = (150, 0);
    options
}

#[test]
fn a_bridge_that_is_asked_to_end_again_and_again_answers_all_it_accepted() {
    let count = if full_tier() { 100 } else { 10 };
    let mut options = drains("drains", Bus::Kafka, 300 * count as u64);
    options.faults.drains = count;
    requirements(&options);
}

#[test]
fn a_rolling_restart_behind_the_balancer_resets_no_accepted_request() {
    let mut options = drains("rolling", Bus::Nats, 6000);
    options.faults.bridge_rolls = 2;
    options.replicas = 3;
    requirements(&options);
}
