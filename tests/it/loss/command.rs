//! The command `tests/loss`: its arguments come in a variable, because it runs as a test.

use std::path::PathBuf;
use std::time::Duration;

use super::options::{Bus, Options, Store};
use super::{of_one_broker, planted, run};

/// Set by `tests/loss`.
const WORDS: &str = "ATTIO_BRIDGE_LOSS";

/// The folder of its reports.
const REPORTS: &str = "ATTIO_BRIDGE_LOSS_REPORTS";

#[test]
#[ignore = "run by tests/loss"]
fn command() {
    let words = std::env::var(WORDS).expect("set by tests/loss");
    let words: Vec<&str> = words.split_whitespace().collect();
    let (form, flags) = words.split_first().expect("a form");
    if *form == "planted" {
        return planted::check();
    }
    let buses = match value(flags, "--bus") {
        Some("kafka") => vec![Bus::Kafka],
        Some("nats") => vec![Bus::Nats],
        None => vec![Bus::Kafka, Bus::Nats],
        Some(other) => panic!("--bus {other}: kafka or nats"),
    };
    let mut bad = Vec::new();
    for bus in buses {
        let mut options = of_form(form, bus);
        change(&mut options, flags);
        println!("tests/loss {form}: {bus:?}, seed {}, {} events", options.seed, options.events);
        let report = run(&options);
        println!("{}", report.text());
        println!("report        {}", options.folder().join("report.json").display());
        if !report.is_good() {
            bad.push(format!("{form} on {bus:?}, seed {}", options.seed));
        }
    }
    assert!(bad.is_empty(), "BAD: {bad:?}");
}

/// The figures of each form, which flags change.
fn of_form(form: &str, bus: Bus) -> Options {
    let name = format!("{form}-{bus:?}").to_lowercase();
    let mut options = Options::new(&name, bus, fastrand::u64(1..1_000_000), 6000);
    (options.senders, options.limit) = (64, Duration::from_secs(1500));
    match form {
        "short" => {
            options.senders = 24;
            options.faults = of_one_broker();
        }
        "long" => {
            (options.events, options.batch) = (1_000_000, 8);
            options.faults.broker_kills = 20;
        }
        "bridges" => {
            (options.events, options.replicas) = (300_000, 3);
            options.faults.bridge_kills = 200;
        }
        "drains" => {
            (options.events, options.askers, options.leavers) = (100_000, 150, 0);
            options.faults.drains = 100;
        }
        "cluster" => {
            (options.events, options.replicas, options.brokers) = (100_000, 3, 3);
            options.faults = super::of_three_brokers();
        }
        other => panic!("{other}: short, long, bridges, drains, cluster or planted"),
    }
    if let Ok(reports) = std::env::var(REPORTS) {
        options.reports = PathBuf::from(reports);
    }
    options
}

fn value<'a>(flags: &[&'a str], name: &str) -> Option<&'a str> {
    let at = flags.iter().position(|flag| *flag == name)?;
    Some(flags.get(at + 1).unwrap_or_else(|| panic!("{name} needs a value")))
}

fn change(options: &mut Options, flags: &[&str]) {
    assert!(flags.len().is_multiple_of(2), "every flag has one value: {flags:?}");
    for pair in flags.chunks(2) {
        let [name, text] = [pair[0], pair[1]];
        let number = || text.parse::<usize>().unwrap_or_else(|_| panic!("{name} {text}: a number"));
        let faults = &mut options.faults;
        match name {
            "--bus" => {}
            "--store" => {
                options.store = match text {
                    "memory" => Store::Memory,
                    "redis" => Store::Redis,
                    "valkey" => Store::Valkey,
                    "nats-kv" => Store::NatsKv,
                    other => panic!("--store {other}: memory, redis, valkey or nats-kv"),
                };
                options.name = format!("{}-{text}", options.name);
            }
            "--seed" => options.seed = number() as u64,
            "--events" => options.events = number() as u64,
            "--batch" => options.batch = number(),
            "--senders" => options.senders = number(),
            "--replicas" => options.replicas = number(),
            "--brokers" => options.brokers = number(),
            "--kills" => faults.broker_kills = number(),
            "--freezes" => faults.freezes = number(),
            "--rolls" => faults.rolls = number(),
            "--moves" => faults.moves = number(),
            "--bridge-kills" => faults.bridge_kills = number(),
            "--drains" => faults.drains = number(),
            "--bridge-rolls" => faults.bridge_rolls = number(),
            "--cuts" => faults.cuts = number(),
            "--stalls" => faults.stalls = number(),
            "--limit" => options.limit = Duration::from_secs(number() as u64),
            "--bridge" => options.bridge = text.into(),
            other => panic!("no flag {other}: tests/loss --help"),
        }
    }
    let three = options.faults.rolls + options.faults.moves > 0;
    assert!(!three || options.brokers == 3, "--rolls and --moves take --brokers 3");
    assert!(options.brokers == 1 || !options.is_proxied(), "--cuts and --stalls take --brokers 1");
    assert!([1, 3].contains(&options.brokers), "--brokers 1 or 3");
    assert!(options.replicas > 0, "--replicas: at least one");
}
