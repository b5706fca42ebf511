//! `check --connect` through the program: what it finds on clusters that are right, and wrong in every way.

use std::process::Output;
use std::time::{Duration, Instant};

use attio_bridge::bus::kafka::Options;
use attio_bridge::bus::kafka::options::Ensure;
use serde_json::Value as Json;

use crate::support::consumer::NAMES;
use crate::support::kafka::Broker;
use crate::support::kafka::security::wrong::{self, Wrong};
use crate::support::kafka::security::{
    Door, NOBODY, Operation, PASSWORD, SECOND_USER, Secured, Topics, USER, shared,
};
use crate::support::kafka::variables::variables;
use crate::support::program::run;
use crate::support::unique;

fn check(options: &Options, prefix: &str, more: &[&str]) -> Output {
    run(&[&["check", "--connect"], more].concat(), &variables(options, prefix))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// A prefix whose topics are all there.
fn prefix(secured: &Secured) -> String {
    let prefix = unique("checked");
    NAMES.iter().for_each(|name| secured.broker.create_topic(&format!("{prefix}.{name}"), 1, &[]));
    prefix
}

/// What it found, after its exit code was as expected.
pub fn found(options: &Options, prefix: &str, code: i32) -> Vec<(String, String, String)> {
    let begun = Instant::now();
    let output = check(options, prefix, &["--json"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(output.status.code(), Some(code), "{} {}", text(&output.stdout), text(&output.stderr));
    let report: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    let of = |row: &Json, name: &str| row[name].as_str().expect("a text").to_owned();
    let rows = report["checks"].as_array().expect("rows");
    rows.iter().map(|row| (of(row, "check"), of(row, "result"), of(row, "detail"))).collect()
}

/// The one row of that name.
pub fn row<'r>(rows: &'r [(String, String, String)], check: &str) -> (&'r str, &'r str) {
    let named: Vec<_> = rows.iter().filter(|(name, ..)| name == check).collect();
    assert_eq!(named.len(), 1, "{check}: {rows:#?}");
    (&named[0].1, &named[0].2)
}

fn grant(secured: &Secured, user: &str, prefix: &str, operations: &[Operation]) {
    operations.iter().for_each(|it| secured.grant(user, *it, Topics::Prefixed(&format!("{prefix}."))));
}

#[test]
fn a_good_cluster_is_good_and_nothing_is_written_to_it() {
    let secured = shared();
    let prefix = prefix(&secured);
    grant(&secured, USER, &prefix, &[Operation::Write, Operation::Describe, Operation::DescribeConfigs]);
    let options = secured.login(Door::SaslTls, "SCRAM-SHA-512", USER, PASSWORD);
    let rows = found(&options, &prefix, 0);
    let expected = [
        ("reachable", "ok", "1 broker in the cluster"),
        ("tls", "ok", "encrypted"),
        ("login", "ok", "SCRAM-SHA-512 as bridge"),
        ("permission to write", "ok", "allowed on every topic; nothing was written"),
        ("idempotence", "ok", "producer id"),
        ("durability", "warning", "every topic: replication 1"),
        ("message size", "ok", "quarantine too"),
    ];
    for (check, result, words) in expected {
        let (level, detail) = row(&rows, check);
        assert!(level == result && detail.contains(words), "{check}: {level} {detail}");
    }
    let facts = "partitions 1, replication 1, min.insync.replicas 1, max.message.bytes 1048588";
    assert_eq!(row(&rows, &format!("topic {prefix}.record")), ("ok", facts));
    for name in NAMES {
        assert_eq!(secured.broker.read_all(&format!("{prefix}.{name}")).len(), 0, "{name}");
    }
    let table = check(&options, &prefix, &[]);
    let table = text(&table.stdout);
    assert!(table.starts_with(&format!("kafka at {}\n\nreachable ", options.bootstrap_servers)), "{table}");
    assert!(table.ends_with("\n21 ok, 1 warning, 0 failed\n"), "{table}");
}

#[test]
fn the_least_rights_are_enough_and_what_they_hide_is_said() {
    let secured = shared();
    let prefix = prefix(&secured);
    grant(&secured, SECOND_USER, &prefix, &[Operation::Write, Operation::Describe]);
    let rows = found(&secured.login(Door::SaslTls, "PLAIN", SECOND_USER, PASSWORD), &prefix, 0);
    assert_eq!(row(&rows, "permission to write").0, "ok");
    assert!(rows.iter().any(|(check, result, detail)| {
        check == "durability" && result == "warning" && detail.contains("grant DescribeConfigs")
    }));
}

#[test]
fn a_topic_without_the_right_to_write_is_named() {
    let secured = shared();
    let prefix = prefix(&secured);
    grant(&secured, USER, &prefix, &[Operation::Describe]);
    let denied = ["note", "task"].map(|name| format!("{prefix}.{name}"));
    for topic in NAMES.map(|name| format!("{prefix}.{name}")).iter().filter(|topic| !denied.contains(topic)) {
        secured.grant(USER, Operation::Write, Topics::Named(topic));
    }
    let rows = found(&secured.with_certificate(), &prefix, 3);
    let (level, detail) = row(&rows, "permission to write");
    assert_eq!(level, "failed");
    assert!(detail.starts_with(&format!("not allowed on {}: grant Write", denied.join(", "))), "{detail}");
    assert_eq!(row(&rows, "idempotence").0, "ok");
}

#[test]
fn a_user_without_any_right_is_told_so_for_every_topic() {
    let secured = shared();
    let prefix = prefix(&secured);
    let rows = found(&secured.login(Door::Sasl, "PLAIN", NOBODY, PASSWORD), &prefix, 3);
    for name in NAMES {
        let (level, detail) = row(&rows, &format!("topic {prefix}.{name}"));
        assert!(level == "failed" && detail.contains("grant Write and Describe"), "{level} {detail}");
    }
    let (level, detail) = row(&rows, "idempotence");
    assert!(level == "failed" && detail.contains("grant Write on the topics"), "{detail}");
    assert_eq!(row(&rows, "login").0, "warning", "PLAIN without TLS");
}

#[test]
fn missing_topics_are_named_and_no_matter_where_the_bridge_makes_them() {
    let secured = shared();
    let options = Options::new(secured.broker.bootstrap());
    let rows = found(&options, &unique("absent"), 3);
    let missing = rows
        .iter()
        .filter(|(check, _, detail)| check.starts_with("topic ") && detail.contains("missing: create it"));
    assert_eq!(missing.count(), NAMES.len());
    let mut create = variables(&options, "absent");
    create.push(("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE".into(), "create".into()));
    let output = run(&["check", "--connect"], &create);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

#[test]
fn whether_the_bridge_may_make_what_is_missing_is_found_out_without_making_it() {
    let secured = shared();
    let prefix = unique("unmade");
    grant(&secured, USER, &prefix, &[Operation::Write, Operation::Describe, Operation::DescribeConfigs]);
    let mut options = secured.login(Door::SaslTls, "SCRAM-SHA-512", USER, PASSWORD);
    options.topics.ensure = Ensure::Create;
    let record = format!("topic {prefix}.record");
    let rows = found(&options, &prefix, 3);
    let (level, detail) = row(&rows, &record);
    let words = ["would not make it", "TopicAuthorizationFailed", "grant Create on the topics"];
    assert!(level == "failed" && words.iter().all(|word| detail.contains(word)), "{level} {detail}");

    grant(&secured, USER, &prefix, &[Operation::Create]);
    let rows = found(&options, &prefix, 0);
    let (level, detail) = row(&rows, &record);
    assert!(level == "ok" && detail.contains("the bridge will make it"), "{level} {detail}");

    // More copies than there are brokers.
    options.topics.replication_factor = Some(3);
    let rows = found(&options, &prefix, 3);
    let (level, detail) = row(&rows, &record);
    assert!(level == "failed" && detail.contains("InvalidReplicationFactor"), "{level} {detail}");
    assert!(detail.contains("check kafka.topics."), "{detail}");
    let made = secured.broker.topics();
    assert!(made.iter().all(|topic| !topic.starts_with(&prefix)), "nothing is made: {made:?}");
}

#[test]
fn every_wrong_way_ends_at_its_step_with_its_cause() {
    let secured = shared();
    for Wrong { options, step, words } in wrong::ways(&secured) {
        let rows = found(&options, "attio", 3);
        let (level, detail) = row(&rows, step);
        assert!(
            level == "failed" && words.iter().all(|word| detail.contains(word)),
            "{options:?}: {rows:#?}"
        );
        assert_eq!(
            rows.last().map(|(check, ..)| check.as_str()),
            Some(step),
            "nothing was looked at after it"
        );
    }
}

#[test]
fn a_cluster_that_cannot_be_reached_is_told_from_one_that_does_not_answer() {
    let broker = Broker::start();
    let refused = "check the address in kafka.bootstrap_servers, and that the broker runs";
    for (servers, words, advice) in [
        ("127.0.0.1:1", "Connection refused", refused),
        ("no-such-host.invalid:9092", "lookup address", "check the names in kafka.bootstrap_servers"),
    ] {
        let rows = found(&Options::new(servers), "attio", 3);
        let (level, detail) = row(&rows, "reachable");
        assert!(
            level == "failed" && detail.starts_with(&format!("{servers}: ")) && detail.contains(words),
            "{detail}"
        );
        assert!(detail.ends_with(advice), "{detail}");
    }
    let options = Options::new(format!("127.0.0.1:1,{}", broker.bootstrap()));
    let rows = found(&options, "attio", 3);
    let (level, detail) = row(&rows, "reachable");
    assert!(level == "warning" && detail.contains("127.0.0.1:1: Connection refused"), "{detail}");
    broker.pause();
    let rows = found(&Options::new(broker.bootstrap()), "attio", 3);
    let (level, detail) = row(&rows, "reachable");
    assert!(level == "failed" && detail.contains("nobody answers"), "{detail}");
}

#[test]
fn a_configuration_that_is_not_good_is_told_before_any_broker_is_asked() {
    let secured = shared();
    let mut options = secured.options(Door::Tls);
    options.ca_file = Some("/no/such/ca.pem".into());
    let output = check(&options, "attio", &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("kafka.ca_file"), "{}", text(&output.stderr));
    let mut options = secured.with_certificate();
    options.key_file = Some(secured.certificates.path("server.key"));
    let output = check(&options, "attio", &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("kafka.key_file"), "{}", text(&output.stderr));
}

#[test]
fn a_broker_that_sends_clients_to_nowhere_is_named() {
    let secured = shared();
    let prefix = prefix(&secured);
    let rows = found(&secured.options(Door::Lost), &prefix, 3);
    assert_eq!(row(&rows, "reachable"), ("ok", "1 broker in the cluster"));
    let address = secured.bootstrap(Door::Lost).replace("127.0.0.1", "no-such-host.invalid");
    let (level, detail) = row(&rows, &format!("broker {address}"));
    assert!(level == "failed" && detail.contains("advertised.listeners"), "{detail}");
    assert_eq!(rows.len(), 4, "nothing was looked at after it");
}
