//! A consumer that is killed at every step loses no event and handles none twice.

use std::collections::BTreeSet;
use std::sync::Arc;

use attio_bridge::pipeline::publish::Bus as BridgeBus;

use super::bus::{Bus, Kind};
use super::consumer::Consumer;
use super::languages::Language;
use crate::support::bridge::{Bridge, config};
use crate::support::load::ready;
use crate::support::nats::runtime;
use crate::support::program::lent;
use crate::support::proxy::{Flow, Way};
use crate::support::request::Request;

/// More than a client hears while nothing is published.
const PADDING: usize = 200_000;

/// Events that are published while the consumer is killed at random.
const STREAM: usize = 300;

/// Kills of that consumer.
const KILLS: usize = 3;

struct Publisher(Arc<Bridge<dyn BridgeBus>>);

impl Publisher {
    fn start(bus: &Bus) -> Self {
        runtime().block_on(async {
            let bridge = Bridge::serving(config(&lent(&bus.bridge("structured")))).await;
            ready(&bridge).await;
            Self(Arc::new(bridge))
        })
    }

    /// Publishes one event, which is larger by so many bytes.
    async fn publish(&self, name: &str, padding: usize) {
        let id = format!(r#"{{"workspace_id":"w","object_id":"o","record_id":"r-{name}"}}"#);
        let padding = "x".repeat(padding);
        let event = format!(r#"{{"event_type":"record.created","id":{id},"padding":"{padding}"}}"#);
        let body = format!(r#"{{"webhook_id":"w","events":[{event}]}}"#);
        assert_eq!(self.0.ask(&Request::keyed(name, body)).await.status, 200);
    }

    /// Publishes one event while the consumer cannot write; returns when the consumer has been sent it.
    fn publish_while_locked(&self, bus: &Bus, consumer: &mut Consumer<'_>, name: &str) {
        consumer.inbox.lock();
        let passed = bus.proxy.passed(Way::ToClient);
        runtime().block_on(self.publish(name, PADDING));
        consumer.until("it is sent the event", |consumer| bus.is_fetched(consumer.name, passed, PADDING));
    }
}

pub fn survives_kills(language: &Language, kind: Kind) {
    let bus = Bus::start(kind);
    let publisher = Publisher::start(&bus);
    let mut consumer = Consumer::new(language, kind, &bus);

    // Connected, with nothing to read.
    consumer.start();
    consumer.kill();

    // The event is there, and its work waits.
    consumer.start();
    publisher.publish_while_locked(&bus, &mut consumer, "waits");
    consumer.kill();
    consumer.inbox.unlock();
    assert_eq!(consumer.inbox.count(), 0, "its work was not done");
    consumer.start();
    consumer.until_done();
    assert_eq!(consumer.inbox.count(), 1);

    // The work is done, and no acknowledgement has reached the broker.
    publisher.publish_while_locked(&bus, &mut consumer, "done");
    bus.proxy.set(Way::ToServer, Flow::Stall);
    consumer.inbox.unlock();
    consumer.until("the work is done", |consumer| consumer.inbox.count() == 2);
    consumer.kill();
    assert!(!bus.is_done(consumer.name), "the broker waits for the acknowledgement");
    consumer.start();
    consumer.until_done();
    assert_eq!(consumer.inbox.count(), 2);

    // The work is done and acknowledged.
    consumer.kill();

    // At random, under a stream.
    let mut after: Vec<usize> = (0..KILLS).map(|_| fastrand::usize(2..STREAM)).collect();
    after.sort_unstable();
    println!("{} on {}: killed after {after:?} events", language.name, kind.name());
    let publisher = Arc::new(publisher);
    let stream = Arc::clone(&publisher);
    let stream = runtime().spawn(async move {
        for at in 0..STREAM {
            stream.publish(&format!("stream-{at}"), 0).await;
        }
    });
    for after in after {
        consumer.start();
        consumer.until("it has handled so many", |consumer| consumer.inbox.count() >= after);
        consumer.kill();
    }
    consumer.start();
    runtime().block_on(stream).expect("everything is published");
    consumer.until_done();
    consumer.stop();

    let tables = consumer.inbox.tables();
    let handled: Vec<_> = tables.event.iter().map(|row| (row.source.clone(), row.id.clone())).collect();
    let messages = bus.messages();
    let published: BTreeSet<_> =
        messages.iter().map(|message| message.event.as_ref().expect("an event").source_and_id()).collect();
    assert_eq!(published.len(), STREAM + 2);
    assert_eq!(handled.len(), published.len(), "none is there twice");
    assert_eq!(handled.into_iter().collect::<BTreeSet<_>>(), published, "none is lost");
    let counted: u64 = tables.tally().values().sum();
    assert_eq!(counted, published.len() as u64, "none was handled twice");
    assert!(tables.record.iter().all(|record| record.events == 1), "none was handled twice");
    assert!(tables.set_aside.is_empty(), "{:?}", tables.set_aside);
}
