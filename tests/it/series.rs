//! The series of `/metrics` do not depend on what senders write, and promtool accepts a scrape.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::support::bridge::Bridge;
use crate::support::client::{Client, Response};
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::stress;
use crate::support::watched::kit;

/// Every series of a scrape, those of the process too.
fn series(scrape: &Response) -> BTreeSet<String> {
    let text = std::str::from_utf8(&scrape.body).unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// A new type, path, method, source, key, header and host.
fn unseen(at: usize) -> [Request; 3] {
    let body = format!(
        r#"{{"webhook_id":"w{at}","events":[{{"event_type":"kind{at}.made","id":{{"workspace_id":"ws{at}"}}}}]}}"#
    );
    let named = Request::keyed(&format!("key{at}"), body).header(&format!("X-Header-{at}"), "x");
    [
        named.clone().without("Host").header("Host", format!("host{at}.test")),
        named.clone().path(&format!("/webhooks/source{at}/{at}?query={at}")),
        named.method(&format!("METHOD{at}")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unseen_types_paths_and_methods_add_no_metric_series() {
    const CLIENTS: usize = 16;
    let each = stress(3_000, 100_000) / CLIENTS;
    let bridge = Arc::new(Bridge::start().await);
    let before = series(&bridge.admin("/metrics").await);
    assert!(before.len() > 100, "{before:?}");
    let mut clients = JoinSet::new();
    for first in 0..CLIENTS {
        let bridge = Arc::clone(&bridge);
        clients.spawn(async move {
            let mut client = Client::connect(bridge.http).await;
            for at in 0..each {
                let statuses = [200, 404, 405];
                for (request, status) in unseen(first * each + at).iter().zip(statuses) {
                    assert_eq!(client.ask(request).await.status, status);
                }
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert_eq!(bridge.bus.attempts(), CLIENTS * each, "each type was published");
    assert_eq!(series(&bridge.admin("/metrics").await), before);
    println!("{} types, paths and methods: {} series as before", CLIENTS * each, before.len());
}

#[tokio::test]
async fn promtool_finds_no_problem_in_a_scrape() {
    let served = Served::start(&[("ATTIO_BRIDGE__BUS__TYPE", "stdout")]);
    for request in unseen(1) {
        served.ask(&request).await;
    }
    served.ask(&Request::unsigned("{}")).await;
    let mut request = Request::unsigned("").method("GET").path("/metrics");
    request.headers.retain(|(name, _)| name == "Host");
    let scrape = Client::connect(served.admin).await.ask(&request).await;
    let mut promtool = Command::new(kit("promtool").join("promtool"));
    promtool.args(["check", "metrics"]);
    let mut lint =
        promtool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    lint.stdin.take().unwrap().write_all(&scrape.body).unwrap();
    let said = lint.wait_with_output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
}
