//! `check --connect` on NATS, through the program.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value as Json;

use crate::setup::SECRET;
use crate::support::nats::target::NatsTarget;
use crate::support::nats::{Server, Settings, shared};
use crate::support::program::{run, variables};
use crate::support::served::Served;
use crate::support::wait::eventually_blocking;

/// Runs the checks and returns the rows `check result detail`; asserts the exit code.
fn found(url: &str, target: &NatsTarget, more: &[(&str, &str)], code: i32) -> Vec<[String; 3]> {
    let common = [
        ("BUS__TYPE", "nats"),
        ("NATS__SERVERS", url),
        ("NATS__STREAM__NAME", &target.stream),
        ("ROUTE__PREFIX", &target.prefix),
    ];
    let output = run(&["check", "--connect", "--json"], &variables(&[&common[..], more].concat()));
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let report: Json = serde_json::from_slice(&output.stdout).expect("JSON");
    let of = |row: &Json, name: &str| row[name].as_str().expect("a text").to_owned();
    let rows = report["checks"].as_array().expect("rows");
    rows.iter().map(|row| [of(row, "check"), of(row, "result"), of(row, "detail")]).collect()
}

/// Asserts that one row has this check and result, and a detail that contains the words.
fn reports(rows: &[[String; 3]], check: &str, result: &str, words: &str) {
    let named = |row: &&[String; 3]| row[0].starts_with(check) && row[1] == result && row[2].contains(words);
    assert!(rows.iter().any(|row| named(&row)), "{check} {result} {words}: {rows:#?}");
}

#[test]
fn suitable_stream_passes_every_check() {
    let (server, target) = (shared(), NatsTarget::new("fits"));
    server.create_stream(&target.stream, &[&format!("{}.>", target.prefix)], |config| {
        config.duplicate_window = Duration::from_secs(2 * 3600);
        config.max_age = Duration::from_secs(7 * 24 * 3600);
    });
    let rows = found(&server.url(), &target, &[], 0);
    reports(&rows, "reachable", "ok", "2.15.1");
    reports(&rows, "stream", "ok", "accepts every subject");
    reports(&rows, "durability", "warning", "one replica");
    reports(&rows, "durability", "warning", "sync_interval");
    reports(&rows, "duplicates", "ok", "2h");
    reports(&rows, "tls", "ok", "asks for none");
    reports(&rows, "login", "ok", "asks for none");
    reports(&rows, "permission", "ok", "allowed on every subject");
    reports(&rows, "sizes", "ok", "1048576");
    assert!(server.read_all(&target.stream).is_empty(), "nothing is published");
}

#[test]
fn stream_problems_are_reported() {
    let (server, target) = (shared(), NatsTarget::new("wrong"));
    let rows = found(&server.url(), &target, &[], 3);
    reports(&rows, "stream", "failed", "does not exist");
    reports(&rows, "stream", "failed", "`attio-bridge topics`");
    let rows = found(&server.url(), &target, &[("NATS__STREAM__ENSURE", "create")], 0);
    reports(&rows, "stream", "warning", "`serve` creates it");
    assert!(server.stream(&target.stream).is_none(), "nothing is created");
    server.create_stream(&target.stream, &[&format!("{}.record.>", target.prefix)], |config| {
        config.max_message_size = 1000;
    });
    let rows = found(&server.url(), &target, &[], 3);
    reports(&rows, "stream", "failed", "does not accept");
    reports(&rows, "stream", "warning", "duplicate_window is 2m");
    reports(&rows, "sizes", "warning", "1000 bytes");
}

/// The server leaves `duplicate_window` out of such a stream's configuration; a plain stream gets two minutes.
#[test]
fn stream_with_sources_and_no_duplicate_window_is_reported() {
    use async_nats::jetstream::stream::Source;
    let (server, target, other) = (shared(), NatsTarget::new("hub"), NatsTarget::new("edge"));
    server.create_stream(&other.stream, &[&other.prefix], |_| {});
    server.create_stream(&target.stream, &[&format!("{}.>", target.prefix)], |config| {
        config.sources = Some(vec![Source { name: other.stream.clone(), ..Source::default() }]);
    });
    let subject = format!("{}.record.updated", target.prefix);
    let stored = [1, 2].map(|_| server.publish(&subject, &[("Nats-Msg-Id", "same")], "{}"));
    assert_eq!(stored, [(1, false), (2, false)]);
    let rows = found(&server.url(), &target, &[], 0);
    reports(&rows, "stream", "warning", "duplicate_window is not set (no repeat is dropped)");
    reports(&rows, "duplicates", "warning", "drops no repeats");
    server.change_stream(&target.stream, |config| config.duplicate_window = Duration::from_secs(7200));
    let rows = found(&server.url(), &target, &[], 0);
    reports(&rows, "duplicates", "ok", "2h");
}

