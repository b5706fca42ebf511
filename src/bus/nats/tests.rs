//! The adapter against a server that takes everything and acknowledges nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;

use async_nats::{Event, ServerError};

use super::options::Ensure;
use super::*;
use crate::cloudevent::{CloudEvent, Data};
use crate::metrics::{Labels, Metrics};
use crate::pipeline::publish::{AckCallback, PublishResult};
use crate::supervise::Supervisor;

/// Far longer than anything takes here, on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(30);

const INFO: &str = "INFO {\"server_id\":\"x\",\"server_name\":\"x\",\"version\":\"2.10.0\",\"proto\":1,\"go\":\"\",\
                    \"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,\"max_payload\":1048576,\"client_id\":1}\r\n";

/// Takes everything, and says nothing but that it is there.
fn silent_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || listen(connection));
        }
    });
    address
}

fn listen(mut connection: TcpStream) {
    let _ = connection.write_all(INFO.as_bytes());
    let mut buffer = [0; 65536];
    while let Ok(read @ 1..) = connection.read(&mut buffer) {
        if buffer[..read].windows(6).any(|line| line == b"PING\r\n") {
            let _ = connection.write_all(b"PONG\r\n");
        }
    }
}

struct Tell(SyncSender<PublishResult>);

impl AckCallback for Tell {
    fn settle(self: Box<Self>, verdict: PublishResult) {
        let _ = self.0.send(verdict);
    }
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    bus: Arc<Nats>,
    metrics: Arc<Metrics>,
}

fn bench(publish_timeout: Duration) -> Bench {
    let metrics = Metrics::new(Labels {
        publish_results: PublishError::LABELS.to_vec(),
        bus: "nats",
        destinations: vec!["a".into()],
        ..Labels::default()
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut options = Options::new([silent_server().to_string()]);
    options.publish_timeout = publish_timeout;
    options.stream.ensure = Ensure::Off;
    let inside = runtime.enter();
    let bus = Nats::start(options, vec![], ContentMode::Structured, metrics.bus(), &Supervisor::detached())
        .unwrap();
    drop(inside);
    let bench = Bench { runtime, bus, metrics };
    let begun = Instant::now();
    while bench.bus.state() != BusState::Up {
        assert!(begun.elapsed() < PATIENCE, "the bus is up");
        thread::sleep(Duration::from_millis(5));
    }
    bench
}

impl Bench {
    fn message(&self, subject: &str) -> (Message, PublishHandle, Receiver<PublishResult>) {
        let (tell, verdict) = sync_channel(1);
        let event = CloudEvent::new("1", &["urn:x"], Data::Json("{}".into()));
        let destination = Arc::new(Destination { address: "a".into(), subject: subject.into() });
        let message = Message { destination, event, dedup_key: "0".repeat(32), structured_only: false };
        (message, PublishHandle::new(Box::new(Tell(tell)), self.metrics.publish("a"), None), verdict)
    }

    fn publish(&self, subject: &str) -> Receiver<PublishResult> {
        let (message, handle, verdict) = self.message(subject);
        self.bus.publish(message, handle);
        verdict
    }

    /// A verdict is told before its message stops to count.
    fn waits_for(&self, messages: u64) {
        let begun = Instant::now();
        while self.bus.link.health.pending() != messages {
            assert!(begun.elapsed() < PATIENCE, "{} are waited for", self.bus.link.health.pending());
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn tell(&self, event: &Event) {
        self.bus.link.health.event(event);
    }

    fn lose_connection(&self) {
        self.tell(&Event::Disconnected);
        self.tell(&Event::Connected);
    }

    fn refuse(&self, subject: &str) {
        let text = format!("Permissions Violation for Publish to \"{subject}\"");
        self.tell(&Event::ServerError(ServerError::Other(text)));
    }
}

fn label(verdict: &Receiver<PublishResult>) -> &'static str {
    match verdict.recv_timeout(PATIENCE) {
        Ok(Ok(_)) => "acknowledged",
        Ok(Err(error)) => error.label(),
        Err(RecvTimeoutError::Timeout) => "nothing",
        Err(RecvTimeoutError::Disconnected) => "dropped",
    }
}

#[test]
fn what_is_never_acknowledged_times_out() {
    let bench = bench(Duration::from_millis(200));
    let waiting: Vec<_> = (0..200).map(|_| bench.publish("a")).collect();
    for verdict in &waiting {
        assert_eq!(label(verdict), "timeout");
    }
    bench.waits_for(0);
}

#[test]
fn a_bus_that_is_dropped_abandons_what_waits() {
    let bench = bench(Duration::from_secs(3600));
    let waiting: Vec<_> = (0..100).map(|_| bench.publish("a")).collect();
    let Bench { bus, runtime: _runtime, .. } = bench;
    drop(bus);
    assert!(waiting.iter().all(|verdict| label(verdict) == "abandoned"));
}

#[test]
fn a_refusal_ends_what_waits_on_its_subject_and_nothing_else() {
    let bench = bench(Duration::from_secs(3600));
    bench.refuse("a");
    let (others, refused) = (["b", "a.b"].map(|subject| bench.publish(subject)), bench.publish("a"));
    assert!(
        refused.recv_timeout(Duration::from_millis(50)).is_err(),
        "a refusal before the hand-over is none of this message"
    );
    bench.refuse("a");
    assert_eq!(label(&refused), "refused");
    assert!(others.iter().all(|verdict| verdict.try_recv().is_err()));
    bench.waits_for(2);
}

#[test]
fn whatever_is_handed_over_before_a_loss_or_during_it_is_ended_by_it() {
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
    assert!(waiting.iter().all(|verdict| matches!(label(verdict), "unavailable" | "busy")));
    assert_eq!(label(&last), "unavailable");
    bench.waits_for(0);
}

#[test]
fn a_loss_between_the_count_and_the_hand_over_ends_the_message_too() {
    let bench = bench(Duration::from_secs(3600));
    let (message, handle, verdict) = bench.message("a");
    let layout = record::layout(&message, ContentMode::Structured, "ATTIO").unwrap();
    let pending = Pending::new(handle, message.destination, &bench.bus.link);
    bench.lose_connection();
    // Whoever ends what waits has looked by now, and has found nothing.
    thread::sleep(Duration::from_millis(50));
    bench.bus.acks.send(pending, layout);
    assert_eq!(label(&verdict), "unavailable");
}
