//! What changes on the NATS server under a running bridge: permissions, limits, the stream and its data.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;
use attio_bridge::bus::nats::Options;
use attio_bridge::bus::nats::{Auth, Ensure};
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::pipeline::publish::{Bus, BusState};

use crate::support::bridge::Bridge;
use crate::support::bus::label;
use crate::support::consumer::Found;
use crate::support::load::{ready, until_accepted};
use crate::support::mix::Mix;
use crate::support::nats::bench::{Bench, stream_name};
use crate::support::nats::target::NatsTarget;
use crate::support::nats::{Server, Settings, shared};
use crate::support::request::Request;
use crate::support::unique;
use crate::support::wait::{eventually, eventually_blocking};

fn users(permissions: &str) -> String {
    format!(
        "authorization {{ users: [
            {{ user: admin, password: admin }}
            {{ user: bridge, password: bridge, permissions: {{ {permissions} }} }}
        ] }}"
    )
}

fn guarded(permissions: &str) -> Server {
    let admin = || ConnectOptions::with_user_and_password("admin".into(), "admin".into());
    Server::with(Settings { more: users(permissions), admin: Arc::new(admin), jetstream: true })
}

fn as_bridge(server: &Server, subject: &str) -> Bench {
    let mut options = Options::new([server.url()]);
    options.stream.name = stream_name("guarded");
    // No timeout: only a permissions violation can settle a publish that is not acknowledged.
    options.publish_timeout = Duration::from_secs(3600);
    let password = "bridge".to_owned().into();
    options.auth = Some(Auth::User { username: "bridge".into(), password });
    server.create_stream(&options.stream.name, &[subject], |_| {});
    Bench::with(options, subject, ContentMode::Structured)
}

/// Asserts that publishes are refused for this reason and the bus is not ready, and that it recovers after the grant.
fn is_refused_until_granted(server: &Server, bench: &Bench, reason: &str) {
    eventually_blocking("publishes are refused", || {
        let result = bench.result();
        label(&result) == "refused" && result.unwrap_err().to_string().contains(reason)
    });
    bench.until(BusState::Starting);
    let not_ready = bench.bus.not_ready_reason();
    assert!(not_ready.as_ref().is_some_and(|text| text.contains(reason)), "{not_ready:?}");
    server.configure(|settings| settings.more = users("publish: \">\", subscribe: \">\""));
    server.reload();
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
}

#[test]
fn missing_permission_to_receive_acks_is_refused_at_once_until_granted() {
    let server = guarded("publish: \">\", subscribe: \"else\"");
    let bench = as_bridge(&server, &unique("unheard"));
    is_refused_until_granted(&server, &bench, "_INBOX.>");
}

