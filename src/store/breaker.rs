//! The breaker: a part of the store that fails is not asked again until a probe succeeds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::options::OnFailure;
use crate::metrics::StoreMetrics;

/// A failure is logged again after this.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct Breaker {
    store: &'static str,
    on_failure: OnFailure,
    state: Mutex<State>,
    wake: Notify,
    /// Cancelled once the first probe has ended, well or not, or it is waited for no longer.
    probed: CancellationToken,
    /// Cancelled once a probe has ended after the bus had started.
    started: CancellationToken,
    metrics: StoreMetrics,
}

#[derive(Clone, Default)]
struct Part {
    /// Why it is not asked.
    reason: Option<Arc<str>>,
    /// The number of its last failure.
    failed: u64,
}

struct State {
    /// Of all parts: each failure has a number.
    failures: u64,
    whole: Part,
    parts: Vec<Part>,
    /// When it was last logged that the store is away.
    logged: Option<Instant>,
    /// Whether it was logged since the store last answered.
    announced: bool,
}

impl State {
    fn reason(&self) -> Option<&Arc<str>> {
        std::iter::once(&self.whole).chain(&self.parts).find_map(|part| part.reason.as_ref())
    }
}

impl Breaker {
    /// Open until the first probe.
    pub(super) fn new(
        store: &'static str,
        on_failure: OnFailure,
        parts: usize,
        metrics: StoreMetrics,
    ) -> Self {
        metrics.up.set(0);
        let whole = Part { reason: Some("not reached yet".into()), failed: 0 };
        let parts = vec![Part::default(); parts];
        let state = Mutex::new(State { failures: 0, whole, parts, logged: None, announced: true });
        let (wake, probed, started) = (Notify::new(), CancellationToken::new(), CancellationToken::new());
        Self { store, on_failure, state, wake, probed, started, metrics }
    }

    pub(super) fn is_starting(&self) -> bool {
        !self.started.is_cancelled()
    }

    pub(super) fn started(&self) {
        self.started.cancel();
    }

    /// Waits for the first probe.
    pub(super) async fn first_probe(&self) {
        self.probed.cancelled().await;
    }

    /// The first probe is waited for no longer.
    pub(super) fn probed(&self) {
        self.probed.cancel();
    }

    /// Why this part is not asked now.
    pub(super) fn reason_of(&self, part: usize) -> Option<Arc<str>> {
        let state = self.state.lock();
        state.whole.reason.as_ref().or(state.parts[part].reason.as_ref()).cloned()
    }

    /// Why the store, or a part of it, is not asked now.
    pub(super) fn reason(&self) -> Option<Arc<str>> {
        self.state.lock().reason().cloned()
    }

    /// Ends when the store fails, or is to be looked at for another reason.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// A part of the store has failed.
    pub(super) fn open(&self, part: usize, reason: Arc<str>) {
        self.opened(reason, |state| &mut state.parts[part]);
    }

    /// The store has failed, or what it remembers does not count.
    pub(super) fn open_whole(&self, reason: Arc<str>) {
        self.opened(reason, |state| &mut state.whole);
    }

    fn opened(&self, reason: Arc<str>, place: impl FnOnce(&mut State) -> &mut Part) {
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
        state.failures += 1;
        let failed = state.failures;
        let part = place(&mut state);
        part.failed = failed;
        if part.reason.replace(reason).is_none() {
            self.wake.notify_one();
        }
    }

    /// The failures so far: to be read before a probe.
    pub(super) fn failures(&self) -> u64 {
        self.state.lock().failures
    }

    /// What a probe has found of the parts: why each of them fails. What has failed since it began stays open.
    pub(super) fn found(&self, failures_before: u64, parts: impl IntoIterator<Item = Option<Arc<str>>>) {
        for (part, reason) in parts.into_iter().enumerate() {
            match reason {
                Some(reason) => self.open(part, reason),
                None => {
                    let part = &mut self.state.lock().parts[part];
                    part.reason.take_if(|_| part.failed <= failures_before);
                }
            }
        }
        let mut state = self.state.lock();
        let whole = &mut state.whole;
        whole.reason.take_if(|_| whole.failed <= failures_before);
        if state.reason().is_none() {
            self.metrics.up.set(1);
            if std::mem::take(&mut state.announced) {
                tracing::info!(store = self.store, "dedup store answers: replicas share their memory");
            }
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
}
