//! `check --connect` through the program, on healthy and misconfigured clusters.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Output;
use std::time::Duration;

use attio_bridge::bus::kafka::Options;
use attio_bridge::bus::kafka::options::Ensure;
use serde_json::Value as Json;

use crate::support::consumer::NAMES;
use crate::support::kafka::security::wrong::{self, Wrong};
use crate::support::kafka::security::{
    Door, Operation, PASSWORD, SECOND_USER, Secured, Topics, UNPRIVILEGED_USER, USER, shared,
};
use crate::support::kafka::variables::variables;
use crate::support::kafka::{Broker, Layout};
use crate::support::nats::Server;
use crate::support::program::{lent, run};
use crate::support::served::Served;
use crate::support::unique;
use crate::support::wait::eventually;

fn check(options: &Options, prefix: &str, more: &[&str]) -> Output {
    run(&[&["check", "--connect"], more].concat(), &variables(options, prefix))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// A prefix whose topics all exist.
fn prefix(secured: &Secured) -> String {
    let prefix = unique("checked");
    NAMES.iter().for_each(|name| secured.broker.create_topic(&format!("{prefix}.{name}"), 1, &[]));
    prefix
}

/// The rows of its report; asserts its exit code.
pub fn found(options: &Options, prefix: &str, code: i32) -> Vec<(String, String, String)> {
    found_with(&variables(options, prefix), code)
}

/// The same for a bridge that is started with these variables.
pub fn found_with(variables: &[(String, String)], code: i32) -> Vec<(String, String, String)> {
    let output = run(&["check", "--connect", "--json"], &variables.to_vec());
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
fn healthy_cluster_passes_and_nothing_is_written() {
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
fn write_and_describe_suffice_and_hidden_settings_are_reported() {
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
fn topics_without_write_permission_are_listed() {
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
fn user_without_permissions_fails_for_every_topic() {
    let secured = shared();
    let prefix = prefix(&secured);
    let rows = found(&secured.login(Door::Sasl, "PLAIN", UNPRIVILEGED_USER, PASSWORD), &prefix, 3);
    for name in NAMES {
        let (level, detail) = row(&rows, &format!("topic {prefix}.{name}"));
        assert!(level == "failed" && detail.contains("grant Write and Describe"), "{level} {detail}");
    }
    let (level, detail) = row(&rows, "idempotence");
    assert!(level == "failed" && detail.contains("grant Write on the topics"), "{detail}");
    assert_eq!(row(&rows, "login").0, "warning", "PLAIN without TLS");
}

#[test]
fn missing_topics_fail_unless_the_bridge_creates_them() {
    let secured = shared();
    let options = Options::new(secured.broker.bootstrap());
    let rows = found(&options, &unique("absent"), 3);
    let missing = rows.iter().filter(|(check, _, detail)| {
        check.starts_with("topic ")
            && detail.contains("missing: create it (`attio-bridge topics` prints how)")
    });
    assert_eq!(missing.count(), NAMES.len());
    let mut create = variables(&options, "absent");
    create.push(("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE".into(), "create".into()));
    let output = run(&["check", "--connect"], &create);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

#[test]
fn create_permission_is_validated_without_creating_topics() {
    let secured = shared();
    let prefix = unique("unmade");
    grant(&secured, USER, &prefix, &[Operation::Write, Operation::Describe, Operation::DescribeConfigs]);
    let mut options = secured.login(Door::SaslTls, "SCRAM-SHA-512", USER, PASSWORD);
    options.topics.ensure = Ensure::Create;
    let record = format!("topic {prefix}.record");
    let rows = found(&options, &prefix, 3);
    let (level, detail) = row(&rows, &record);
    let words = ["refuse to create it", "TopicAuthorizationFailed", "grant Create on the topics"];
    assert!(level == "failed" && words.iter().all(|word| detail.contains(word)), "{level} {detail}");

    grant(&secured, USER, &prefix, &[Operation::Create]);
    let rows = found(&options, &prefix, 0);
    let (level, detail) = row(&rows, &record);
    assert!(level == "ok" && detail.contains("the bridge will create it"), "{level} {detail}");

    // More copies than there are brokers.
    options.topics.replication_factor = Some(3);
    let rows = found(&options, &prefix, 3);
    let (level, detail) = row(&rows, &record);
    assert!(level == "failed" && detail.contains("InvalidReplicationFactor"), "{level} {detail}");
    assert!(detail.contains("check kafka.topics."), "{detail}");
    let made = secured.broker.topics();
    assert!(made.iter().all(|topic| !topic.starts_with(&prefix)), "nothing is created: {made:?}");
}

#[test]
fn connection_failures_are_reported_at_their_step_with_the_cause() {
    let secured = shared();
    for Wrong { options, step, words } in wrong::ways(&secured) {
        let rows = found(&options, "attio", 3);
        let (level, detail) = row(&rows, step);
        assert!(
            level == "failed" && words.iter().all(|word| detail.contains(word)),
            "{options:?}: {rows:#?}"
        );
        assert_eq!(rows.last().map(|(check, ..)| check.as_str()), Some(step), "nothing is checked after it");
    }
}

#[test]
fn unreachable_and_silent_brokers_are_distinguished() {
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
    assert!(level == "failed" && detail.contains("nothing answers"), "{detail}");
}

#[test]
fn configuration_errors_exit_78_before_connecting() {
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
fn unreachable_advertised_listener_is_reported() {
    let secured = shared();
    let prefix = prefix(&secured);
    let rows = found(&secured.options(Door::Lost), &prefix, 3);
    assert_eq!(row(&rows, "reachable"), ("ok", "1 broker in the cluster"));
    let address = secured.bootstrap(Door::Lost).replace("127.0.0.1", "no-such-host.invalid");
    let (level, detail) = row(&rows, &format!("broker {address}"));
    assert!(level == "failed" && detail.contains("advertised.listeners"), "{detail}");
    assert_eq!(rows.len(), 4, "nothing is checked after it");
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_settings_that_delete_acknowledged_events_are_warned_of_by_check_and_in_the_log() {
    let secured = shared();
    let prefix = prefix(&secured);
    let table = [
        ("record", "cleanup.policy", "compact", "cleanup.policy compact"),
        ("list", "cleanup.policy", "compact,delete", "set cleanup.policy=delete"),
        ("note", "retention.ms", "3600000", "deleted after 1h"),
        ("quarantine", "retention.bytes", "1000000", "set retention.bytes=-1"),
        ("task", "unclean.leader.election.enable", "true", "unclean.leader.election.enable true"),
    ];
    for (topic, setting, value, _) in table {
        secured.broker.set_topic(&format!("{prefix}.{topic}"), setting, value);
    }
    let options = Options::new(secured.broker.bootstrap());
    let rows = found(&options, &prefix, 0);
    let served = Served::start(&lent(&variables(&options, &prefix)));
    for (topic, _, _, words) in table {
        let topic = format!("{prefix}.{topic}");
        let warned = |(check, level, detail): &(String, String, String)| {
            check == "durability" && level == "warning" && detail.contains(&topic) && detail.contains(words)
        };
        assert!(rows.iter().any(warned), "{topic}: {rows:#?}");
        let logged = |line: &String| line.contains("WARN") && line.contains(&topic) && line.contains(words);
        eventually("it is in the log", || async { served.log().iter().any(logged) }).await;
    }
}

/// A server that sends this on every connection: at once, or to the first bytes it gets.
fn canned(words: &'static [u8], at_once: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 512];
                if at_once || stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                    // What can fail here is only a connection that has ended already.
                    let _ = stream.write_all(words);
                    let _ = stream.read(&mut buffer);
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_no_kafka_broker_are_named_by_readyz_and_check_and_logged_in_few_lines() {
    let mut controller = String::new();
    let _broker = Broker::start_where(|_, port| {
        controller = format!("127.0.0.1:{port}");
        Layout::default()
    });
    let nats = Server::start();
    let nats = nats.url().trim_start_matches("nats://").to_owned();
    let strangers = [
        (canned(b"HTTP/1.1 400 Bad Request\r\n\r\n", false), "an HTTP server answers there, no Kafka broker"),
        (canned(b"SSH-2.0-OpenSSH_9.9\r\n", true), "an SSH server answers there"),
        (canned(b"220 mail.example.com ESMTP\r\n", true), "a mail or FTP server"),
        (canned(b"hello\r\n", true), "its answer begins with \"hell\""),
        (canned(b"\x15\x03\x03\x00\x02\x02\x46", false), "the listener uses TLS"),
        (nats, "a NATS server answers there"),
        (controller, "it is a KRaft controller"),
    ];
    let served: Vec<_> = strangers
        .iter()
        .map(|(server, _)| Served::start(&lent(&variables(&Options::new(server), "attio"))))
        .collect();
    for ((server, words), served) in strangers.iter().zip(&served) {
        eventually(&format!("/readyz says: {words}"), || async {
            let answer = served.admin("/readyz").await;
            String::from_utf8_lossy(&answer.body).contains(words)
        })
        .await;
        let rows = found(&Options::new(server), "attio", 3);
        let named =
            |(_, level, detail): &(String, String, String)| level == "failed" && detail.contains(words);
        assert!(rows.iter().any(named), "{server}: {rows:#?}");
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    for ((server, words), served) in strangers.iter().zip(&served) {
        let log = served.log();
        let warnings = log.iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
        assert!(warnings <= 8, "{server}, {words}: {log:#?}");
        assert!(!log.iter().any(|line| line.contains("increase receive.message.max.bytes")), "{log:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn advertised_listener_is_blamed_by_the_log_and_not_bootstrap_servers() {
    let secured = shared();
    let prefix = prefix(&secured);
    let served = Served::start(&lent(&variables(&secured.options(Door::Lost), &prefix)));
    let host = "no-such-host.invalid";
    eventually("the cause is in the log", || async {
        served.log().iter().any(|line| line.contains(host) && line.contains("advertised.listeners"))
    })
    .await;
    let wrong = |line: &String| line.contains(host) && line.contains("kafka.bootstrap_servers");
    assert!(!served.log().iter().any(wrong), "{:#?}", served.log());
}
