//! What watching costs: the CPU of a delivery with the admin page off, shut and open, and with traces off and on.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::body::Deliveries;
use crate::load::{closed, open};
use crate::server::Server;
use crate::suite::BRIDGE;
use crate::usage;

const RATE: u32 = 1_000;
/// Long enough for two polls of an open page, in the middle of each half.
const STRETCH: Duration = Duration::from_secs(8);

/// How often the page asks for numbers.
const POLL: Duration = Duration::from_secs(4);

/// What is measured: a bridge, and whether its page is open.
struct Row {
    name: &'static str,
    bridge: usize,
    open: bool,
    /// The rows with whose mean it is compared, in the same round.
    base: &'static [usize],
    /// CPU microseconds of a delivery, one figure a round.
    cost: Vec<f64>,
}

impl Row {
    const fn new(name: &'static str, bridge: usize, open: bool, base: &'static [usize]) -> Self {
        Self { name, bridge, open, base, cost: Vec::new() }
    }
}

/// The bridge whose page is opened.
const WITH_PAGE: usize = 1;

/// Measures each in turn, so often, and prints a table; of the page alone, or of all.
pub fn run(rounds: usize, page_alone: bool) {
    let (collector, received) = collector();
    let off = ("ATTIO_BRIDGE__ADMIN__PAGE", "false".to_owned());
    let traces = ("ATTIO_BRIDGE__TRACES__ENDPOINT", format!("http://{collector}"));
    let bridge = |name: &str, variables: &[(&str, String)]| {
        let bus = ("ATTIO_BRIDGE__BUS__TYPE", "stdout".to_owned());
        let variables: Vec<_> = variables.iter().cloned().chain([bus]).collect();
        Server::bridge(name, Path::new(BRIDGE), &variables)
    };
    let servers = [
        bridge("without page", std::slice::from_ref(&off)),
        bridge("with a page", &[]),
        bridge("with traces", &[off.clone(), traces]),
        bridge("without page, again", &[off]),
    ];
    // Two of the same show what the machine adds: in a second process, and in the same one at another time.
    let mut rows = [
        Row::new("neither", 0, false, &[0]),
        Row::new("neither, a second process", 3, false, &[0]),
        Row::new("traces", 2, false, &[0]),
        Row::new("the page, shut", WITH_PAGE, false, if page_alone { &[3] } else { &[0] }),
        Row::new("the page, open", WITH_PAGE, true, &[3, 5]),
        Row::new("the page, shut again", WITH_PAGE, false, &[3]),
    ];
    let measured: Vec<_> =
        (0..rows.len()).filter(|at| !page_alone || rows[*at].bridge == WITH_PAGE).collect();
    let deliveries = Arc::new(Deliveries::new(1));
    for server in &servers {
        let warm = closed::Until::Time(Duration::from_secs(2));
        closed::run(server.address, &deliveries, 16, warm);
    }
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let mut order = measured.clone();
        if round % 2 == 0 {
            // What drifts within a round falls on each as often.
            order.reverse();
        }
        for at in order {
            let row = &mut rows[at];
            let server = &servers[row.bridge];
            let page = row.open.then(|| Page::open(server.admin.expect("a bridge has an admin port")));
            let before = usage::of(server.pid);
            let traffic = open::run(server.address, &deliveries, RATE, STRETCH);
            let used = usage::of(server.pid) - before;
            assert_eq!(traffic.failed, 0, "{}: every delivery is answered 200", row.name);
            row.cost.push(used.cpu as f64 / 1e3 / traffic.answered as f64);
            if let Some(page) = page {
                assert!(page.shown() > traffic.answered / 20, "the page shows deliveries");
            }
        }
    }
    assert!(page_alone || received.load(Ordering::Relaxed) > 0, "the collector received no spans");
    println!("| the bridge with | CPU µs per delivery | beside | more |\n|---|---:|---|---:|");
    for Row { name, base, cost, .. } in measured.iter().map(|at| &rows[*at]) {
        let base_of = |round: usize| mean(&base.iter().map(|at| rows[*at].cost[round]).collect::<Vec<_>>()).0;
        let ratios: Vec<f64> =
            cost.iter().enumerate().map(|(round, cost)| 100.0 * (cost / base_of(round) - 1.0)).collect();
        let (cpu, _) = mean(cost);
        let (more, error) = mean(&ratios);
        let base: Vec<_> = base.iter().map(|at| rows[*at].name).collect();
        println!("| {name} | {cpu:.1} | {} | {more:+.1} % ± {error:.1} |", base.join(" and "));
    }
}

/// The mean and its standard error.
fn mean(of: &[f64]) -> (f64, f64) {
    let count = of.len() as f64;
    let mean = of.iter().sum::<f64>() / count;
    let squares: f64 = of.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0) / count).sqrt())
}

/// Asks for what an open page does: the feed, and every four seconds the numbers. Shut when dropped.
struct Page {
    feed: TcpStream,
    shown: Arc<AtomicU64>,
    _polls: SyncSender<()>,
}

impl Page {
    fn open(admin: SocketAddr) -> Self {
        let mut feed = get(admin, "deliveries");
        let mut answer = [0; 12];
        feed.read_exact(&mut answer).expect("it answers");
        assert!(answer.ends_with(b"200"), "the feed is open");
        let shown = Arc::new(AtomicU64::new(0));
        let (mut reader, count) = (feed.try_clone().expect("a second handle"), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut chunk = [0; 65_536];
            while let Ok(length @ 1..) = reader.read(&mut chunk) {
                let starts = chunk[..length].windows(6).filter(|window| window == b"\ndata:").count();
                count.fetch_add(starts as u64, Ordering::Relaxed);
            }
        });
        let (polls, shut) = sync_channel(0);
        std::thread::spawn(move || {
            let mut wait = POLL / 2;
            while shut.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                for path in ["metrics", "readyz"] {
                    get(admin, path).read_to_end(&mut Vec::new()).expect("it answers");
                }
                wait = POLL;
            }
        });
        Self { feed, shown, _polls: polls }
    }

    /// How many deliveries it has shown.
    fn shown(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.feed.shutdown(Shutdown::Both).ok();
    }
}

fn get(admin: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(admin).expect("the admin listener accepts");
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("it takes the request");
    stream
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
