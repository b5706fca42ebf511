//! What the bridge holds and how it bears its neighbours: memory idle, a connection, a remembered id;
//! its start; good traffic beside a flood.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::body::Deliveries;
use crate::load::closed::{self, Until};
use crate::load::{flood, open};
use crate::row::{BATCH, Phase, Sum, Traffics};
use crate::server::Server;
use crate::suite::BRIDGE;
use crate::support::request::Request;
use crate::support::wait::eventually_blocking;
use crate::targets::Target;
use crate::usage;

/// Measures all of it.
pub fn run(quick: bool) -> Vec<Target> {
    let mut targets = Vec::new();
    eprintln!("start, and memory while idle");
    let server = bridge(&[]);
    let ready = server.started_in.as_secs_f64() * 1e3;
    targets.push(Target::new("from start to listening", ready, 10.0, "ms"));
    std::thread::sleep(Duration::from_secs(1));
    targets.push(Target::new("resident while idle", mib(server.pid), 12.0, "MiB"));
    targets.push(connections(&server));
    drop(server);
    targets.extend(ids(if quick { 200_000 } else { 1_000_000 }));
    targets.extend(neighbours());
    targets
}

fn bridge(more: &[(&str, String)]) -> Server {
    let stdout = [("ATTIO_BRIDGE__BUS__TYPE", "stdout".to_owned())];
    Server::bridge("stdout", Path::new(BRIDGE), &[&stdout, more].concat())
}

fn mib(pid: u32) -> f64 {
    usage::memory(pid, "VmRSS") as f64 / 1024.0
}

/// Idle connections, each of which has had one answer.
fn connections(server: &Server) -> Target {
    const COUNT: usize = 9_900;
    eprintln!("{COUNT} idle connections");
    let before = mib(server.pid);
    let request = Request::unsigned("{}").bytes();
    let held: Vec<TcpStream> = (0..COUNT).map(|_| asked(server.address, &request)).collect();
    std::thread::sleep(Duration::from_millis(500));
    let each = (mib(server.pid) - before) * 1024.0 / held.len() as f64;
    Target::new(format!("each of {COUNT} idle connections"), each, 20.0, "KiB")
}

fn asked(address: SocketAddr, request: &[u8]) -> TcpStream {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(address).expect("the limit on open files is above 10,000");
    let mut answer = [0; 512];
    stream.write_all(request).and_then(|()| stream.read(&mut answer)).expect("it is answered");
    stream
}

/// What an id takes, and whether many of them make a request dearer.
fn ids(count: u64) -> Vec<Target> {
    eprintln!("remembering {count} ids");
    let server = bridge(&[("ATTIO_BRIDGE__DEDUP__CAPACITY", (4 * count).to_string())]);
    let traffics =
        Traffics { single: Arc::new(Deliveries::new(1)), batches: Arc::new(Deliveries::new(BATCH)) };
    // What the allocator keeps for traffic is there before the ids are counted.
    closed::run(server.address, &traffics.batches, 64, Until::Count(20));
    let cpu = || {
        let mut sum = Sum::default();
        sum.add(&server, Phase::Saturated(64), &traffics, Duration::from_secs(1));
        (sum.row("", Phase::Saturated(64)).cpu_us, sum.row("", Phase::Saturated(64)).requests)
    };
    let (few, sent) = cpu();
    let before = mib(server.pid);
    let requests = count.saturating_sub(sent) / BATCH as u64;
    closed::run(server.address, &traffics.batches, 64, Until::Count(requests / 64));
    std::thread::sleep(Duration::from_secs(1));
    let bytes = (mib(server.pid) - before) * 1024.0 * 1024.0 / (requests * BATCH as u64) as f64;
    let (many, _) = cpu();
    vec![
        Target::new("each remembered id", bytes, 200.0, "bytes"),
        Target::new(format!("CPU a request with {count} ids over that with few"), many / few, 1.1, "×"),
    ]
}

/// The p99 of good traffic, beside a flood of what is worth nothing over that without one.
fn neighbours() -> Vec<Target> {
    const FLOOD: u32 = 10_000;
    const RATE: u32 = 500;
    let server = bridge(&[]);
    let good = Deliveries::new(1);
    let body = crate::body::body(1);
    let floods = [
        ("duplicates", Request::keyed("the same", &body)),
        ("bad signatures", Request::unsigned(&body).header("Attio-Signature", "0".repeat(64))),
    ];
    let time = Duration::from_secs(3);
    let p99 = || open::run(server.address, &good, RATE, time).percentile(0.99);
    p99();
    let alone = p99();
    let beside = |(name, request): (&str, Request)| {
        eprintln!("good traffic beside {FLOOD} {name} a second");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| flood::run(server.address, &request.bytes(), FLOOD, &over));
            let beside = p99();
            over.store(true, Ordering::Relaxed);
            let sent = flood.join().expect("the flood does not panic");
            let reached = sent / time.as_secs_f64();
            let what = format!("p99 of good traffic beside {reached:.0} {name} a second over that alone");
            Target::new(what, beside / alone, 2.0, "×")
        })
    };
    let targets = floods.into_iter().map(beside).collect();
    eventually_blocking("the bridge still answers", || TcpStream::connect(server.address).is_ok());
    targets
}
