//! Metrics of the store that replicas share.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::family::Families;

/// What became of one id, or of one claim, in the store that replicas share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreResult {
    /// Claimed for this replica.
    Claimed,
    /// Acknowledged before.
    Hit,
    /// In flight at another replica.
    InFlight,
    /// Asked for without an answer.
    Failed,
    /// Not asked for, because the store is away.
    Skipped,
    /// Remembered as acknowledged.
    Committed,
    /// Released, because the publish failed.
    Released,
    /// Neither committed nor released: the store was away for too long.
    Dropped,
}

impl StoreResult {
    /// The labels of `dedup_store_requests_total`, in the order of the results.
    const LABELS: [&str; 8] =
        ["claimed", "hit", "in_flight", "failed", "skipped", "committed", "released", "dropped"];
}

#[derive(Clone)]
pub struct StoreMetrics {
    /// 0 while the store is away. 1 without one.
    pub up: IntGauge,
    /// Seconds from a request for claims to its answer.
    pub duration: Histogram,
    requests: [IntCounter; StoreResult::LABELS.len()],
}

impl StoreMetrics {
    pub(super) fn new(r: &Families) -> Self {
        let up = "0 while the dedup store is away, else 1; always 1 without a store.";
        let requests = "Ids claimed in the dedup store, and claims ended there.";
        let requests = r.counters("dedup_store_requests_total", requests, &["result"]);
        let duration = "From a request for claims to the dedup store's answer.";
        let metrics = Self {
            up: r.gauge("dedup_store_up", up),
            duration: r
                .histograms("dedup_store_duration_seconds", duration, &[])
                .with_label_values::<&str>(&[]),
            requests: StoreResult::LABELS.map(|label| requests.with_label_values(&[label])),
        };
        metrics.up.set(1);
        metrics
    }

    /// Counts so many ids or claims.
    pub fn count(&self, result: StoreResult, ids: u64) {
        self.requests[result as usize].inc_by(ids);
    }
}
