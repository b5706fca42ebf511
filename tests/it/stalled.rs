//! Good traffic beside thousands of stalled connections: none of it fails. Its latency with and without them is
//! printed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::client::Client;
use crate::support::descriptors;
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::stress;
use crate::support::wait::PATIENCE;

const GOOD_CLIENTS: usize = 4;

fn event(key: &str) -> Request {
    Request::keyed(key, format!(r#"{{"event_type":"x.y","at":"{key}"}}"#))
}

/// The sorted durations of good deliveries, all of which are accepted.
async fn deliver(address: SocketAddr, name: &'static str, count: usize) -> Vec<Duration> {
    let mut clients = JoinSet::new();
    for client in 0..GOOD_CLIENTS {
        clients.spawn(async move {
            let mut connection = Client::connect(address).await;
            let mut took = Vec::new();
            for at in 0..count / GOOD_CLIENTS {
                let request = event(&format!("{name} {client} {at}"));
                let begun = Instant::now();
                assert_eq!(connection.ask(&request).await.status_and_reason(), (200, "accepted".into()));
                took.push(begun.elapsed());
            }
            took
        });
    }
    let mut took: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
    took.sort();
    took
}

/// The same on a thread of its own, so that the stalled clients do not disturb the measurement.
async fn good(address: SocketAddr, name: &'static str, count: usize) -> Vec<Duration> {
    let measure = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(deliver(address, name, count))
    };
    tokio::task::spawn_blocking(measure).await.unwrap()
}

fn milliseconds(took: &[Duration], per_cent: usize) -> f64 {
    took[took.len() * per_cent / 100].as_secs_f64() * 1000.0
}

/// Stalls in one of several ways, counts itself, and returns how long the bridge took to close the connection.
async fn stall(address: SocketAddr, at: usize, stalled: &AtomicUsize, connecting: &Semaphore) -> Duration {
    let request = event(&format!("stalled {at}"));
    let head = request.head();
    let permit = connecting.acquire().await.unwrap();
    let mut client = Client::connect(address).await;
    let begun = Instant::now();
    match at % 11 {
        0 => {}
        10 => {
            client.write(&[&head, &request.body[..5]].concat()).await;
        }
        _ => {
            client.write(&head[..1 + at % (head.len() - 1)]).await;
        }
    }
    drop(permit);
    stalled.fetch_add(1, Ordering::Relaxed);
    if at % 11 == 1 {
        // One byte a second changes nothing.
        for byte in b"X-More:".iter().chain(&[b'x'; 30]) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if !client.write(&[*byte]).await {
                break;
            }
        }
    }
    if let Some(answer) = client.try_receive().await {
        // A trickled byte may have invalidated its head.
        let known = [(408, "body_timeout".into()), (400, "bad_framing".into())];
        assert!(known.contains(&answer.status_and_reason()), "{answer:?}");
        client.closed().await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_succeed_beside_thousands_of_stalled_connections() {
    let (stalls, count) = (stress(1_000, 10_000), stress(1_000, 10_000));
    descriptors::raise(stalls as u64 + 1_000);
    let mut served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "stdout"),
        ("ATTIO_BRIDGE__HTTP__MAX_CONNECTIONS", "12000"),
        // Long enough to open them all and to measure.
        ("ATTIO_BRIDGE__HTTP__HEADER_TIMEOUT", "15s"),
        ("ATTIO_BRIDGE__HTTP__BODY_TIMEOUT", "15s"),
        ("ATTIO_BRIDGE__HTTP__IDLE_TIMEOUT", "15s"),
        ("ATTIO_BRIDGE__HTTP__ANSWER_TIMEOUT", "20s"),
    ]);
    let mut out = served.stdout();
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    let address = served.http;
    good(address, "warm", count / 10).await;
    let before = good(address, "alone", count).await;
    let alone_mib = served.peak_mib();

    let (stalled, connecting) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(64)));
    let mut stalling = JoinSet::new();
    for at in 0..stalls {
        let (stalled, connecting) = (Arc::clone(&stalled), Arc::clone(&connecting));
        stalling.spawn(async move { stall(address, at, &stalled, &connecting).await });
    }
    let all_stall = async {
        while stalled.load(Ordering::Relaxed) < stalls {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(5 * PATIENCE, all_stall).await.expect("all of them stall");
    let during = good(address, "beside", count).await;
    let mut longest = Duration::ZERO;
    while let Some(ended) = stalling.try_join_next() {
        longest = longest.max(ended.unwrap());
    }
    let open = stalling.len();
    while let Some(ended) = stalling.join_next().await {
        longest = longest.max(ended.unwrap());
    }
    let after = good(address, "after", count / 10).await;
    println!(
        "{stalls} stalled connections, {open} to the end: p99 {:.2} ms beside them, {:.2} ms alone, ratio {:.2} (p50 {:.2} and {:.2}; \
         after them p99 {:.2}); the last ended after {longest:.1?}; peak {} MiB, {alone_mib} without them",
        milliseconds(&during, 99),
        milliseconds(&before, 99),
        milliseconds(&during, 99) / milliseconds(&before, 99),
        milliseconds(&during, 50),
        milliseconds(&before, 50),
        milliseconds(&after, 99),
        served.peak_mib(),
    );
    let grown = served.peak_mib() - alone_mib;
    assert!(grown < 200, "{grown} MiB for {stalls} stalled connections");
}
