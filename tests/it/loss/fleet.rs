//! The bridges: real processes behind a round-robin balancer that skips dead ones.
//!
//! Every process has its own port, so an address identifies one process.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::options::Options;
use crate::support::ports::free_ports;
use crate::support::request::SECRET;
use crate::support::scrape::Scrape;

/// The drain timeout of the bridges, and the time beyond it in which a process must end.
pub const DRAIN: Duration = Duration::from_secs(20);
pub const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// One process, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub number: usize,
    pub http: SocketAddr,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub enum End {
    /// It still runs, and this is the last scrape.
    Runs(Scrape),
    /// Killed: its counters are gone.
    Killed,
    /// Stopped (SIGTERM).
    Drained { code: Option<i32>, took: Duration },
    /// It ended by itself.
    Died(String),
}

/// The record of a finished process.
#[derive(Clone, Debug)]
pub struct Past {
    pub number: usize,
    pub log: PathBuf,
    pub end: End,
}

struct Process {
    target: Target,
    admin: SocketAddr,
    log: PathBuf,
    child: Child,
    /// When the balancer found it dead, if it did.
    marked: Option<Instant>,
}

/// All of them.
pub struct Fleet {
    options: Options,
    variables: Vec<(String, String)>,
    logs: PathBuf,
    slots: Vec<Mutex<Option<Process>>>,
    next: AtomicUsize,
    made: AtomicUsize,
    pasts: Mutex<Vec<Past>>,
    unbalanced: Mutex<Vec<String>>,
    pub scrapes: AtomicUsize,
}

/// How long the balancer skips a process that refused a connection.
const LEFT_OUT: Duration = Duration::from_millis(200);

impl Fleet {
    /// All started and ready.
    pub fn start(options: &Options, variables: Vec<(String, String)>, logs: PathBuf) -> Self {
        let fleet = Self {
            options: options.clone(),
            variables,
            logs,
            slots: (0..options.replicas).map(|_| Mutex::new(None)).collect(),
            next: AtomicUsize::new(0),
            made: AtomicUsize::new(0),
            pasts: Mutex::new(Vec::new()),
            unbalanced: Mutex::new(Vec::new()),
            scrapes: AtomicUsize::new(0),
        };
        for slot in 0..options.replicas {
            let process = fleet.spawn();
            fleet.wait(&process, "ready", Duration::from_secs(60), |admin| {
                get(admin, "/readyz").is_some_and(|(status, _)| status == 200)
            });
            *fleet.slots[slot].lock() = Some(process);
        }
        fleet
    }

