//! The direct producer: the same CloudEvents, sent by the bare client library with the same acks. What
//! the broker and its client cost without a bridge before them. A process of its own, for its own CPU.

use std::sync::Arc;
use std::time::{Duration, Instant};

use attio_bridge::cloudevent::structured;
use attio_bridge::pipeline::normalize::{Context, normalize};
use attio_bridge::pipeline::parse::{Element, Parsed, parse};
use parking_lot::{Condvar, Mutex};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use time::OffsetDateTime;

use crate::body;
use crate::load::Traffic;
use crate::load::open::Pace;

/// How the events are sent.
#[derive(Clone, Copy, Debug)]
pub enum Drive {
    /// So many without an ack at any time.
    InFlight(usize),
    /// So many a second.
    Rate(u32),
}

/// One event as it lies in the broker.
pub struct Event {
    key: String,
    value: Vec<u8>,
}

/// Events made beforehand, as the bridge makes them.
pub fn events(count: usize) -> Vec<Event> {
    (0..count).map(|number| event(&number.to_string())).collect()
}

fn event(id: &str) -> Event {
    let body = body::body(1).into();
    let Parsed::Events { webhook_id, elements } = parse(&body) else { unreachable!("the body is good") };
    let Some(Element::Event(event)) = elements.first() else { unreachable!("it has one event") };
    let context = Context {
        source: "attio",
        workspace_id: None,
        received_at: OffsetDateTime::now_utc(),
        idempotency_key: Some("0123456789abcdef0123456789abcdef"),
        webhook_id: webhook_id.as_deref(),
    };
    let event = normalize(event, &format!("82aa3251-fb12-5533-8215-{id:0>12}"), context);
    let key = event.get(attio_bridge::cloudevent::Attribute::PartitionKey).unwrap_or_default().to_owned();
    Event { key, value: structured::encode(&event) }
}

/// What has been acknowledged, and who waits for it.
#[derive(Default)]
struct Tally {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: usize,
    traffic: Traffic,
}

impl Tally {
    /// Takes a place among those in flight, at most `limit`.
    fn begin(&self, limit: usize) {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.waiting >= limit);
        state.waiting += 1;
    }

    fn end(&self, good: bool, due: Instant) {
        let mut state = self.state.lock();
        state.waiting -= 1;
        state.traffic.count(good, due.elapsed());
        self.changed.notify_one();
    }

    fn finish(&self, begun: Instant) -> Traffic {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.waiting > 0);
        Traffic { took: begun.elapsed(), ..std::mem::take(&mut state.traffic) }
    }
}

impl ClientContext for Tally {}

impl ProducerContext for Tally {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, due: Box<Instant>) {
        self.end(result.is_ok(), *due);
    }
}

/// Sends to Kafka: idempotent, acks from all, the client's own polling thread.
pub fn kafka(bootstrap: &str, topic: &str, linger_ms: &str, drive: Drive, time: Duration) -> Traffic {
    let producer: ThreadedProducer<Tally> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", linger_ms)
        .set("batch.size", "65536")
        .set("partitioner", "murmur2_random")
        .create_with_context(Tally::default())
        .expect("the settings are good");
    let producer = Arc::new(producer);
    let events = events(2_000);
    let send = |number: usize, due: Instant| {
        let Event { key, value } = &events[number % events.len()];
        let headers = OwnedHeaders::new()
            .insert(Header { key: "content-type", value: Some(structured::CONTENT_TYPE) });
        let record = BaseRecord::<str, [u8], _>::with_opaque_to(topic, Box::new(due))
            .key(key.as_str())
            .payload(value.as_slice())
            .headers(headers);
        if let Err((error, record)) = producer.send(record) {
            eprintln!("direct: {error}");
            producer.context().end(false, *record.delivery_opaque);
        }
    };
    // The first message waits for the broker's metadata and a producer id.
    producer.context().begin(1);
    send(0, Instant::now());
    producer.context().finish(Instant::now());
    drive_with(producer.context(), drive, time, send)
}

/// Sends as the drive says, until the time is up and the last ack is there.
fn drive_with(tally: &Tally, drive: Drive, time: Duration, send: impl Fn(usize, Instant)) -> Traffic {
    let begun = Instant::now();
    match drive {
        Drive::InFlight(limit) => {
            for number in 0.. {
                tally.begin(limit);
                if begun.elapsed() >= time {
                    tally.state.lock().waiting -= 1;
                    break;
                }
                send(number, Instant::now());
            }
        }
        Drive::Rate(rate) => {
            let pace = Pace::new(rate, time);
            let mut number = 0;
            while let Some(due) = pace.next() {
                tally.begin(usize::MAX);
                send(number, due);
                number += 1;
            }
        }
    }
    tally.finish(begun)
}

/// Sends to JetStream: the client's own ack futures, one task for each place in flight.
pub fn nats(url: &str, subject: &str, drive: Drive, time: Duration) -> Traffic {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let client = runtime.block_on(async_nats::connect(url)).expect("the server is there");
    let stream = async_nats::jetstream::new(client);
    let tally = Arc::new(Tally::default());
    let events = events(2_000);
    let run = fastrand::u64(..);
    let send = |number: usize, due: Instant| {
        let value = events[number % events.len()].value.clone();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{run:016x}{number:016x}").as_str());
        headers.insert("Content-Type", structured::CONTENT_TYPE);
        let (stream, tally, subject) = (stream.clone(), Arc::clone(&tally), subject.to_owned());
        runtime.spawn(async move {
            let good = match stream.publish_with_headers(subject, headers, value.into()).await {
                Ok(ack) => ack.await.is_ok(),
                Err(_) => false,
            };
            tally.end(good, due);
        });
    };
    drive_with(&tally, drive, time, send)
}
