//! Metric handles of one source, looked up once: a lookup by labels hashes every label and takes a lock.

use std::sync::Arc;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::account::EventAccount;
use super::{Metrics, NO_SECRET, NO_SOURCE};

pub struct SourceMetrics {
    metrics: Arc<Metrics>,
    name: String,
    deliveries: Vec<(&'static str, IntCounter)>,
    duration: Histogram,
    /// None for requests to no configured source, which have no events.
    genuine: Option<Genuine>,
}

/// Counters of deliveries whose signature matched.
struct Genuine {
    received: IntCounter,
    events: Vec<(&'static str, Vec<(&'static str, IntCounter)>)>,
    identity_missing: IntCounter,
    last_delivery: IntGauge,
}

impl SourceMetrics {
    /// Handles of a source; `None` for requests to no configured source.
    pub fn new(metrics: &Arc<Metrics>, source: Option<&str>) -> Self {
        let name = source.unwrap_or(NO_SOURCE);
        let labels = &metrics.labels;
        let delivery =
            |reason: &&'static str| (*reason, metrics.deliveries.with_label_values(&[name, *reason]));
        Self {
            name: name.to_owned(),
            deliveries: labels.reasons.iter().map(delivery).collect(),
            duration: metrics.delivery_duration.with_label_values(&[name]),
            genuine: source.map(|name| Genuine::new(metrics, name)),
            metrics: Arc::clone(metrics),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts an answered delivery and observes how long it took.
    pub fn delivery(&self, reason: &str, seconds: f64) {
        if let Some(counter) = find(&self.deliveries, reason) {
            counter.inc();
        }
        self.duration.observe(seconds);
    }

    /// Counts a signature check; `secret` is the label of the secret that matched. Looked up each time, because a
    /// reload may change the secrets.
    pub fn signature(&self, secret: Option<&str>, result: &str) {
        let labels = [&self.name, secret.unwrap_or(NO_SECRET), result];
        self.metrics.signature_verifications.with_label_values(&labels).inc();
    }

    pub fn last_delivery(&self, unix_seconds: i64) {
        if let Some(genuine) = &self.genuine {
            genuine.last_delivery.set(unix_seconds);
        }
    }

    /// Counts an event without an id or idempotency key.
    pub fn identity_missing(&self) {
        if let Some(genuine) = &self.genuine {
            genuine.identity_missing.inc();
        }
    }

    /// Counts events as received. They are in flight until [`Self::events`] counts their results.
    pub fn events_received(&self, count: u64) {
        if let Some(genuine) = &self.genuine {
            genuine.received.inc_by(count);
        }
    }

    /// Counts events with their category and result.
    pub fn events(&self, events: impl Iterator<Item = (&'static str, &'static str)>) {
        let Some(genuine) = &self.genuine else { return };
        EventAccount::before_results();
        for (category, result) in events {
            let results = find(&genuine.events, category);
            if let Some(counter) = results.and_then(|results| find(results, result)) {
                counter.inc();
            }
        }
    }
}

impl Genuine {
    fn new(metrics: &Metrics, name: &str) -> Self {
        let results = &metrics.labels.event_results;
        let category = |category: &&'static str| {
            let result = |result: &&'static str| {
                (*result, metrics.account.results.with_label_values(&[name, *category, *result]))
            };
            (*category, results.iter().map(result).collect())
        };
        Self {
            received: metrics.account.received.with_label_values(&[name]),
            events: metrics.labels.categories.iter().map(category).collect(),
            identity_missing: metrics.identity_missing.with_label_values(&[name]),
            last_delivery: metrics.last_delivery.with_label_values(&[name]),
        }
    }
}

/// Linear search: the sets are small and the most likely members come first.
fn find<'a, T>(all: &'a [(&'static str, T)], wanted: &str) -> Option<&'a T> {
    all.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
}
