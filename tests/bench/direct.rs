//! The direct producer: the same CloudEvents, sent by the bare client library with the same acks. What
//! the broker and its client cost without a bridge before them. A process of its own, for its own CPU.

use std::sync::Arc;
use std::time::{Duration, Instant};

use attio_bridge::cloudevent::structured;
use attio_bridge::delivery::Context;
use attio_bridge::pipeline::normalize::normalize;
use attio_bridge::pipeline::parse::{Element, Parsed, parse};
use parking_lot::{Condvar, Mutex};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use time::OffsetDateTime;

use serde::{Deserialize, Serialize};

use crate::body;
use crate::load::Traffic;
use crate::load::open::Pace;
use crate::row::Phase;
use crate::usage::{self, Usage};

/// Where the events go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum To {
    /// A topic.
    Kafka {
        /// `host:port`.
        bootstrap: String,
        /// The topic.
        topic: String,
        /// `linger.ms`.
        linger: String,
    },
    /// A subject that a stream covers.
    Nats {
        /// The server.
        url: String,
        /// The subject.
        subject: String,
    },
}

/// What a direct producer is asked to do, and what it says of it: JSON, from process to process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// Where the events go.
    pub to: To,
    /// A rate, or as many events in flight as there are connections.
    pub phase: Phase,
    /// For how long.
    pub time: Duration,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// The acks.
    pub traffic: Traffic,
    /// What the process used for them.
    pub used: Usage,
    /// Its peak.
    pub peak_kib: u64,
}

/// Has a process of its own do it.
pub fn ask(task: &Task) -> Done {
    let this = std::env::current_exe().expect("this program has a path");
    let task = serde_json::to_string(task).expect("a task is JSON");
    let output = std::process::Command::new(this).args(["direct", &task]).output().expect("it starts");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("direct: {error}: {output:?}"))
}

/// Does it.
pub fn run(task: &Task) -> Done {
    match &task.to {
        To::Kafka { bootstrap, topic, linger } => kafka(bootstrap, topic, linger, task),
        To::Nats { url, subject } => nats(url, subject, task),
    }
}

/// One event as it lies in the broker.
struct Event {
    key: String,
    value: Vec<u8>,
}

/// Events made beforehand, as the bridge makes them.
fn events(count: usize) -> Vec<Event> {
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
    let event = normalize(event, &format!("82aa3251-fb12-5533-8215-{id:0>12}"), context, None, None);
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
fn kafka(bootstrap: &str, topic: &str, linger: &str, task: &Task) -> Done {
    let producer: ThreadedProducer<Tally> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", linger)
        .set("batch.size", "65536")
        .set("partitioner", "murmur2_random")
        .create_with_context(Tally::default())
        .expect("the settings are good");
    let events = events(2_000);
    let send = |number: usize, due: Instant| {
        let Event { key, value } = &events[number % events.len()];
        let headers =
            OwnedHeaders::new().insert(Header { key: "content-type", value: Some(structured::CONTENT_TYPE) });
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
    drive(producer.context(), task, send)
}

/// Sends as the task says, until the time is up and the last ack is there. What was used is looked up
/// while the client still has its threads.
fn drive(tally: &Tally, task: &Task, send: impl Fn(usize, Instant)) -> Done {
    let pid = std::process::id();
    let (begun, before) = (Instant::now(), usage::of(pid));
    match task.phase {
        Phase::Batches => unreachable!("a bare producer sends single events"),
        Phase::Saturated(limit) => {
            for number in 0.. {
                tally.begin(limit);
                if begun.elapsed() >= task.time {
                    tally.state.lock().waiting -= 1;
                    break;
                }
                send(number, Instant::now());
            }
        }
        Phase::Rate(rate) => {
            let pace = Pace::new(rate, task.time);
            let mut number = 0;
            while let Some(due) = pace.next() {
                tally.begin(usize::MAX);
                send(number, due);
                number += 1;
            }
        }
    }
    let traffic = tally.finish(begun);
    Done { traffic, used: usage::of(pid) - before, peak_kib: usage::memory(pid, "VmHWM") }
}

/// Sends to JetStream: the client's own ack futures, one task for each place in flight.
fn nats(url: &str, subject: &str, task: &Task) -> Done {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let client = runtime.block_on(async_nats::connect(url)).expect("the server is there");
    // The context has a task of its own.
    let inside = runtime.enter();
    let stream = async_nats::jetstream::new(client);
    drop(inside);
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
    drive(&tally, task, send)
}
