//! R5: a retry storm after an outage exceeds the capacity of the bridge. Admitted deliveries keep full
//! throughput, the others are answered 503, and the overload ends.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::network::check;
use crate::support::client::{Client, Response};
use crate::support::mix::{Mix, Planned};
use crate::support::network::{ProxiedBroker, ProxiedKafka, ProxiedNats};
use crate::support::served::Served;
use crate::support::wait::eventually;

/// The in-flight limit of the bridge.
const CAPACITY: usize = 16;

/// Senders in the storm.
const STORM: usize = 10 * CAPACITY;

/// The interval over which throughput is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// The longest time until throughput has recovered.
const RECOVERY: Duration = Duration::from_secs(10);

/// Senders with one queue of deliveries; each delivery is sent until it is accepted.
struct Senders {
    planned: Arc<[Planned]>,
    next: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Senders {
    fn new(planned: Arc<[Planned]>) -> Self {
        let count = || Arc::new(AtomicUsize::new(0));
        let (next, accepted, refused) = (count(), count(), count());
        Self { planned, next, accepted, refused, stop: Arc::new(AtomicBool::new(false)) }
    }

    /// Adds senders. Like Attio, each retries with exponential backoff and ignores `Retry-After`; the waits are
    /// short, so that the storm does not subside by itself.
    fn add(&self, workers: &mut JoinSet<()>, count: usize, address: SocketAddr) {
        for n in 0..count {
            let (planned, next) = (Arc::clone(&self.planned), Arc::clone(&self.next));
            let (accepted, refused) = (Arc::clone(&self.accepted), Arc::clone(&self.refused));
            let stop = Arc::clone(&self.stop);
            workers.spawn(async move {
                let mut random = fastrand::Rng::with_seed(n as u64);
                let mut client = Client::connect(address).await;
                while let Some(delivery) = planned.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut wait = Duration::from_millis(50);
                    loop {
                        client.send(&delivery.request).await;
                        match client.try_receive().await {
                            Some(Response { status: 200, .. }) => break,
                            Some(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
                            None => client = Client::connect(address).await,
                        }
                        refused.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(wait.mul_f64(0.5 + random.f64())).await;
                        wait = (wait * 2).min(Duration::from_secs(1));
                    }
                    accepted.fetch_add(1, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
    }

    /// Accepted deliveries a second, over one window.
    async fn throughput(&self) -> f64 {
        let (before, begun) = (self.accepted.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(WINDOW).await;
        let more = self.accepted.load(Ordering::Relaxed) - before;
        more as f64 / begun.elapsed().as_secs_f64()
    }
}

async fn throughput_recovers_in_a_retry_storm_after_an_outage<B: ProxiedBroker>() {
    let (outage, windows) = (60, 8);
    let broker = B::new();
    let mut variables = broker.variables();
    variables.push(("ATTIO_BRIDGE__HTTP__MAX_IN_FLIGHT", CAPACITY.to_string()));
    let borrowed: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let bridge = Served::start(&borrowed);
    eventually("the bridge is ready", || async { bridge.probe("/readyz").await == 200 }).await;
    let mut mix = Mix::new(broker.prefix(), 81);
    // More than can be sent; every one that is begun is sent until it is accepted.
    let planned: Arc<[Planned]> = (0..150_000).map(|_| mix.single()).collect();
    let (senders, mut workers) = (Senders::new(planned), JoinSet::new());

    senders.add(&mut workers, CAPACITY, bridge.http);
    let mut peak: f64 = 0.0;
    for _ in 0..windows {
        peak = peak.max(senders.throughput().await);
    }
    broker.kill();
    tokio::time::sleep(Duration::from_secs(outage)).await;
    senders.add(&mut workers, STORM - CAPACITY, bridge.http);
    tokio::time::sleep(WINDOW).await;
    broker.restart();
    let (restarted, mut course) = (Instant::now(), Vec::new());
    let recovered = loop {
        course.push(senders.throughput().await.round());
        if course.last().is_some_and(|now| *now >= 0.8 * peak) {
            break restarted.elapsed();
        }
        assert!(restarted.elapsed() < RECOVERY + WINDOW, "peak {peak:.0}/s, after the outage {course:?}");
    };
    // Throughput stays recovered during the storm: the overload does not sustain itself.
    let mut after = Vec::new();
    for _ in 0..windows {
        after.push(senders.throughput().await.round());
    }
    let mean = after.iter().sum::<f64>() / windows as f64;
    println!(
        "peak {peak:.0}/s with {CAPACITY} senders; {outage} s away; then {STORM} senders: {course:?}/s, at 80 % \
         after {recovered:?}, and {after:?}/s; {} refusals",
        senders.refused.load(Ordering::Relaxed)
    );
    assert!(recovered < RECOVERY + WINDOW, "{recovered:?}");
    assert!(mean >= 0.6 * peak, "throughput falls again: {after:?}");
    senders.stop.store(true, Ordering::Relaxed);
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    let sent = senders.next.load(Ordering::Relaxed);
    assert_eq!(senders.accepted.load(Ordering::Relaxed), sent, "every delivery was accepted");
    let begun: BTreeSet<String> = senders.planned[..sent].iter().flat_map(|one| one.ids.clone()).collect();
    mix.ledger.events.retain(|id, _| begun.contains(id));
    // Refused deliveries are not recorded, so any may be stored twice if the broker does not deduplicate.
    check(&broker, &mix, &begun);
    let metrics = bridge.metrics().await;
    assert!(metrics.balances());
    assert!(metrics.sum("deliveries_total", &[("reason", "overloaded")]) > 0.0, "the bridge was overloaded");
}

mod kafka {
    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "full tier: compares rates, needs an idle machine"]
    async fn throughput_recovers_in_a_retry_storm_after_an_outage() {
        super::throughput_recovers_in_a_retry_storm_after_an_outage::<super::ProxiedKafka>().await;
    }
}

mod nats {
    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "full tier: compares rates, needs an idle machine"]
    async fn throughput_recovers_in_a_retry_storm_after_an_outage() {
        super::throughput_recovers_in_a_retry_storm_after_an_outage::<super::ProxiedNats>().await;
    }
}
