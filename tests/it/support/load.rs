//! Concurrent senders, and checks of their answers, the metrics and the bus against the ledger.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use attio_bridge::pipeline::publish::Bus;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::bridge::Bridge;
use super::client::{Client, Response};
use super::consumer::Found;
use super::mix::{Ledger, Planned};
use super::request::Request;
use super::scrape::Scrape;
use super::wait::PATIENCE;

/// How long a delivery may be retried: longer than a broker takes to start on a busy machine.
const OUTAGE_PATIENCE: Duration = Duration::from_secs(300);

/// Waits until the bridge is ready; panics with the reason if it is not.
pub async fn ready(bridge: &Bridge<dyn Bus>) {
    let mut reason = String::new();
    let polling = async {
        loop {
            let answer = bridge.admin("/readyz").await;
            if answer.status == 200 {
                return;
            }
            reason = String::from_utf8_lossy(&answer.body).into_owned();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(PATIENCE, polling).await.is_err() {
        panic!("not ready within {PATIENCE:?}: {reason}");
    }
}

/// The number of deliveries refused because of the broker.
pub async fn broker_failures(bridge: &Bridge<dyn Bus>) -> f64 {
    let metrics = bridge.metrics().await;
    let reasons = ["broker_unavailable", "broker_timeout", "broker_refused"];
    reasons.map(|reason| metrics.sum("deliveries_total", &[("reason", reason)])).iter().sum()
}

/// Sends until the answer is 200, as the sender would; returns the number of refusals before it.
pub async fn until_accepted(client: &mut Client, address: SocketAddr, request: &Request) -> usize {
    let begun = Instant::now();
    for refused in 0.. {
        client.send(request).await;
        match client.try_receive().await {
            Some(Response { status: 200, .. }) => return refused,
            Some(Response { status: 503, .. }) => {}
            Some(other) => panic!("neither 200 nor 503: {other:?}"),
            None => *client = Client::connect(address).await,
        }
        assert!(begun.elapsed() < OUTAGE_PATIENCE, "never accepted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!("the range has no end")
}

/// Senders that retry until every delivery is accepted.
pub struct Load {
    accepted: Arc<AtomicUsize>,
    allowed: Arc<AtomicUsize>,
    workers: JoinSet<BTreeSet<String>>,
}

impl Load {
    /// Starts `count` senders with one queue of deliveries.
    pub fn start(planned: Arc<[Planned]>, senders: usize, address: SocketAddr) -> Self {
        Self::limited(planned, senders, address, usize::MAX)
    }

    /// The same; no more than `allowed` deliveries are sent until [`Self::allow`].
    pub fn limited(planned: Arc<[Planned]>, senders: usize, address: SocketAddr, allowed: usize) -> Self {
        let (next, accepted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let allowed = Arc::new(AtomicUsize::new(allowed));
        let mut workers = JoinSet::new();
        for _ in 0..senders {
            let (planned, next, accepted) = (Arc::clone(&planned), Arc::clone(&next), Arc::clone(&accepted));
            let allowed = Arc::clone(&allowed);
            workers.spawn(async move {
                let mut client = Client::connect(address).await;
                let mut retried = BTreeSet::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(delivery) = planned.get(index) else { break };
                    while index >= allowed.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    if until_accepted(&mut client, address, &delivery.request).await > 0 {
                        retried.extend(delivery.ids.iter().cloned());
                    }
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
                retried
            });
        }
        Self { accepted, allowed, workers }
    }

    /// Lets so many deliveries be sent in all.
    pub fn allow(&self, deliveries: usize) {
        self.allowed.store(deliveries, Ordering::Relaxed);
    }

    /// Waits until so many are answered 200, as long as it takes while their number grows.
    pub async fn reach(&self, accepted: usize) {
        let mut last = (self.accepted(), Instant::now());
        while last.0 < accepted {
            assert!(last.1.elapsed() < OUTAGE_PATIENCE, "stuck at {} of {accepted} deliveries", last.0);
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = self.accepted();
            if now > last.0 {
                last = (now, Instant::now());
            }
        }
    }

    /// Deliveries answered 200 so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits for the last 200; then the ids of all deliveries that needed more than one attempt.
    pub async fn finish(self) -> BTreeSet<String> {
        self.workers.join_all().await.into_iter().flatten().collect()
    }
}

/// Sends every delivery once and checks its answer.
pub async fn send_and_check(planned: &Arc<[Planned]>, senders: usize, address: SocketAddr) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..senders {
        let (planned, next) = (Arc::clone(planned), Arc::clone(&next));
        workers.spawn(async move {
            let mut client = Client::connect(address).await;
            while let Some(delivery) = planned.get(next.fetch_add(1, Ordering::Relaxed)) {
                check_answer(delivery, &client.ask(&delivery.request).await);
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
}

/// Asserts that the metrics agree with the deliveries and the ledger.
pub fn check_metrics(metrics: &Scrape, planned: &[Planned], ledger: &Ledger) {
    assert!(metrics.balances());
    let count = |result| metrics.sum("events_total", &[("result", result)]);
    assert_eq!(count("published"), ledger.events.len() as f64);
    assert_eq!(count("quarantined"), ledger.quarantine.len() as f64);
    assert_eq!(count("failed") + count("filtered"), 0.0);
    let sent: usize = planned.iter().map(|delivery| delivery.events).sum();
    assert_eq!(metrics.sum("events_received_total", &[]), sent as f64);
    let forged = planned.iter().filter(|delivery| delivery.status == 401).count();
    assert_eq!(metrics.sum("deliveries_total", &[("reason", "signature_mismatch")]), forged as f64);
    assert_eq!(metrics.sum("deliveries_total", &[]), planned.len() as f64);
    assert_eq!(metrics.get("events_in_flight", &[]), 0.0);
}

/// Which copy of a repeated delivery comes first is random; the sum of their results is not.
fn check_answer(delivery: &Planned, answer: &Response) {
    assert_eq!(answer.status, delivery.status, "{answer:?}");
    if answer.status != 200 {
        return;
    }
    let body = answer.json();
    let count = |name: &str| usize::try_from(body[name].as_u64().unwrap()).unwrap();
    assert_eq!(count("events"), delivery.events, "{body}");
    let (published, duplicates, quarantined) =
        (count("published"), count("duplicates"), count("quarantined"));
    assert_eq!(published + duplicates + quarantined, delivery.events, "{body}");
    assert!(published <= delivery.ids.len() && quarantined <= delivery.quarantined, "{body}");
}

/// Asserts that the bus holds exactly the events of the ledger.
pub fn check_bus(ledger: &Ledger, found: &Found) {
    for (id, want) in &ledger.events {
        assert_eq!(found.events.get(id).map(Vec::as_slice), Some(std::slice::from_ref(want)), "{id}");
    }
    assert_eq!(found.events.len(), ledger.events.len(), "only what was sent");
    let mut quarantine = found.quarantine.clone();
    quarantine.sort();
    let wanted: Vec<_> = ledger.quarantine.iter().cloned().collect();
    assert_eq!(quarantine, wanted);
}
