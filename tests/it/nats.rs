//! The NATS bus on a real server.

use std::time::Duration;

use attio_bridge::bus::nats::Ensure;
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::pipeline::publish::{Bus, BusState};

use crate::support::bus::label;
use crate::support::nats::bench::Bench;
use crate::support::nats::{Server, Settings, runtime, shared};
use crate::support::wait::{PATIENCE, eventually_blocking};

fn create(options: &mut attio_bridge::bus::nats::Options) {
    options.stream.ensure = Ensure::Create;
}

#[test]
fn structured_event_is_stored_byte_for_byte() {
    let server = shared();
    let bench = Bench::up(&server, "structured");
    let data = "{ \"big\" : 12345678901234567890.0, \"text\":\"\\u00e9 é\" }";
    let message = bench.message(data);
    let id = message.dedup_key.clone();
    assert_eq!(bench.publish(message).wait().map(|ack| ack.duplicate), Ok(false));
    let stored = bench.stored(&server);
    assert_eq!(stored.len(), 1);
    let envelope = format!(
        "{{\"specversion\":\"1.0\",\"id\":\"event-1\",\"source\":\"https://attio.com/x\",\
         \"type\":\"com.attio.record.created\",\"datacontenttype\":\"application/json\",\
         \"partitionkey\":\"rec-1\",\"data\":{data}}}"
    );
    assert_eq!(stored[0].text(), envelope);
    assert_eq!(stored[0].subject, bench.subject);
    let headers = [
        ("Content-Type", "application/cloudevents+json; charset=utf-8"),
        ("Nats-Expected-Stream", &bench.stream),
        ("Nats-Msg-Id", &id),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(stored[0].headers, headers.into());
}

#[test]
fn binary_event_is_stored_with_its_attributes_as_headers() {
    let server = shared();
    let bench = Bench::start_in(&server, "binary", ContentMode::Binary, create).wait_for(BusState::Up);
    let mut quarantined = bench.message("{}");
    quarantined.structured_only = true;
    let event = bench.message("{\"a\":1}");
    let id = event.dedup_key.clone();
    let results = [event, quarantined].map(|message| bench.publish(message));
    assert!(results.into_iter().all(|result| label(&result.wait()) == "acknowledged"));
    let stored = bench.stored(&server);
    assert_eq!(stored[0].text(), "{\"a\":1}");
    let headers = [
        ("Nats-Expected-Stream", bench.stream.as_str()),
        ("Nats-Msg-Id", &id),
        ("ce-datacontenttype", "application/json"),
        ("ce-id", "event-1"),
        ("ce-partitionkey", "rec-1"),
        ("ce-source", "https://attio.com/x"),
        ("ce-specversion", "1.0"),
        ("ce-type", "com.attio.record.created"),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(stored[0].headers, headers.into());
    assert_eq!(stored[1].headers.len(), 3, "quarantine is structured in both modes");
    assert!(stored[1].text().starts_with("{\"specversion\""));
}

#[test]
fn repeated_message_id_is_acknowledged_as_a_duplicate() {
    let server = Server::start();
    let bench = Bench::up(&server, "twice");
    let message = bench.message("{}");
    assert_eq!(bench.publish(message.clone()).wait().map(|ack| ack.duplicate), Ok(false));
    assert_eq!(bench.publish(message.clone()).wait().map(|ack| ack.duplicate), Ok(true));
    server.kill();
    server.restart();
    bench.until(BusState::Up);
    eventually_blocking("the repeat is a duplicate after a restart too", || {
        bench.publish(message.clone()).wait().map(|ack| ack.duplicate) == Ok(true)
    });
    assert_eq!(bench.stored(&server).len(), 1);
}

#[test]
fn messages_are_stored_in_order() {
    let server = shared();
    let bench = Bench::up(&server, "ordered");
    let results: Vec<_> =
        (0..2000).map(|n| bench.publish(bench.message(&format!("{{\"n\":{n:06}}}")))).collect();
    assert!(results.into_iter().all(|result| label(&result.wait()) == "acknowledged"));
    let stored = bench.stored(&server);
    assert_eq!(stored.len(), 2000);
    assert!(stored.is_sorted_by_key(|message| message.text().to_owned()));
}

#[test]
fn too_large_message_is_rejected_alone() {
    let server = Server::with(Settings { more: "max_payload: 200000".into(), ..Settings::default() });
    let bench = Bench::start(&server, "small", |_| {});
    server.create_stream(&bench.stream, &[&bench.subject], |config| config.max_message_size = 100_000);
    bench.until(BusState::Up);
    let message = |size: usize| bench.message(&format!("\"{}\"", "x".repeat(size)));
    let sizes = [5_000, 150_000, 5_000, 250_000, 5_000];
    let results = sizes.map(|size| bench.publish(message(size)));
    let labels = results.map(|result| label(&result.wait()));
    assert_eq!(labels, ["acknowledged", "rejected", "acknowledged", "rejected", "acknowledged"]);
}

#[test]
fn publish_without_permission_is_refused_without_a_timeout() {
    let allowed = "publish: [\"allowed.>\", \"$JS.API.STREAM.NAMES\"], subscribe: [\"_INBOX.>\"]";
    let users = format!(
        "authorization {{ users: [
            {{ user: admin, password: admin }}
            {{ user: bridge, password: bridge, permissions: {{ {allowed} }} }}
        ] }}"
    );
    let admin = || async_nats::ConnectOptions::with_user_and_password("admin".into(), "admin".into());
    let server = Server::with(Settings { more: users, admin: std::sync::Arc::new(admin), jetstream: true });
    server.create_stream("LOCKED", &["allowed.>", "other.>"], |_| {});
    let bench = |subject: &str| {
        let mut options = attio_bridge::bus::nats::Options::new([server.url()]);
        options.stream.name = "LOCKED".into();
        // No timeout: only the permissions violation can settle the publish.
        options.publish_timeout = Duration::from_secs(3600);
        options.auth = Some(attio_bridge::bus::nats::Auth::User {
            username: "bridge".into(),
            password: "bridge".to_owned().into(),
        });
        Bench::with(options, subject, ContentMode::Structured)
    };
    // The user may not query the stream either; publishes do not need that.
    let allowed = bench("allowed.record").wait_for(BusState::Up);
    assert_eq!(label(&allowed.result()), "acknowledged");
    let locked = bench("other.record").wait_for(BusState::Up);
    let refused = locked.result();
    assert_eq!(label(&refused), "refused", "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("not permitted to publish to other.record"));
}

