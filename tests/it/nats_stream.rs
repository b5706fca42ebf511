//! The NATS bus with a missing, conflicting or different stream.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, PersistenceMode, StorageType};
use attio_bridge::bus::nats::Ensure;
use attio_bridge::bus::nats::Options;
use attio_bridge::cloudevent::ContentMode;
use attio_bridge::pipeline::publish::{Bus, BusState};

use crate::support::bus::label;
use crate::support::nats::bench::{Bench, stream_name};
use crate::support::nats::{Server, Settings, shared};
use crate::support::unique;
use crate::support::wait::eventually_blocking;

fn create(options: &mut Options) {
    options.stream.ensure = Ensure::Create;
}

#[test]
fn missing_stream_is_refused_by_name_until_it_is_created() {
    let server = shared();
    let bench = Bench::start(&server, "missing", |_| {});
    eventually_blocking("the bus is connected", || bench.metrics.bus().up.get() == 1);
    let refused = bench.result();
    assert_eq!(label(&refused), "refused", "{refused:?}");
    let text = refused.unwrap_err().to_string();
    assert!(text.contains(&bench.stream) && text.contains(&bench.subject), "{text}");
    assert_eq!(bench.bus.state(), BusState::Starting);
    server.create_stream(&bench.stream, &[&bench.subject], |_| {});
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
}

#[test]
fn conflicting_stream_is_refused_until_it_is_deleted() {
    let server = shared();
    let (other, subject) = (stream_name("other"), unique("taken"));
    server.create_stream(&other, &[&subject], |_| {});
    let mut options = Options::new([server.url()]);
    options.stream.name = stream_name("wanted");
    create(&mut options);
    let bench = Bench::with(options, &subject, ContentMode::Structured);
    eventually_blocking("the bus is connected", || bench.metrics.bus().up.get() == 1);
    let refused = bench.result();
    assert_eq!(label(&refused), "refused", "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains(&bench.stream));
    assert_eq!(bench.bus.state(), BusState::Starting);
    assert!(server.stream(&bench.stream).is_none());
    server.delete_stream(&other);
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
    assert_eq!(server.stream(&bench.stream).unwrap().subjects, [subject]);
}

#[test]
fn server_without_jetstream_is_refused_until_it_is_enabled() {
    let server = Server::with(Settings { jetstream: false, ..Settings::default() });
    let bench = Bench::start(&server, "off", create);
    eventually_blocking("the bus is connected", || bench.metrics.bus().up.get() == 1);
    let refused = bench.result();
    assert_eq!(label(&refused), "refused", "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("JetStream"));
    assert_eq!(bench.bus.state(), BusState::Starting);
    server.configure(|settings| settings.jetstream = true);
    server.kill();
    server.restart();
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
}

#[test]
fn stream_without_every_subject_is_refused_until_updated() {
    let server = shared();
    let bench = Bench::start(&server, "uncovered", |_| {});
    server.create_stream(&bench.stream, &[&unique("else")], |_| {});
    eventually_blocking("the bus is connected", || bench.metrics.bus().up.get() == 1);
    assert_eq!(label(&bench.result()), "refused");
    assert_eq!(bench.bus.state(), BusState::Starting);
    server.change_stream(&bench.stream, |config| config.subjects.push(bench.subject.clone()));
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
}

#[test]
fn stream_with_other_settings_is_used_unchanged() {
    let server = shared();
    let bench = Bench::start(&server, "differs", |_| {});
    let settings = |config: &mut Config| {
        config.storage = StorageType::Memory;
        config.duplicate_window = Duration::from_secs(60);
        config.max_age = Duration::from_secs(3600);
    };
    server.create_stream(&bench.stream, &[&bench.subject], settings);
    bench.until(BusState::Up);
    assert_eq!(label(&bench.result()), "acknowledged");
    assert_eq!(
        server.stream(&bench.stream).unwrap().storage,
        StorageType::Memory,
        "the stream is not changed"
    );
}

#[test]
fn ensure_create_creates_the_stream_as_configured() {
    let server = shared();
    let bench = Bench::start(&server, "created", |options| {
        create(options);
        options.stream.duplicate_window = Duration::from_secs(600);
        options.stream.max_age = Duration::from_secs(7200);
        options.stream.replicas = Some(1);
    })
    .wait_for(BusState::Up);
    let created = server.stream(&bench.stream).expect("the stream exists");
    assert_eq!(created.storage, StorageType::File);
    assert_eq!(created.duplicate_window, Duration::from_secs(600));
    assert_eq!(created.max_age, Duration::from_secs(7200));
    assert_eq!(created.num_replicas, 1);
    assert_eq!(created.subjects, [bench.subject]);
}

#[test]
fn stream_that_acknowledges_before_it_stores_is_refused() {
    let server = shared();
    let bench = Bench::start(&server, "async", |_| {});
    server.create_stream(&bench.stream, &[&bench.subject], |config| {
        config.persist_mode = Some(PersistenceMode::Async);
    });
    eventually_blocking("the cause is known", || {
        bench.bus.not_ready_reason().is_some_and(|reason| reason.contains("persist_mode"))
    });
    assert_eq!((label(&bench.result()), bench.bus.state()), ("refused", BusState::Starting));
    assert!(bench.stored(&server).is_empty());
}

#[test]
fn ensure_off_does_not_query_the_stream() {
    let server = shared();
    let bench = Bench::start(&server, "ensure-off", |options| options.stream.ensure = Ensure::Off);
    let bench = bench.wait_for(BusState::Up);
    assert_eq!(label(&bench.result()), "refused");
    server.create_stream(&bench.stream, &[&bench.subject], |_| {});
    assert_eq!(label(&bench.result()), "acknowledged");
}
