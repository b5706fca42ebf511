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
/// The time between two looks whether the brokers have told which they are.
const BROKERS_INTERVAL: Duration = Duration::from_millis(20);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Probes for ever; each request may take until `limit`.
pub(super) async fn run(
    backend: Arc<dyn Backend>,
    breaker: Arc<Breaker>,
    generations: Arc<Generations>,
    limit: Duration,
) {
    loop {
        if !generations.brokers_are_known() {
            breaker.open_whole("the brokers have not told yet which they are".into());
            // Meanwhile, so that the store is there when they have.
            let _ = by(Instant::now() + CONNECT_TIMEOUT, backend.connect()).await;
            while !generations.brokers_are_known() {
                sleep(BROKERS_INTERVAL).await;
            }
        }
        match probe(&*backend, &generations, limit).await {
            Ok(parts) => breaker.found(parts),
            Err(reason) => {
                backend.disconnect();
                breaker.open_whole(reason);
            }
        }
        breaker.probed();
        let interval = if breaker.reason().is_some() { AWAY_INTERVAL } else { WATCH_INTERVAL };
        // Woken as soon as a request fails.
        let _ = timeout(interval, breaker.woken()).await;
    }
}

/// Why each part of the store fails; an error where all do, or the generation cannot be learned.
async fn probe(
    backend: &dyn Backend,
    generations: &Generations,
    limit: Duration,
) -> Result<Vec<Option<Arc<str>>>, Arc<str>> {
    by(Instant::now() + CONNECT_TIMEOUT, backend.connect()).await?;
    let parts = backend.probe(Instant::now() + limit).await;
    let failures: Vec<_> = parts.into_iter().map(Result::err).collect();
    if let Some(Some(reason)) = failures.iter().find(|_| failures.iter().all(Option::is_some)) {
        return Err(Arc::clone(reason));
    }
    // Where the generation is known, and its part of the store is away, the others are shared all the same.
    let learned = by(Instant::now() + limit, generations.update(backend)).await;
    match learned {
        Err(reason) if generations.present().is_none() => Err(reason),
        Err(reason) => {
            tracing::debug!(%reason, "dedup store: the register of generations cannot be read or written");
            Ok(failures)
        }
        Ok(()) => Ok(failures),
    }
}
