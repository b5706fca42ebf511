//! The adapter against a fake server that accepts everything and acknowledges everything or nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread;

use async_nats::{Event, ServerError};
use futures_util::FutureExt;

use super::*;
use crate::cloudevent::{CloudEvent, Data};
use crate::metrics::{Labels, Metrics};
use crate::pipeline::parse::MAX_EVENTS;
use crate::pipeline::publish::{AckCallback, PublishResult};
use crate::supervise::{Ended, Ends, Supervisor};

/// Much longer than any step takes, even on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

const INFO: &str = "INFO {\"server_id\":\"x\",\"server_name\":\"x\",\"version\":\"2.10.0\",\"proto\":1,\"go\":\"\",\
                    \"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,\"max_payload\":1048576,\"client_id\":1}\r\n";

/// Whether the fake server acknowledges messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replies {
    Acks,
    Nothing,
}

fn fake_server(replies: Replies) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || serve(connection, replies));
        }
    });
    address
}

/// Reads the client's protocol; none once the client is gone.
fn serve(mut connection: TcpStream, replies: Replies) -> Option<()> {
    let mut reader = BufReader::new(connection.try_clone().ok()?);
    connection.write_all(INFO.as_bytes()).ok()?;
    let mut subscription = String::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["PING"] => connection.write_all(b"PONG\r\n").ok()?,
            ["SUB", _, id] => subscription = id.to_owned(),
            ["HPUB", _, reply, _, size] => {
                let mut message = vec![0; size.parse::<usize>().unwrap() + 2];
                reader.read_exact(&mut message).ok()?;
                let ack = "{\"stream\":\"ATTIO\",\"seq\":1}";
                if replies == Replies::Acks {
                    write!(connection, "MSG {reply} {subscription} {}\r\n{ack}\r\n", ack.len()).ok()?;
                }
            }
            _ => {}
        }
    }
}

struct ResultSender(SyncSender<PublishResult>);

impl AckCallback for ResultSender {
    fn settle(self: Box<Self>, result: PublishResult) {
        let _ = self.0.send(result);
    }
}

/// Panics when it is settled, as a bug in the pipeline would.
struct Panics;

impl AckCallback for Panics {
    fn settle(self: Box<Self>, _: PublishResult) {
        panic!("a planted bug");
    }
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    bus: Arc<Nats>,
    metrics: Arc<Metrics>,
    ends: Ends,
}

/// A bus on a server that acknowledges nothing.
fn bench(publish_timeout: Duration) -> Bench {
    bench_on(Replies::Nothing, publish_timeout)
}