#[test]
fn permission_to_receive_acks_that_is_revoked_is_refused_until_granted() {
    let server = guarded("publish: \">\", subscribe: \">\"");
    let bench = as_bridge(&server, &unique("revoked")).wait_for(BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
    server.configure(|settings| settings.more = users("publish: \">\", subscribe: \"else\""));
    server.reload();
    is_refused_until_granted(&server, &bench, "_INBOX.>");
}

#[test]
fn missing_permission_to_publish_is_unready_until_granted() {
    let server = guarded("publish: \"$JS.API.>\", subscribe: \">\"");
    let bench = as_bridge(&server, &unique("mute"));
    is_refused_until_granted(&server, &bench, "not permitted to publish");
}

#[test]
fn raised_max_payload_is_noticed_without_a_restart() {
    let server = Server::with(Settings { more: "max_payload: 20000".into(), ..Settings::default() });
    let bench = Bench::up(&server, "payload");
    let large = || bench.publish(bench.message(&format!("\"{}\"", "x".repeat(50_000)))).wait();
    server.configure(|settings| settings.more = "max_payload: 200000".into());
    server.reload();
    eventually_blocking("the message is accepted", || match label(&large()) {
        "acknowledged" => true,
        "unavailable" => false,
        other => panic!("{other}"),
    });
}

#[test]
fn stream_whose_acks_are_turned_off_is_refused_until_they_are_on() {
    let server = shared();
    let bench = Bench::start(&server, "no-ack", |options| {
        options.stream.ensure = Ensure::Create;
        options.publish_timeout = Duration::from_millis(200);
    });
    let bench = bench.wait_for(BusState::Up);
    // Time-outs in a row make the bridge look at the stream. It also looks now and then, and refuses at once if it does so
    // in between: then this begins anew.
    let refused_sooner = |labels: &[&str]| {
        labels.iter().skip_while(|label| **label == "timeout").all(|label| *label == "refused")
    };
    for attempt in 1.. {
        server.change_stream(&bench.stream, |config| config.no_ack = true);
        let labels: Vec<_> = (0..3).map(|_| label(&bench.result())).collect();
        bench.until(BusState::Starting);
        if labels == ["timeout"; 3] {
            break;
        }
        assert!(attempt < 5 && refused_sooner(&labels), "{labels:?}");
        server.change_stream(&bench.stream, |config| config.no_ack = false);
        bench.until(BusState::Up);
    }
    let refused = bench.result();
    assert!(label(&refused) == "refused" && refused.unwrap_err().to_string().contains("no_ack"));
    server.change_stream(&bench.stream, |config| config.no_ack = false);
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_data_under_two_bridges_makes_no_answer_false() {
    let (server, target) = (Server::start(), NatsTarget::new("swapped"));
    let bridges = [target.bridge(&server, &[]).await, target.bridge(&server, &[]).await];
    let mut mix = Mix::new(&target.prefix, 5);
    let before: Vec<_> = (0..200).map(|_| mix.single()).collect();
    for bridge in &bridges {
        ready(bridge).await;
    }
    for (n, planned) in before.iter().enumerate() {
        assert_eq!(bridges[n % 2].ask(&planned.request).await.status, 200);
    }
    server.kill();
    server.erase();
    server.restart();
    let after: Vec<_> = (0..200).map(|_| mix.single()).collect();
    for (n, planned) in after.iter().enumerate() {
        let bridge = &bridges[n % 2];
        until_accepted(&mut bridge.connect().await, bridge.http, &planned.request).await;
    }
    for bridge in &bridges {
        bridge.until("bus_data_losses_total", &[("bus", "nats")], 1.0).await;
        bridge.until("bus_up", &[("bus", "nats")], 1.0).await;
    }
    // The senders did not read the first answers: a repeat is answered for the new data, not from memory.
    for (n, planned) in before.iter().enumerate() {
        let bridge = &bridges[n % 2];
        until_accepted(&mut bridge.connect().await, bridge.http, &planned.request).await;
    }
    let found = Found::in_stream(&server, &target.stream, &target.prefix);
    let wrong: BTreeSet<_> = mix.ledger.events.keys().filter(|id| found.copies(id) != 1).collect();
    assert!(wrong.is_empty(), "answered 200 and not stored once: {wrong:?}");
}

fn task(id: &str) -> Request {
    Request::keyed(id, format!(r#"{{"event_type":"task.created","id":{{"task_id":"{id}"}}}}"#))
}

async fn is_stored_again(bridge: &Bridge<dyn Bus>, request: &Request) {
    eventually("the repeat is published again", || async {
        bridge.ask(request).await.status_and_reason() == (200, "accepted".into())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_created_anew_is_noticed_without_a_reconnect() {
    let (server, target) = (shared(), NatsTarget::new("anew"));
    let bridge = target.bridge(&server, &[]).await;
    ready(&bridge).await;
    for id in ["a", "b"] {
        assert_eq!(bridge.ask(&task(id)).await.status, 200);
    }
    server.delete_stream(&target.stream);
    server.create_stream(&target.stream, &[&format!("{}.>", target.prefix)], |_| {});
    assert_eq!(bridge.ask(&task("c")).await.status, 200);
    bridge.until("bus_data_losses_total", &[("bus", "nats")], 1.0).await;
    is_stored_again(&bridge, &task("a")).await;
    assert_eq!(target.stored(&server).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeat_of_a_deleted_message_is_not_answered_200_until_it_is_stored() {
    let (server, target) = (shared(), NatsTarget::new("deleted"));
    server.create_stream(&target.stream, &[&format!("{}.>", target.prefix)], |config| {
        config.duplicate_window = Duration::from_secs(5);
    });
    let first = target.bridge(&server, &[]).await;
    ready(&first).await;
    for id in ["a", "b", "c"] {
        assert_eq!(first.ask(&task(id)).await.status, 200);
    }
    server.delete_message(&target.stream, 2);
    // Another replica of the bridge has not seen the events: only the server can know them.
    let second = target.bridge(&server, &[]).await;
    ready(&second).await;
    assert_eq!(second.ask(&task("c")).await.status_and_reason(), (200, "duplicate".into()));
    let refused = second.ask(&task("b")).await;
    assert_eq!(refused.status_and_reason(), (503, "broker_refused".into()));
    is_stored_again(&second, &task("b")).await;
    assert_eq!(target.stored(&server).len(), 3);
}

#[test]
fn full_stream_is_refused_with_what_to_raise() {
    use async_nats::jetstream::stream::DiscardPolicy;
    let server = shared();
    let bench = Bench::start(&server, "full", |_| {});
    server.create_stream(&bench.stream, &[&bench.subject], |config| {
        (config.max_messages, config.discard) = (2, DiscardPolicy::New);
    });
    bench.until(BusState::Up);
    let duplicate = || bench.result().map(|ack| ack.duplicate);
    assert_eq!([duplicate(), duplicate()], [Ok(false), Ok(false)]);
    let refused = bench.result();
    assert_eq!(label(&refused), "refused", "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("raise its max_msgs"));
    bench.until(BusState::Starting);
    assert!(bench.bus.not_ready_reason().is_some_and(|reason| reason.contains("raise its max_msgs of 2")));
    server.change_stream(&bench.stream, |config| config.max_messages = 10);
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
}
