//! The built binary as an operator runs it: output, stop, exit code.

use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use crate::support::client::Client;
use crate::support::consumer::Found;
use crate::support::kafka::shared;
use crate::support::mix::{Mix, Planned};
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::unique;
use crate::support::wait::{PATIENCE, eventually};

const STDOUT: (&str, &str) = ("ATTIO_BRIDGE__BUS__TYPE", "stdout");

fn task_created(task: &str) -> String {
    format!(
        "{{\n \"event_type\":\"task.created\",\r\n \"id\":{{\"workspace_id\":\"w\",\"task_id\":\"{task}\"}} }}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn stdout_bus_writes_each_event_before_the_answer() {
    for signal in ["TERM", "INT"] {
        let mut served = Served::start(&[STDOUT]);
        let mut out = served.stdout();
        let answer = Client::connect(served.http).await.ask(&Request::keyed("k", task_created("t"))).await;
        assert_eq!(answer.status_and_reason(), (200, "accepted".into()));
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["type"], "com.attio.task.created");
        assert_eq!(event["data"]["id"]["task_id"], "t");
        assert!(!line.trim_end_matches('\n').contains(['\r', '\n']));
        served.signal(signal);
        assert_eq!(served.ended().code(), Some(0), "{signal}");
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "logs go to standard error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stdout_pipe_is_broker_unavailable() {
    let mut served = Served::start(&[STDOUT]);
    drop(served.stdout());
    let answer = Client::connect(served.http).await.ask(&Request::keyed("k", task_created("t"))).await;
    assert_eq!(answer.status_and_reason(), (503, "broker_unavailable".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_exits_1_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        // Accepts and never answers: the delivery hangs until its answer is due.
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", &address),
        ("ATTIO_BRIDGE__SHUTDOWN__DELAY", "1h"),
    ]);
    let mut client = Client::connect(served.http).await;
    client.send(&Request::keyed("k", task_created("t"))).await;
    served.signal("TERM");
    eventually("readiness falls", || async {
        let mut request = Request::unsigned("").method("GET").path("/readyz");
        request.headers.retain(|(name, _)| name == "Host");
        Client::connect(served.admin).await.ask(&request).await.body == b"draining\n"
    })
    .await;
    served.signal("TERM");
    assert_eq!(served.ended().code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_nothing_that_was_answered_200() {
    let (broker, prefix) = (shared(), unique("sigterm"));
    let mut served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap()),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", &prefix),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "create"),
    ]);
    let mut mix = Mix::new(&prefix, 11);
    let planned: Arc<[Planned]> = (0..50_000).map(|_| mix.single()).collect();
    let (next, accepted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..8 {
        let (planned, next, accepted) = (Arc::clone(&planned), Arc::clone(&next), Arc::clone(&accepted));
        let address = served.http;
        workers.spawn(async move {
            let mut client = Client::connect(address).await;
            let mut stored = Vec::new();
            while let Some(delivery) = planned.get(next.fetch_add(1, Ordering::Relaxed)) {
                client.send(&delivery.request).await;
                match client.try_receive().await {
                    Some(answer) if answer.status == 200 => {
                        accepted.fetch_add(1, Ordering::Relaxed);
                        stored.extend(delivery.ids.iter().cloned());
                    }
                    // Not ready yet, or draining: the sender would retry.
                    Some(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
                    None => break,
                }
            }
            stored
        });
    }
    eventually("deliveries are accepted", || async { accepted.load(Ordering::Relaxed) > 500 }).await;
    served.signal("TERM");
    assert_eq!(served.ended().code(), Some(0));
    let acknowledged: Vec<String> = workers.join_all().await.into_iter().flatten().collect();
    assert!(acknowledged.len() < planned.len(), "it was stopped under load");
    let found = Found::on(&broker, &prefix);
    for id in acknowledged {
        assert_eq!(found.copies(&id), 1, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_broker_is_reported_with_advice() {
    // A port that no test is ever given.
    let address = "127.0.0.1:1";
    let table = [
        ("kafka", "KAFKA__BOOTSTRAP_SERVERS", "kafka.bootstrap_servers, and that the broker runs"),
        ("nats", "NATS__SERVERS", "nats.servers, and that the server runs"),
    ];
    for (bus, key, advice) in table {
        let key = format!("ATTIO_BRIDGE__{key}");
        let served = Served::start(&[("ATTIO_BRIDGE__BUS__TYPE", bus), (&key, address)]);
        eventually("the log has advice", || async {
            let advised = |line: &String| line.contains("onnection refused") && line.contains(advice);
            served.log().iter().any(advised)
        })
        .await;
        eventually("readiness reports it too", || async {
            let answer = served.admin("/readyz").await;
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            answer.status == 503 && body.contains("onnection refused") && body.contains(advice)
        })
        .await;
    }
}

/// A name server that receives queries and never answers, and a `resolv.conf` that names it.
fn silent_name_server() -> (UdpSocket, tempfile::NamedTempFile) {
    // Another loopback address for each process, because `resolv.conf` cannot name a port.
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let address = Ipv4Addr::new(127, 53, high, low.clamp(1, 254));
    let socket = UdpSocket::bind((address, 53)).expect("this test may bind port 53");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "nameserver {address}\noptions timeout:30 attempts:5").unwrap();
    (socket, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_exits_0_while_name_resolution_hangs() {
    let (socket, resolv_conf) = silent_name_server();
    for (bus, key) in [("kafka", "KAFKA__BOOTSTRAP_SERVERS"), ("nats", "NATS__SERVERS")] {
        let key = format!("ATTIO_BRIDGE__{key}");
        let variables = [
            ("ATTIO_BRIDGE__BUS__TYPE", bus),
            (&key, "broker.example:4222"),
            ("ATTIO_BRIDGE__SHUTDOWN__DRAIN_TIMEOUT", "2s"),
        ];
        let mut served = Served::with_mounted(resolv_conf.path(), "/etc/resolv.conf", &variables);
        let mut query = [0; 512];
        socket.recv(&mut query).expect("the name is looked up");
        served.signal("TERM");
        // The resolver would give up after 150 s, which is longer than the patience of this test.
        assert_eq!(served.ended().code(), Some(0), "{bus}: {:?}", served.log());
        eventually("the last log line is read", || async {
            !served.logged("drained: no requests in flight").is_empty()
        })
        .await;
        // Whatever the process still asked before it ended.
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut query).is_ok() {}
        socket.set_nonblocking(false).unwrap();
    }
}