#[test]
fn subjects_without_publish_permission_are_listed() {
    let target = NatsTarget::new("rights");
    let users = format!(
        "authorization {{ users: [ {{ user: a, password: b, permissions: {{ \
         publish: {{ allow: [\"$JS.API.>\", \"{}.task.>\"] }}, subscribe: \">\" }} }} ] }}",
        target.prefix
    );
    let guarded = Server::with(Settings { more: users, ..Settings::default() });
    let login = [("NATS__USERNAME", "a"), ("NATS__PASSWORD", "b"), ("NATS__STREAM__ENSURE", "create")];
    let rows = found(&guarded.url(), &target, &login, 3);
    reports(&rows, "login", "ok", "accepted");
    reports(&rows, "permission", "failed", &format!("{}.activity", target.prefix));
    let permission = rows.iter().find(|row| row[0] == "permission").expect("the row");
    assert!(!permission[2].contains(&format!("{}.task", target.prefix)), "{permission:?}");
}

#[test]
fn server_problems_are_reported() {
    let (target, off) =
        (NatsTarget::new("away"), Server::with(Settings { jetstream: false, ..Settings::default() }));
    reports(&found(&off.url(), &target, &[], 3), "stream", "failed", "JetStream");
    let users = "authorization { users: [ { user: a, password: b } ] }".to_owned();
    let guarded = Server::with(Settings { more: users, ..Settings::default() });
    reports(&found(&guarded.url(), &target, &[], 3), "reachable", "failed", "nats.creds_file");
    guarded.kill();
    let refused = "refused: check the address in nats.servers, and that the server runs";
    reports(&found(&guarded.url(), &target, &[], 3), "reachable", "failed", refused);
    let nowhere = found("no-such-host.invalid", &target, &[], 3);
    reports(&nowhere, "reachable", "failed", "check the names in nats.servers");
}

#[test]
fn stream_under_another_name_is_reported_with_both_ways_out() {
    let (server, target, other) = (shared(), NatsTarget::new("named"), NatsTarget::new("other"));
    server.create_stream(&other.stream, &[&format!("{}.>", target.prefix)], |_| {});
    for ensure in ["verify", "create"] {
        let rows = found(&server.url(), &target, &[("NATS__STREAM__ENSURE", ensure)], 3);
        let advice = format!("set nats.stream.name to \"{}\", or take the subjects from it", other.stream);
        reports(&rows, "stream", "failed", &advice);
        assert!(!format!("{rows:?}").contains("create it"), "the server would refuse it: {rows:?}");
    }
}

#[test]
fn settings_that_lose_acknowledged_events_are_reported() {
    use async_nats::jetstream::stream::{Config, PersistenceMode, StorageType};
    type Change = fn(&mut Config);
    let table: [(i32, &str, &str, Change); 5] = [
        (3, "failed", "persist_mode", |config| config.persist_mode = Some(PersistenceMode::Async)),
        (3, "failed", "no_ack", |config| config.no_ack = true),
        (0, "warning", "storage file", |config| config.storage = StorageType::Memory),
        (0, "warning", "max_msgs_per_subject", |config| config.max_messages_per_subject = 5),
        (0, "warning", "max_age to 72h", |config| config.max_age = Duration::from_secs(3600)),
    ];
    let server = shared();
    for (code, result, words, change) in table {
        let target = NatsTarget::new("weak");
        server.create_stream(&target.stream, &[&format!("{}.>", target.prefix)], change);
        reports(&found(&server.url(), &target, &[], code), "stream", result, words);
    }
}

#[test]
fn missing_permission_to_receive_acks_is_reported() {
    let target = NatsTarget::new("unheard");
    let users = "authorization { users: [ { user: a, password: b, permissions: { publish: \">\", \
                 subscribe: \"else\" } } ] }";
    let guarded = Server::with(Settings { more: users.into(), ..Settings::default() });
    let login = [("NATS__USERNAME", "a"), ("NATS__PASSWORD", "b")];
    reports(&found(&guarded.url(), &target, &login, 3), "permission", "failed", "_INBOX.>");
}

#[test]
fn port_of_another_service_is_named() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [&silent, &http].map(|listener| listener.local_addr().unwrap().to_string());
    std::thread::spawn(move || {
        for mut connection in http.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = [0; 1];
                let _ = connection.read_exact(&mut request);
                let _ = connection.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
            });
        }
    });
    let target = NatsTarget::new("elsewhere");
    let rows = found(&addresses[0], &target, &[], 3);
    reports(&rows, "reachable", "failed", "does not speak first, as a NATS server does (Kafka");
    let own = [
        ("ATTIO_WEBHOOK_SECRET", SECRET),
        ("ATTIO_BRIDGE__BUS__TYPE", "nats"),
        ("ATTIO_BRIDGE__NATS__SERVERS", &*addresses[0]),
    ];
    let served = Served::start(&own);
    let log = || served.log().concat();
    eventually_blocking("`serve` names it too", || log().contains("does not speak first"));
    let blamed = log().contains("firewalls") && !log().contains("that a NATS server answers there");
    assert!(!blamed, "a firewall is not blamed alone: {}", log());
    let rows = found(&addresses[1], &target, &[], 3);
    reports(&rows, "reachable", "failed", "an HTTP server listens");
}