    /// The next one in turn that is not known to be dead.
    pub fn pick(&self) -> Option<Target> {
        let count = self.slots.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..count).find_map(|more| {
            let slot = self.slots[(first + more) % count].lock();
            let alive = |process: &&Process| process.marked.is_none_or(|at| at.elapsed() > LEFT_OUT);
            slot.as_ref().filter(alive).map(|process| process.target)
        })
    }

    /// Whether this very process still takes requests.
    pub fn is_up(&self, target: Target) -> bool {
        self.slots.iter().any(|slot| slot.lock().as_ref().is_some_and(|process| process.target == target))
    }

    /// It refused a connection, or announced its end.
    pub fn mark_dead(&self, target: Target) {
        for slot in &self.slots {
            let mut slot = slot.lock();
            if let Some(process) = slot.as_mut().filter(|process| process.target == target) {
                process.marked = Some(Instant::now());
            }
        }
    }

    /// Kills one and starts another in its place.
    pub fn kill(&self, slot: usize, down: Duration) {
        let Some(mut process) = self.slots[slot].lock().take() else { return };
        // It is reaped below.
        let _ = process.child.kill();
        let _ = process.child.wait();
        self.bury(&process, End::Killed);
        std::thread::sleep(down);
        self.replace(slot);
    }

    /// Stops one, and starts another in its place once the old one refuses connections.
    pub fn drain(&self, slot: usize) {
        let (pid, target) = match &*self.slots[slot].lock() {
            Some(process) => (process.child.id(), process.target),
            None => return,
        };
        // The balancer is not informed: it finds out as a real one does.
        let begun = Instant::now();
        let sent = Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the bridge {} does not run", target.number);
        let code = loop {
            let mut held = self.slots[slot].lock();
            let process = held.as_mut().expect("only the faults take a process out");
            match process.child.try_wait().expect("a child of ours") {
                Some(status) => break status.code(),
                None if begun.elapsed() > DRAIN + DRAIN_MARGIN => {
                    // It is killed and counted as a violation.
                    let _ = process.child.kill();
                    let _ = process.child.wait();
                    break None;
                }
                None => drop(held),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = begun.elapsed();
        let process = self.slots[slot].lock().take().expect("only the faults take a process out");
        self.bury(&process, End::Drained { code, took });
        self.replace(slot);
    }

    /// Replaces every one, one after the other.
    pub fn roll(&self) {
        (0..self.slots.len()).for_each(|slot| self.drain(slot));
    }

    /// Scrapes every running bridge; the metrics must balance in every scrape.
    pub fn check_balance(&self) {
        for slot in &self.slots {
            let Some((number, admin)) =
                slot.lock().as_ref().map(|process| (process.target.number, process.admin))
            else {
                continue;
            };
            let Some(scrape) = scrape(admin) else { continue };
            self.scrapes.fetch_add(1, Ordering::Relaxed);
            if !scrape.balances() {
                self.unbalanced.lock().push(format!(
                    "bridge {number}: received {} is not results {} + in flight {}",
                    scrape.sum("events_received_total", &[]),
                    scrape.sum("events_total", &[]),
                    scrape.get("events_in_flight", &[])
                ));
            }
        }
    }

    /// What did not balance while it ran.
    pub fn unbalanced(&self) -> Vec<String> {
        self.unbalanced.lock().clone()
    }

    /// Waits until nothing is in flight any more, then takes the last scrape of each and ends it.
    pub fn finish(&self, patience: Duration) -> Vec<Past> {
        let deadline = Instant::now() + patience;
        for slot in &self.slots {
            let Some(mut process) = slot.lock().take() else { continue };
            let end = loop {
                if let Ok(Some(status)) = process.child.try_wait() {
                    break End::Died(format!("{status}"));
                }
                let last = scrape(process.admin);
                match last {
                    Some(last) if is_quiet(&last) || Instant::now() > deadline => break End::Runs(last),
                    None if Instant::now() > deadline => break End::Died("no scrape".into()),
                    _ => std::thread::sleep(Duration::from_millis(50)),
                }
            };
            // It is reaped below.
            let _ = process.child.kill();
            let _ = process.child.wait();
            self.bury(&process, end);
        }
        self.pasts.lock().clone()
    }

    fn replace(&self, slot: usize) {
        let process = self.spawn();
        // The balancer waits for readiness, but not for ever: the broker may be away.
        let patience = if self.slots.len() > 1 { Duration::from_secs(5) } else { Duration::from_secs(2) };
        self.wait_softly(&process, patience);
        *self.slots[slot].lock() = Some(process);
    }

    fn bury(&self, process: &Process, end: End) {
        self.pasts.lock().push(Past { number: process.target.number, log: process.log.clone(), end });
    }

    fn spawn(&self) -> Process {
        let number = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        let [http, admin] = free_ports().map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
        let log = self.logs.join(format!("bridge-{number}.log"));
        let file = fs::File::create(&log).expect("a file for the log");
        let level = if self.options.logs_deliveries() { "info" } else { "error" };
        let child = Command::new(&self.options.bridge)
            .args(["serve", "--listen", &http.to_string(), "--admin-listen", &admin.to_string()])
            .env_clear()
            .env("ATTIO_WEBHOOK_SECRET", SECRET)
            .env("ATTIO_BRIDGE__LOG__LEVEL", level)
            .env("ATTIO_BRIDGE__LOG__FORMAT", "json")
            .env("ATTIO_BRIDGE__SHUTDOWN__DRAIN_TIMEOUT", format!("{}s", DRAIN.as_secs()))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.options.bridge.display()));
        Process { target: Target { number, http }, admin, log, child, marked: None }
    }

    fn wait(&self, process: &Process, what: &str, patience: Duration, holds: impl Fn(SocketAddr) -> bool) {
        let deadline = Instant::now() + patience;
        while !holds(process.admin) {
            let log = || fs::read_to_string(&process.log).unwrap_or_default();
            assert!(Instant::now() < deadline, "a bridge is not {what} within {patience:?}: {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it is ready, at most for `patience`; it must listen by then.
    fn wait_softly(&self, process: &Process, patience: Duration) {
        let ready = || get(process.admin, "/readyz").is_some_and(|(status, _)| status == 200);
        let deadline = Instant::now() + patience;
        while !ready() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.wait(process, "listening", Duration::from_secs(30), |admin| get(admin, "/livez").is_some());
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for slot in &self.slots {
            if let Some(mut process) = slot.lock().take() {
                // A run that failed leaves none behind.
                let _ = process.child.kill();
                let _ = process.child.wait();
            }
        }
    }
}

/// Whether nothing is pending, neither an answer nor an ack.
pub fn is_quiet(scrape: &Scrape) -> bool {
    scrape.get("events_in_flight", &[]) == 0.0 && scrape.sum("publish_in_flight", &[]) == 0.0
}

fn scrape(admin: SocketAddr) -> Option<Scrape> {
    let (status, body) = get(admin, "/metrics")?;
    (status == 200).then(|| Scrape::parse(&body))
}

/// Sends one request on a new connection; none if there is no complete answer.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bridge.test\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
}
