//! The breaker: a store that fails is not asked again until a probe succeeds.
//!
//! The probe also keeps the generation: the number that is part of every key, and that grows when the broker has lost
//! its data. What the store remembers of an older generation is never asked for again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::options::OnFailure;
use crate::metrics::StoreMetrics;

/// The time between two probes while the store is away.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// The time between two probes while it answers.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A failure is logged again after this.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct Breaker {
    store: &'static str,
    on_failure: OnFailure,
    state: Mutex<State>,
    generation: AtomicU64,
    /// [`Breaker::forget`] was called, and no generation has begun since.
    forgetting: AtomicBool,
    wake: Notify,
    /// Cancelled once the first probe has ended, well or not.
    probed: CancellationToken,
    metrics: StoreMetrics,
}

struct State {
    /// Why the store is not asked.
    reason: Option<Arc<str>>,
    /// When it was last logged that the store is away.
    logged: Option<Instant>,
    /// Whether it was logged since the store last answered.
    announced: bool,
}

impl Breaker {
    /// Open until the first probe.
    pub(super) fn new(store: &'static str, on_failure: OnFailure, metrics: StoreMetrics) -> Self {
        metrics.up.set(0);
        let state =
            Mutex::new(State { reason: Some("not reached yet".into()), logged: None, announced: true });
        let (generation, forgetting, wake) = (AtomicU64::new(0), AtomicBool::new(false), Notify::new());
        let probed = CancellationToken::new();
        Self { store, on_failure, state, generation, forgetting, wake, probed, metrics }
    }

    pub(super) fn is_starting(&self) -> bool {
        !self.probed.is_cancelled()
    }

    pub(super) async fn first_probe(&self) {
        self.probed.cancelled().await;
    }

    /// Why the store is not asked now.
    pub(super) fn reason(&self) -> Option<Arc<str>> {
        self.state.lock().reason.clone()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether what the store says of this generation still counts: the broker has not lost its data since.
    pub(super) fn is_current(&self, generation: u64) -> bool {
        !self.forgetting.load(Ordering::Acquire) && self.generation() == generation
    }

    /// The store has failed.
    pub(super) fn open(&self, reason: Arc<str>) {
        let mut state = self.state.lock();
        self.metrics.up.set(0);
        if state.logged.is_none_or(|at| at.elapsed() > LOG_INTERVAL) {
            (state.logged, state.announced) = (Some(Instant::now()), true);
            tracing::warn!(
                store = self.store,
                error = &*reason,
                "dedup store is away: {}",
                self.consequence()
            );
        }
        if state.reason.replace(reason).is_none() {
            self.wake.notify_one();
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        if self.forgetting.load(Ordering::Acquire) {
            // The broker lost its data during the probe: the next one begins a generation.
            return;
        }
        self.metrics.up.set(1);
        if state.reason.take().is_some() && std::mem::take(&mut state.announced) {
            tracing::info!(store = self.store, "dedup store answers: replicas share their memory");
        }
    }

    fn consequence(&self) -> &'static str {
        match self.on_failure {
            OnFailure::Degrade => {
                "events are published on the memory of each replica alone; a repeat at another replica is published \
                 again, none is lost"
            }
            OnFailure::Refuse => "deliveries are answered 503 store_unavailable (dedup.on_store_failure)",
        }
    }

    pub(super) fn warning(&self) -> Option<Arc<str>> {
        let reason = self.reason()?;
        Some(format!("dedup store {} is away ({reason}): {}", self.store, self.consequence()).into())
    }

    /// Does not ask the store again until a new generation has begun.
    pub(super) fn forget(&self) {
        self.forgetting.store(true, Ordering::Release);
        self.open("the broker has lost its data; what was acknowledged before is being forgotten".into());
    }

    /// Probes for ever.
    pub(super) async fn probe(self: Arc<Self>, backend: Arc<dyn Backend>, deadline: Duration) {
        loop {
            match self.probe_once(&*backend, deadline).await {
                Ok(()) => self.close(),
                Err(reason) => {
                    backend.disconnect();
                    self.open(reason);
                }
            }
            self.probed.cancel();
            let away = self.reason().is_some();
            let interval = if away { PROBE_INTERVAL } else { WATCH_INTERVAL };
            // Woken as soon as a request fails.
            let _ = timeout(interval, self.wake.notified()).await;
        }
    }

    async fn probe_once(&self, backend: &dyn Backend, deadline: Duration) -> Result<(), Arc<str>> {
        let late = |limit: Duration| move |_| Arc::from(format!("no answer within {limit:?}"));
        timeout(CONNECT_TIMEOUT, backend.connect()).await.map_err(late(CONNECT_TIMEOUT))??;
        let known = self.generation();
        let forgetting = self.forgetting.load(Ordering::Acquire);
        let stored = timeout(deadline, backend.probe(known)).await.map_err(late(deadline))??;
        let next = if forgetting && stored <= known {
            // The first of the replicas to notice begins the next generation; the others find it.
            timeout(deadline, backend.probe(known + 1)).await.map_err(late(deadline))??
        } else {
            stored
        };
        self.generation.fetch_max(next, Ordering::AcqRel);
        if forgetting {
            self.forgetting.store(false, Ordering::Release);
        }
        Ok(())
    }
}