fn bench_on(replies: Replies, publish_timeout: Duration) -> Bench {
    let metrics = Metrics::new(Labels {
        publish_results: PublishError::LABELS.to_vec(),
        bus: "nats",
        destinations: vec!["a".into()],
        ..Labels::default()
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut options = Options::new([fake_server(replies).to_string()]);
    options.publish_timeout = publish_timeout;
    options.stream.ensure = Ensure::Off;
    let inside = runtime.enter();
    let (supervisor, ends) = Supervisor::new();
    let bus = Nats::start(options, vec![], ContentMode::Structured, metrics.bus(), &supervisor).unwrap();
    drop(inside);
    let bench = Bench { runtime, bus, metrics, ends };
    let begun = Instant::now();
    while bench.bus.state() != BusState::Up {
        assert!(begun.elapsed() < PATIENCE, "the bus is up");
        thread::sleep(Duration::from_millis(5));
    }
    bench
}

impl Bench {
    fn message(&self, subject: &str) -> (Message, PublishHandle, Receiver<PublishResult>) {
        let (sender, result) = sync_channel(1);
        let event = CloudEvent::new("1", &["urn:x"], Data::Json("{}".into()));
        let destination = Arc::new(Destination { address: "a".into(), subject: subject.into() });
        let message = Message { destination, event, dedup_key: "0".repeat(32), structured_only: false };
        (message, PublishHandle::new(Box::new(ResultSender(sender)), self.metrics.publish("a"), None), result)
    }

    fn publish(&self, subject: &str) -> Receiver<PublishResult> {
        let (message, handle, result) = self.message(subject);
        self.bus.publish(message, handle);
        result
    }

    /// A result is reported before its message stops counting as in flight.
    fn waits_for(&self, messages: u64) {
        let begun = Instant::now();
        while self.bus.link.health.counters.in_flight.load(Ordering::Relaxed) != messages {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} are waited for",
                self.bus.link.health.counters.in_flight.load(Ordering::Relaxed)
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Publishes a message whose callback panics.
    fn publish_with_planted_bug(&self) {
        let (message, _, _) = self.message("a");
        let handle = PublishHandle::new(Box::new(Panics), self.metrics.publish("a"), None);
        self.bus.publish(message, handle);
    }

    /// The first supervised part that ends.
    fn ended(&mut self) -> Ended {
        let Self { runtime, ends, .. } = self;
        runtime.block_on(async { tokio::time::timeout(PATIENCE, ends.next()).await }).expect("a part ends")
    }

    fn on_event(&self, event: &Event) {
        self.bus.link.health.on_event(event);
    }

    fn lose_connection(&self) {
        self.on_event(&Event::Disconnected);
        self.on_event(&Event::Connected);
    }

    fn refuse(&self, subject: &str) {
        let text = format!("Permissions Violation for Publish to \"{subject}\"");
        self.on_event(&Event::ServerError(ServerError::Other(text)));
    }
}

fn label(result: &Receiver<PublishResult>) -> &'static str {
    match result.recv_timeout(PATIENCE) {
        Ok(Ok(_)) => "acknowledged",
        Ok(Err(error)) => error.label(),
        Err(RecvTimeoutError::Timeout) => "nothing",
        Err(RecvTimeoutError::Disconnected) => "dropped",
    }
}

#[test]
fn unacknowledged_message_times_out() {
    let bench = bench(Duration::from_millis(200));
    let waiting: Vec<_> = (0..200).map(|_| bench.publish("a")).collect();
    for result in &waiting {
        assert_eq!(label(result), "timeout");
    }
    bench.waits_for(0);
}

#[test]
fn dropped_bus_abandons_messages_in_flight() {
    let bench = bench(Duration::from_secs(3600));
    let waiting: Vec<_> = (0..100).map(|_| bench.publish("a")).collect();
    let Bench { bus, runtime: _runtime, .. } = bench;
    drop(bus);
    assert!(waiting.iter().all(|result| label(result) == "abandoned"));
}

#[test]
fn permissions_violation_ends_only_messages_of_its_subject() {
    let bench = bench(Duration::from_secs(3600));
    bench.refuse("a");
    let (others, refused) = (["b", "a.b"].map(|subject| bench.publish(subject)), bench.publish("a"));
    assert!(
        refused.recv_timeout(Duration::from_millis(50)).is_err(),
        "a refusal before the hand-over is none of this message"
    );
    bench.refuse("a");
    assert_eq!(label(&refused), "refused");
    assert!(others.iter().all(|result| result.try_recv().is_err()));
    bench.waits_for(2);
}

#[test]
fn lost_connection_ends_every_message_enqueued_before_it() {
    let bench = bench(Duration::from_secs(3600));
    let waiting = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..1000).map(|_| bench.publish("a")).collect::<Vec<_>>()))
            .collect();
        for _ in 0..50 {
            bench.lose_connection();
            thread::sleep(Duration::from_micros(200));
        }
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let last = bench.publish("a");
    bench.lose_connection();
    assert!(waiting.iter().all(|result| matches!(label(result), "unavailable" | "busy")));
    assert_eq!(label(&last), "unavailable");
    bench.waits_for(0);
}

#[test]
fn loss_while_a_message_is_enqueued_ends_the_message() {
    let bench = bench(Duration::from_secs(3600));
    let (message, handle, result) = bench.message("a");
    let record = publish::encode_record(&message, ContentMode::Structured, "ATTIO").unwrap();
    let entry = InFlight::new(handle, message.destination, &bench.bus.link);
    bench.lose_connection();
    // By now the task that fails in-flight messages has run and found none.
    thread::sleep(Duration::from_millis(50));
    bench.bus.publisher.enqueue(entry, record);
    assert_eq!(label(&result), "unavailable");
}

#[test]
fn panic_in_the_ack_task_is_reported_to_the_supervisor() {
    let mut bench = bench_on(Replies::Acks, PATIENCE);
    assert_eq!(label(&bench.publish("a")), "acknowledged");
    bench.publish_with_planted_bug();
    assert_eq!(bench.ended(), Ended { part: "nats acks", cause: "a planted bug".into() });
}

#[test]
fn panic_in_the_ack_timeout_task_is_reported_to_the_supervisor() {
    let mut bench = bench(Duration::from_millis(50));
    bench.publish_with_planted_bug();
    assert_eq!(bench.ended(), Ended { part: "nats ack timeouts", cause: "a planted bug".into() });
}

#[test]
fn stream_ensure_off_and_a_normal_stop_end_no_supervised_task() {
    let bench = bench(Duration::from_millis(50));
    // The bus is up, so every task has run; a timeout comes after that.
    assert_eq!(label(&bench.publish("a")), "timeout");
    let Bench { bus, runtime, mut ends, .. } = bench;
    assert_eq!(ends.next().now_or_never(), None, "running");
    drop(bus);
    runtime.shutdown_timeout(PATIENCE);
    assert_eq!(ends.next().now_or_never(), None, "stopped");
}

#[test]
fn delivery_of_the_most_events_fits_in_flight() {
    let bench = bench(Duration::from_secs(3600));
    let published: Vec<_> = (0..MAX_EVENTS).map(|_| bench.publish("a")).collect();
    assert!(published.iter().all(|result| result.try_recv() == Err(TryRecvError::Empty)));
}
