//! Looks after the store: connects, closes the breaker when it answers, and learns the generation.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::backend::{Backend, by};
use super::breaker::Breaker;
use super::generation::Generations;

/// The time between two probes while the store, or a part of it, is away.
const AWAY_INTERVAL: Duration = Duration::from_millis(250);
/// The time between two probes while it answers.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// The time between two looks at the bus while it starts.
const BUS_INTERVAL: Duration = Duration::from_millis(20);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long learning the generation may take.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(2);
/// Probes in a row, each after or with a failure, until another connection is made: one to a node that hangs never ends
/// by itself, nor does one for claims of which the probes, on another, tell nothing.
const PATIENCE: u32 = 20;

pub(super) struct Prober {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) breaker: Arc<Breaker>,
    pub(super) generations: Arc<Generations>,
    /// How long a request may take.
    pub(super) limit: Duration,
}

impl Prober {
    /// Probes for ever.
    pub(super) async fn run(self) {
        let (begun, mut failed, mut failures) = (Instant::now(), 0, 0);
        loop {
            if !self.generations.brokers_are_known() {
                self.breaker.open_whole("the brokers have not told yet which they are".into());
                // Meanwhile, so that the store is there when they have. A failure is found again below.
                let _ = by(Instant::now() + CONNECT_TIMEOUT, self.backend.connect()).await;
                while !self.generations.brokers_are_known() {
                    if begun.elapsed() > self.limit {
                        self.breaker.probed();
                    }
                    sleep(BUS_INTERVAL).await;
                }
            }
            let has_started = self.generations.bus_has_started();
            self.probe().await;
            self.breaker.probed();
            if has_started {
                self.breaker.started();
            }
            let before = std::mem::replace(&mut failures, self.breaker.failures());
            failed = if failures > before { failed + 1 } else { 0 };
            if failed == PATIENCE {
                failed = 0;
                // A failure is found again by the next probe.
                let _ = by(Instant::now() + CONNECT_TIMEOUT, self.backend.reconnect()).await;
            }
            let interval = if self.breaker.reason().is_some() { AWAY_INTERVAL } else { WATCH_INTERVAL };
            // Woken as soon as a request fails.
            let _ = timeout(interval, async {
                tokio::select! {
                    () = self.breaker.woken() => {}
                    () = self.bus_start() => {}
                }
            })
            .await;
        }
    }

    /// Ends when the bus has started, if it is not known to have.
    async fn bus_start(&self) {
        if !self.breaker.is_starting() {
            return std::future::pending().await;
        }
        while !self.generations.bus_has_started() {
            sleep(BUS_INTERVAL).await;
        }
    }

    /// Probes once.
    async fn probe(&self) {
        let Self { backend, breaker, generations, limit } = self;
        let before = breaker.failures();
        let failures = match self.answers(*limit).await {
            Ok(failures) => failures,
            Err(reason) => {
                backend.disconnect();
                return breaker.open_whole(reason);
            }
        };
        let some_failed = failures.iter().any(Option::is_some);
        let learned = by(Instant::now() + UPDATE_TIMEOUT, generations.update(&**backend)).await;
        match (learned, generations.present()) {
            // The register may be in the part that is away; the others are shared all the same.
            (Err(reason), known) if known.is_none() || !some_failed => breaker.open_whole(reason),
            (_, None) => breaker.open_whole("the brokers have lost their data, or are others".into()),
            (_, Some(_)) => breaker.found(before, failures),
        }
    }

    /// Why each part of the store fails; an error where all do.
    async fn answers(&self, limit: Duration) -> Result<Vec<Option<Arc<str>>>, Arc<str>> {
        by(Instant::now() + CONNECT_TIMEOUT, self.backend.connect()).await?;
        let parts = self.backend.probe(Instant::now() + limit).await;
        let failures: Vec<_> = parts.into_iter().map(Result::err).collect();
        match failures.first() {
            Some(Some(reason)) if failures.iter().all(Option::is_some) => Err(Arc::clone(reason)),
            _ => Ok(failures),
        }
    }
}
