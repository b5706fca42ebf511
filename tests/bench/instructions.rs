//! Instructions and allocations, counted by callgrind: the same on a busy machine as on an idle one.
//!
//! Two ways. Single stages are called in a loop, a few thousand times. Whole servers are sent requests
//! over a socket; what the kernel does for them is not counted. Each is run twice, with more and with
//! fewer deliveries, so that what starting costs drops out.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;

use attio_bridge::cloudevent::structured;
use attio_bridge::delivery::Context;
use attio_bridge::pipeline::normalize::normalize;
use axum::body::Bytes;
use axum::http::HeaderMap;
use futures_util::FutureExt;
use serde::Serialize;
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

/// What one delivery costs.
#[derive(Serialize)]
pub struct Cost {
    /// The stages or the server.
    pub what: String,
    /// Instructions of a delivery with one event, and of one with [`BATCH`].
    pub instructions: [f64; 2],
    /// Allocations, moves to a larger place among them.
    pub allocations: [f64; 2],
}

/// Counts everything.
pub fn costs() -> Vec<Cost> {
    let steps = STEPS.iter().map(|step| {
        let what = format!("stages alone, up to {step}");
        cost(what, |events, count| of_step(step, events, count))
    });
    let servers = Stage::ALL.into_iter().map(|stage| {
        let what = format!("server, {}", stage.name());
        cost(what, |events, count| of_server(stage, events, count))
    });
    steps.chain(servers).collect()
}

fn cost(what: String, count: impl Fn(usize, u64) -> Counted) -> Cost {
    eprintln!("counting: {what}");
    let [one, batch] = [1, BATCH].map(|events| {
        let [fewer, more] = RUNS.map(|runs| count(events, runs));
        let per_delivery =
            |fewer: u64, more: u64| more.saturating_sub(fewer) as f64 / (RUNS[1] - RUNS[0]) as f64;
        [
            per_delivery(fewer.instructions, more.instructions),
            per_delivery(fewer.allocations, more.allocations),
        ]
    });
    Cost { what, instructions: [one[0], batch[0]], allocations: [one[1], batch[1]] }
}

/// What callgrind counted in one run.
struct Counted {
    instructions: u64,
    allocations: u64,
}

fn of_step(step: &str, events: usize, count: u64) -> Counted {
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

fn of_server(stage: Stage, events: usize, count: u64) -> Counted {
    counted(|watcher| {
        let watcher: Vec<&str> = watcher.iter().map(String::as_str).collect();
        let server = Server::under(&watcher, stage);
        let deliveries = Arc::new(Deliveries::new(events));
        let traffic = closed::run(server.address, &deliveries, 1, Until::Count(count));
        assert_eq!((traffic.answered, traffic.failed), (count, 0), "{}", stage.name());
        server.stop();
    })
}

/// What was counted of what is started under the watcher.
fn counted(run: impl FnOnce(&[String])) -> Counted {
    let out = tempfile::NamedTempFile::new().expect("a file for callgrind");
    let file = format!("--callgrind-out-file={}", out.path().display());
    run(&["valgrind".into(), "--tool=callgrind".into(), "-q".into(), file]);
    let text = std::fs::read_to_string(out.path()).expect("callgrind writes it");
    let total =
        text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    let instructions = total.and_then(|total| total.trim().parse().ok()).expect("callgrind gives a total");
    Counted { instructions, allocations: allocations(&text) }
}

/// Where the allocator of this program is entered.
const ALLOCATE: [&str; 3] = ["mi_malloc_aligned", "mi_zalloc_aligned", "mi_realloc_aligned"];

/// Calls of the allocator. A function has its name where it is first spoken of, and then its number alone.
/// Source: valgrind's manual, "Callgrind Format Specification".
fn allocations(text: &str) -> u64 {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut callee = "";
    let mut allocations = 0;
    for line in text.lines() {
        let function = line.strip_prefix("cfn=").or(line.strip_prefix("fn="));
        if let Some((number, name)) = function.and_then(|function| function.split_once(')')) {
            if !name.is_empty() {
                names.insert(number, name.trim());
            }
            callee = names.get(number).copied().unwrap_or_default();
        } else if let Some(calls) = line.strip_prefix("calls=")
            && ALLOCATE.contains(&callee)
        {
            allocations += calls.split(' ').next().and_then(|calls| calls.parse().ok()).unwrap_or(0);
        }
    }
    allocations
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
                };
                std::hint::black_box(structured::encode(&normalize(
                    event,
                    &identity.id,
                    context,
                    None,
                    None,
                )));
            }
        }
    }
}