#[test]
fn killed_server_is_unavailable_at_once_and_recovers() {
    let server = Server::start();
    let bench = Bench::up(&server, "killed");
    assert_eq!(label(&bench.result()), "acknowledged");
    server.kill();
    bench.until(BusState::Down);
    eventually_blocking("bus_up is 0", || bench.metrics.bus().up.get() == 0);
    let result = bench.publish(bench.message("{}")).now().expect("settled when publish returns");
    assert_eq!(label(&result), "unavailable");
    assert!(result.unwrap_err().to_string().contains(server.url().trim_start_matches("nats://")));
    server.restart();
    bench.until(BusState::Up);
    eventually_blocking("a publish is acknowledged", || label(&bench.result()) == "acknowledged");
}

#[test]
fn server_that_starts_after_the_bus_is_reached() {
    let server = Server::start();
    server.kill();
    let bench = Bench::start(&server, "late", create);
    eventually_blocking("publishes are unavailable", || {
        bench.publish(bench.message("{}")).now().is_some_and(|result| label(&result) == "unavailable")
    });
    assert_eq!(bench.bus.state(), BusState::Starting);
    server.restart();
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
}

#[test]
fn flush_waits_for_a_stalled_server() {
    let server = Server::start();
    let bench = Bench::up(&server, "flushed");
    server.pause();
    let results: Vec<_> = (0..5).map(|_| bench.publish(bench.message("{}"))).collect();
    assert_eq!(runtime().block_on(bench.bus.flush(Duration::from_millis(200))), 5);
    server.resume();
    assert_eq!(runtime().block_on(bench.bus.flush(PATIENCE)), 0);
    assert!(results.iter().all(|result| result.now().is_some_and(|v| label(&v) == "acknowledged")));
    assert_eq!(bench.stored(&server).len(), 5);
}

#[test]
fn missing_ack_is_a_timeout_and_the_retry_is_a_duplicate() {
    let server = Server::start();
    let bench = Bench::start(&server, "slow", |options| {
        create(options);
        options.publish_timeout = Duration::from_millis(300);
    });
    let bench = bench.wait_for(BusState::Up);
    let message = bench.message("{}");
    server.pause();
    assert_eq!(label(&bench.publish(message.clone()).wait()), "timeout");
    server.resume();
    eventually_blocking("the retry is acknowledged", || {
        bench.publish(message.clone()).wait().map(|ack| ack.duplicate) == Ok(true)
    });
    assert_eq!(bench.stored(&server).len(), 1);
}

#[test]
fn publish_beyond_the_in_flight_limit_is_busy() {
    let server = Server::start();
    let bench = Bench::start(&server, "busy", |options| {
        create(options);
        options.publish_timeout = PATIENCE;
    });
    let bench = bench.wait_for(BusState::Up);
    let messages: Vec<_> = (0..17_000).map(|_| bench.message("{}")).collect();
    // Paused for a short time: the client gives up a silent server.
    server.pause();
    let results: Vec<_> = messages.into_iter().map(|message| bench.publish(message)).collect();
    let busy = results.iter().filter(|v| v.now().is_some_and(|v| label(&v) == "busy")).count();
    assert!(busy > 0, "the number in flight is limited");
    server.resume();
    eventually_blocking("the rest is stored", || {
        bench.bus.state() == BusState::Up && {
            runtime().block_on(bench.bus.flush(Duration::from_millis(100))) == 0
        }
    });
    assert_eq!(bench.stored(&server).len(), 17_000 - busy);
}
