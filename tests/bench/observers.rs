//! What watching costs: the CPU of a delivery with the admin page off, shut and open, and with traces off and on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::body::Deliveries;
use crate::load::{closed, open};
use crate::server::Server;
use crate::suite::BRIDGE;
use crate::usage;

const RATE: u32 = 1_000;
const STRETCH: Duration = Duration::from_secs(5);

/// Two of the same, so that the difference between them is what the machine adds.
const BASE: &str = "neither";
const CONTROL: &str = "neither, a second process";

struct Subject {
    server: Server,
    /// CPU microseconds of a delivery, one figure a round.
    cost: Vec<f64>,
}

/// Measures each in turn, so often, and prints a table.
pub fn run(rounds: usize) {
    let (collector, received) = collector();
    let off = ("ATTIO_BRIDGE__ADMIN__PAGE", "false".to_owned());
    let traces = ("ATTIO_BRIDGE__TRACES__ENDPOINT", format!("http://{collector}"));
    let bridge = |name: &str, variables: &[(&str, String)]| {
        let bus = ("ATTIO_BRIDGE__BUS__TYPE", "stdout".to_owned());
        let variables: Vec<_> = variables.iter().cloned().chain([bus]).collect();
        Subject { server: Server::bridge(name, Path::new(BRIDGE), &variables), cost: Vec::new() }
    };
    let mut subjects = [
        bridge(BASE, std::slice::from_ref(&off)),
        bridge("the page, shut", &[]),
        bridge("the page, open", &[]),
        bridge("traces", &[off.clone(), traces]),
        bridge(CONTROL, &[off]),
    ];
    let deliveries = Arc::new(Deliveries::new(1));
    for Subject { server, .. } in &subjects {
        let warm = closed::Until::Time(Duration::from_secs(2));
        closed::run(server.address, &deliveries, 16, warm);
    }
    let reader = &subjects[2].server;
    read(reader.admin.expect("a bridge has an admin port"));
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for Subject { server, cost } in &mut subjects {
            let before = usage::of(server.pid);
            let traffic = open::run(server.address, &deliveries, RATE, STRETCH);
            let used = usage::of(server.pid) - before;
            assert_eq!(traffic.failed, 0, "{}: every delivery is answered 200", server.name);
            cost.push(used.cpu as f64 / 1e3 / traffic.answered as f64);
        }
    }
    assert!(received.load(Ordering::Relaxed) > 0, "the collector received no spans");
    println!("| the bridge with | CPU µs per delivery | beside neither |\n|---|---:|---:|");
    let base = subjects[0].cost.clone();
    for Subject { server, cost } in &subjects {
        let ratios: Vec<f64> =
            cost.iter().zip(&base).map(|(cost, base)| 100.0 * (cost / base - 1.0)).collect();
        let (cpu, _) = mean(cost);
        let (more, error) = mean(&ratios);
        println!("| {} | {cpu:.1} | {more:+.1} % ± {error:.1} |", server.name);
    }
}

/// The mean and its standard error.
fn mean(of: &[f64]) -> (f64, f64) {
    let count = of.len() as f64;
    let mean = of.iter().sum::<f64>() / count;
    let squares: f64 = of.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0) / count).sqrt())
}

/// Reads the feed of the page, as a browser would, until the end.
fn read(admin: SocketAddr) {
    let mut stream = TcpStream::connect(admin).expect("the admin listener accepts");
    stream.write_all(b"GET /deliveries HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it takes the request");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("it answers");
    assert!(answer.ends_with(b"200"), "the feed is open");
    std::thread::spawn(move || while matches!(stream.read(&mut [0; 65_536]), Ok(1..)) {});
}

/// A collector that takes everything; also the number of its requests.
fn collector() -> (SocketAddr, Arc<AtomicU64>) {
    let received = Arc::new(AtomicU64::new(0));
    let requests = Arc::clone(&received);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let answer = |mut stream: TcpStream, requests: &AtomicU64| {
        let (mut bytes, mut chunk) = (Vec::new(), [0; 65_536]);
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
            while let Some(length) = request(&bytes) {
                bytes.drain(..length);
                requests.fetch_add(1, Ordering::Relaxed);
                stream
                    .write_all(
                        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
                    )
                    .ok();
            }
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let requests = Arc::clone(&requests);
            std::thread::spawn(move || answer(stream, &requests));
        }
    });
    (address, received)
}

/// The length of the first request, once it is complete.
fn request(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?.to_ascii_lowercase();
    let length: usize = text.split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
    (bytes.len() >= head + length).then_some(head + length)
}
