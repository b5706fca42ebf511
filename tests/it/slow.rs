//! Slow clients, disconnects and overload: good clients are not disturbed, nothing is published twice, and no
//! task or permit is leaked.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::memory::Answer;
use crate::support::request::{Request, SECRET};
use crate::support::served::Served;
use crate::support::wait::{PATIENCE, eventually};
use crate::support::{descriptors, full_tier};

/// For a deadline that must not pass during a test.
const LONG: Duration = Duration::from_secs(60);

const SHORT: Duration = Duration::from_millis(150);

/// A delivery of one event, distinct for each number.
fn event(at: usize) -> Request {
    Request::keyed(&at.to_string(), format!(r#"{{"event_type":"x.y","at":{at}}}"#))
}

#[tokio::test]
async fn stalled_pipelined_head_closes_the_connection_after_header_timeout() {
    let bridge = Bridge::with(|config| {
        config.http.header_timeout = SHORT;
        config.http.idle_timeout = LONG;
    })
    .await;
    for stalled in [1, 20, event(2).head().len() - 1] {
        let mut client = bridge.connect().await;
        client.write(&[event(1).bytes(), event(2).head()[..stalled].to_vec()].concat()).await;
        assert_eq!(client.receive().await.status, 200);
        assert!(client.try_receive().await.is_none(), "{stalled} bytes of a second head");
    }
}

#[tokio::test]
async fn header_timeout_of_a_pipelined_head_starts_after_the_answer_before_it() {
    let header_timeout = Duration::from_secs(4);
    let bridge = Bridge::with(|config| {
        config.http.header_timeout = header_timeout;
        config.http.answer_timeout = LONG;
    })
    .await;
    bridge.bus.script([Answer::Late]);
    let mut client = bridge.connect().await;
    let (second, cut) = (event(2).bytes(), 30);
    client.write(&event(1).bytes()[..10]).await;
    client.write(&[&event(1).bytes()[10..], &second[..cut]].concat()).await;
    eventually("the first is being published", || async { bridge.bus.waiting() == 1 }).await;
    tokio::time::sleep(header_timeout + SHORT).await;
    bridge.bus.release();
    assert_eq!(client.receive().await.status, 200);
    client.write(&second[cut..]).await;
    assert_eq!(client.receive().await.status_and_reason(), (200, "accepted".into()));
}

#[tokio::test]
async fn client_that_reads_no_answers_is_disconnected_after_idle_timeout() {
    let bridge = Bridge::with(|config| config.http.idle_timeout = SHORT).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(bridge.http).await.unwrap();
    let requests = Request::unsigned("{}").path("/nowhere").bytes().repeat(100);
    let sending = async { while stream.write_all(&requests).await.is_ok() {} };
    timeout(3 * PATIENCE, sending).await.expect("the bridge disconnects it");
}

/// A connection that stalls somewhere in a request, until the bridge closes it.
async fn stall(address: SocketAddr, at: usize) {
    let request = event(at);
    let head = request.head();
    let mut client = Client::connect(address).await;
    match at % 4 {
        0 => {}
        1 => {
            client.write(&head[..at % head.len()]).await;
        }
        2 => {
            client.write(&head).await;
            client.write(&request.body[..5]).await;
        }
        _ => {
            for byte in &head[..20] {
                client.write(&[*byte]).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    if let Some(answer) = client.try_receive().await {
        assert_eq!(answer.status_and_reason(), (408, "body_timeout".into()));
        client.closed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_stalled_connections_do_not_disturb_a_good_client() {
    const STALLED: usize = 1000;
    let bridge = Bridge::with(|config| {
        config.http.header_timeout = Duration::from_secs(3);
        config.http.body_timeout = Duration::from_secs(3);
        config.http.idle_timeout = Duration::from_secs(3);
    })
    .await;
    let mut stalled = JoinSet::new();
    let mut good = bridge.connect().await;
    for at in 0..STALLED {
        stalled.spawn(stall(bridge.http, at));
        if at % 4 == 0 {
            assert_eq!(good.ask(&event(STALLED + at)).await.status_and_reason(), (200, "accepted".into()));
        }
    }
    let mut others = 2 * STALLED;
    while !stalled.is_empty() {
        while let Some(ended) = stalled.try_join_next() {
            ended.unwrap();
        }
        others += 1;
        assert_eq!(good.ask(&event(others)).await.status_and_reason(), (200, "accepted".into()));
    }
    assert_eq!(bridge.bus.stored().len(), bridge.bus.attempts());
    bridge.stop().await.unwrap();
}

#[tokio::test]
async fn client_disconnect_at_any_byte_causes_no_second_publish() {
    let bridge = Bridge::with(|config| config.shutdown.drain_timeout = LONG).await;
    let step = if full_tier() { 1 } else { 7 };
    let mut sent = 0;
    for chunked in [false, true] {
        let length = { if chunked { event(1000).chunked(9) } else { event(1000) } }.bytes().len();
        for cut in (0..=length).step_by(step).chain([length]) {
            for way in 0..3 {
                sent += 1;
                let request = if chunked { event(1000 + sent).chunked(9) } else { event(1000 + sent) };
                let mut client = bridge.connect().await;
                client.write(&request.bytes()[..cut.min(request.bytes().len())]).await;
                match way {
                    0 => drop(client),
                    1 => client.reset(),
                    _ => {
                        client.half_close().await;
                        while client.try_receive().await.is_some() {}
                    }
                }
                let retried = bridge.ask(&request).await;
                assert_eq!(retried.status, 200, "{cut} bytes, way {way}: {retried:?}");
            }
        }
    }
    assert_eq!(bridge.bus.attempts(), sent, "each was published once");
    assert!(bridge.metrics().await.balances());
    bridge.stop().await.unwrap();
}

#[tokio::test]
async fn client_disconnect_during_publish_does_not_cancel_it() {
    let bridge = Bridge::with(|config| config.shutdown.drain_timeout = LONG).await;
    bridge.bus.script([Answer::Late, Answer::Late, Answer::Late]);
    for way in 0..3 {
        let mut client = bridge.connect().await;
        client.send(&event(way)).await;
        eventually("it is being published", || async { bridge.bus.waiting() == 1 }).await;
        match way {
            0 => drop(client),
            1 => client.reset(),
            _ => client.half_close().await,
        }
        let mut retry = bridge.connect().await;
        retry.send(&event(way)).await;
        bridge.until("dedup_lookups_total", &[("result", "joined")], 1.0 + way as f64).await;
        bridge.bus.release();
        assert_eq!(retry.receive().await.status_and_reason(), (200, "duplicate".into()));
    }
    assert_eq!(bridge.bus.attempts(), 3);
    bridge.stop().await.unwrap();
}

#[tokio::test]
async fn large_bodies_beyond_max_in_flight_bytes_are_overloaded() {
    const BODY: usize = 256 * 1024;
    const PERMITS: usize = 8;
    let bridge = Bridge::with(|config| {
        config.http.max_body_bytes = BODY;
        config.http.max_in_flight_bytes = PERMITS * BODY;
        config.http.body_timeout = LONG;
        config.http.answer_timeout = LONG;
    })
    .await;
    bridge.bus.answer(Answer::Late);
    let large = |at: usize| {
        let mut body = event(at).body;
        body.resize(BODY, b' ');
        Request::keyed(&at.to_string(), body)
    };
    // Heads first: the permit is acquired before the body is read.
    let mut clients = Vec::new();
    for at in 0..100 {
        let mut client = bridge.connect().await;
        client.write(&large(at).head()).await;
        if at >= PERMITS {
            let answer = client.receive().await;
            assert_eq!(answer.status_and_reason(), (503, "overloaded".into()), "request {at}, body unread");
            assert!(answer.header("retry-after").is_some());
        } else {
            let small = Request::signed("{}").without("Host").header("Host", "x").method("PUT");
            assert_eq!(bridge.ask(&small).await.status, 405, "a request that needs no permit is answered");
        }
        clients.push(client);
    }
    for (at, client) in clients.iter_mut().take(PERMITS).enumerate() {
        client.write(&large(at).body).await;
    }
    eventually("all with a permit are being published", || async { bridge.bus.waiting() == PERMITS }).await;
    bridge.bus.release();
    for client in clients.iter_mut().take(PERMITS) {
        assert_eq!(client.receive().await.status_and_reason(), (200, "accepted".into()));
    }
    bridge.bus.answer(Answer::Acknowledge);
    for at in PERMITS..PERMITS + 10 {
        assert_eq!(
            bridge.ask(&large(at)).await.status_and_reason(),
            (200, "accepted".into()),
            "permits were returned"
        );
    }
}

#[tokio::test]
async fn accept_loop_out_of_descriptors_does_not_spin() {
    let served = Served::start(&[("ATTIO_BRIDGE__BUS__TYPE", "stdout")]);
    let pid = Pid::from_raw(served.pid().cast_signed()).unwrap();
    // Later than its start, when it would have accepted fewer connections.
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(48), maximum: Some(48) }).unwrap();
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client::connect(served.http).await);
    }
    eventually("it is out of descriptors", || async {
        !served.logged("cannot accept connections").is_empty()
    })
    .await;
    let (before, window) = (served.cpu_seconds(), Duration::from_secs(2));
    tokio::time::sleep(window).await;
    let used = served.cpu_seconds() - before;
    assert!(used < window.as_secs_f64() / 2.0, "{used} s of CPU in {window:?}");
    assert!(served.logged("cannot accept connections").len() < 5, "and the warnings are limited");
    drop(clients);
    assert_eq!(served.ask(&event(1)).await.status, 200);
}

/// Far more idle connections than the soft limit of files allows, or the hard one.
#[tokio::test]
async fn idle_connections_beyond_the_limit_of_files_block_nothing() {
    descriptors::raise(2000);
    for (soft, hard) in [(1024, 4096), (1024, 1024)] {
        let script = format!("ulimit -S -n {soft} && ulimit -H -n {hard} && exec \"$0\" \"$@\"");
        let served = Served::after(
            &script,
            &[("ATTIO_BRIDGE__BUS__TYPE", "stdout"), ("ATTIO_BRIDGE__HTTP__HEADER_TIMEOUT", "1s")],
        );
        let mut idle = Vec::new();
        for _ in 0..1300 {
            idle.push(Client::connect(served.http).await);
        }
        assert_eq!(served.ask(&event(1)).await.status_and_reason(), (200, "accepted".into()));
        assert_eq!(served.probe("/livez").await, 200);
        assert_eq!(served.logged("cannot accept connections").len(), 0);
        let advice: Vec<_> = served.log().into_iter().filter(|line| line.contains("LimitNOFILE")).collect();
        let at_start = advice.iter().filter(|line| line.contains(&format!("may open {hard} files"))).count();
        assert_eq!(at_start, 1, "{advice:?}");
    }
}

#[test]
fn check_warns_of_a_limit_of_files_that_is_too_low() {
    let check = |connections: &str| {
        let output = Command::new("sh")
            .args(["-c", "ulimit -n 1024 && exec \"$0\" check --strict", env!("CARGO_BIN_EXE_attio-bridge")])
            .env_clear()
            .env("ATTIO_WEBHOOK_SECRET", SECRET)
            .env("ATTIO_BRIDGE__BUS__TYPE", "stdout")
            .env("ATTIO_BRIDGE__HTTP__MAX_CONNECTIONS", connections)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check("768"), (Some(0), String::new()));
    let (code, said) = check("769");
    assert_eq!(code, Some(3), "{said}");
    for part in ["http.max_connections", "may open 1024 files", "768 connections", "LimitNOFILE", "1025"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_largest_bodies_is_answered_in_bounded_memory() {
    let flood = if full_tier() { 5000 } else { 600 };
    // Nothing reads its standard output, so the bus accepts nothing.
    let mut served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "stdout"),
        ("ATTIO_BRIDGE__HTTP__HEADER_TIMEOUT", "60s"),
    ]);
    let mut body = event(0).body;
    body.resize(524_288, b' ');
    let request: Arc<[u8]> = Request::signed(&body).bytes().into();
    // All connect before the first sends, so that the bodies arrive together.
    let mut connected = Vec::new();
    for _ in 0..flood {
        connected.push(Client::connect(served.http).await);
    }
    let mut clients = JoinSet::new();
    for mut client in connected {
        let request = Arc::clone(&request);
        clients.spawn(async move {
            client.write(&request).await;
            client.receive().await.status_and_reason()
        });
    }
    let answers = clients.join_all().await;
    for (status, reason) in &answers {
        let known = ["accepted", "overloaded", "broker_timeout", "body_timeout"].contains(&&**reason);
        assert!(known && [200, 408, 503].contains(status), "{status} {reason}");
    }
    let shed = answers.iter().filter(|(_, reason)| reason == "overloaded").count();
    assert!(shed > 0, "more arrived than the limit allows");
    let peak = served.peak_mib();
    assert!(peak < 256, "{peak} MiB for a budget of 64 MiB of bodies");
    println!("{flood} bodies at once: {shed} shed, peak {peak} MiB");
    let mut out = served.stdout();
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    eventually("it accepts deliveries again", || async { served.ask(&event(1)).await.status == 200 }).await;
    assert!(served.metrics().await.balances());
}
