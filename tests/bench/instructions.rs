//! Instructions, counted by callgrind: the same on a busy machine as on an idle one.
//!
//! Two ways. Single stages are called in a loop, a few thousand times. Whole servers are sent requests
//! over a socket; what the kernel does for them is not counted. Each is run twice, with more and with
//! fewer deliveries, so that what starting costs drops out.

use std::process::Command;
use std::sync::Arc;

use attio_bridge::cloudevent::structured;
use attio_bridge::pipeline::normalize::{Context, normalize};
use axum::body::Bytes;
use axum::http::HeaderMap;
use futures_util::FutureExt;
use time::OffsetDateTime;

use crate::body::{self, Deliveries};
use crate::load::closed::{self, Until};
use crate::row::BATCH;
use crate::server::Server;
use crate::stage::Stage;
use crate::support::request::{SECRET, sign};
use crate::work::Work;

/// What can be run in a loop.
const STEPS: [&str; 6] = ["receive", "verify", "parse", "identify", "dedup", "encode"];

/// Deliveries of the shorter and the longer run.
const RUNS: [u64; 2] = [500, 2500];

/// Counts everything and prints it.
pub fn report() {
    println!("instructions per delivery of one event, and of {BATCH}");
    println!("{:<28}{:>12}{:>12}", "stage alone, up to and with", "1", BATCH);
    for step in STEPS {
        let [one, batch] = [1, BATCH].map(|events| per_delivery(|count| of_step(step, events, count)));
        println!("{step:<28}{one:>12.0}{batch:>12.0}");
    }
    println!("{:<28}{:>12}{:>12}", "server", "1", BATCH);
    let mut floor = None;
    for stage in Stage::ALL {
        let [one, batch] = [1, BATCH].map(|events| per_delivery(|count| of_server(stage, events, count)));
        let floor = *floor.get_or_insert(one);
        println!("{:<28}{one:>12.0}{batch:>12.0}   {:.2} x the floor", stage.name(), one / floor);
    }
}

fn per_delivery(count: impl Fn(u64) -> u64) -> f64 {
    let [fewer, more] = RUNS.map(&count);
    more.saturating_sub(fewer) as f64 / (RUNS[1] - RUNS[0]) as f64
}

fn of_step(step: &str, events: usize, count: u64) -> u64 {
    let this = std::env::current_exe().expect("this program has a path");
    counted(|watcher| {
        let status = Command::new(&watcher[0])
            .args(&watcher[1..])
            .arg(&this)
            .args(["step", step, &events.to_string(), &count.to_string()])
            .stderr(std::process::Stdio::null())
            .status();
        assert!(status.expect("valgrind starts").success(), "{step} fails under valgrind");
    })
}

fn of_server(stage: Stage, events: usize, count: u64) -> u64 {
    counted(|watcher| {
        let watcher: Vec<&str> = watcher.iter().map(String::as_str).collect();
        let server = Server::under(&watcher, stage);
        let deliveries = Arc::new(Deliveries::new(events));
        let traffic = closed::run(server.address, &deliveries, 1, Until::Count(count));
        assert_eq!((traffic.answered, traffic.failed), (count, 0), "{}", stage.name());
        server.stop();
    })
}

/// The instructions of what is started under the watcher.
fn counted(run: impl FnOnce(&[String])) -> u64 {
    let out = tempfile::NamedTempFile::new().expect("a file for callgrind");
    let file = format!("--callgrind-out-file={}", out.path().display());
    run(&["valgrind".into(), "--tool=callgrind".into(), "-q".into(), file]);
    let text = std::fs::read_to_string(out.path()).expect("callgrind writes it");
    let total =
        text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    total.and_then(|total| total.trim().parse().ok()).expect("callgrind gives a total")
}

/// Runs so many deliveries through the stages up to and including one.
pub fn step(step: &str, events: usize, count: u64) {
    let until = STEPS.iter().position(|known| *known == step).expect("a step of the path");
    let work = Work::new();
    let body = Bytes::from(body::body(events));
    let mut headers = HeaderMap::new();
    let signature = sign(SECRET, &[&body]).parse().expect("hex digits");
    headers.insert("attio-signature", signature);
    for number in 0..count {
        let key = format!("{number:032x}").parse().expect("hex digits");
        headers.insert("idempotency-key", key);
        let delivery = work.delivery(&headers, body.clone());
        if until < 1 {
            continue;
        }
        let delivery = work.verify(delivery).expect("the signature is good");
        if until < 2 {
            continue;
        }
        let read = work.parse(&delivery);
        if until < 3 {
            continue;
        }
        let identities = work.identify(&delivery, &read);
        if until < 4 {
            continue;
        }
        for (identity, event) in identities.iter().zip(&read.events) {
            assert_eq!(work.remember(identity).now_or_never(), Some(true));
            if until == 5 {
                let context = Context {
                    source: "attio",
                    workspace_id: None,
                    received_at: OffsetDateTime::UNIX_EPOCH,
                    idempotency_key: delivery.idempotency_key(),
                    webhook_id: read.webhook_id.as_deref(),
                    slugs: None,
                };
                std::hint::black_box(structured::encode(&normalize(event, &identity.id, context)));
            }
        }
    }
}
