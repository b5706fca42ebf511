//! What one source counts, looked up once: a lookup by labels hashes them all and takes a lock, and a
//! delivery would need half a dozen.

use std::sync::Arc;

use prometheus::{Histogram, IntCounter, IntGauge};

use super::{Metrics, NO_SECRET, NO_SOURCE};

/// The counters of one source, or of the requests for none.
pub struct SourceMetrics {
    metrics: Arc<Metrics>,
    name: String,
    deliveries: Vec<(&'static str, IntCounter)>,
    duration: Histogram,
    /// None for requests for no source: they have no events.
    genuine: Option<Genuine>,
}

/// What only genuine deliveries count.
struct Genuine {
    received: IntCounter,
    events: Vec<(&'static str, Vec<(&'static str, IntCounter)>)>,
    identity_missing: IntCounter,
    last_delivery: IntGauge,
}

impl SourceMetrics {
    /// The handles of a source, or of none.
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

    /// The source's name, `none` for requests for none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts a delivery that was answered; reasons outside the closed set are not counted.
    pub fn delivery(&self, reason: &str, seconds: f64) {
        if let Some(counter) = find(&self.deliveries, reason) {
            counter.inc();
        }
        self.duration.observe(seconds);
    }

    /// Counts a checked signature; `secret` is the label that matched, if one did. Secrets come and go.
    pub fn signature(&self, secret: Option<&str>, result: &str) {
        let labels = [&self.name, secret.unwrap_or(NO_SECRET), result];
        self.metrics.signature_verifications.with_label_values(&labels).inc();
    }

    /// Notes when the last genuine delivery came in.
    pub fn last_delivery(&self, unix_seconds: i64) {
        if let Some(genuine) = &self.genuine {
            genuine.last_delivery.set(unix_seconds);
        }
    }

    /// Counts an event that nothing identifies.
    pub fn identity_missing(&self) {
        if let Some(genuine) = &self.genuine {
            genuine.identity_missing.inc();
        }
    }

    /// Books `count` events as received and in flight.
    pub fn events_received(&self, count: u64) {
        let Some(genuine) = &self.genuine else { return };
        let _moving = self.metrics.account.read();
        genuine.received.inc_by(count);
        self.metrics.events_in_flight.add(count.cast_signed());
    }

    /// Books events out of flight, each by its category to its result.
    pub fn events(&self, events: impl ExactSizeIterator<Item = (&'static str, &'static str)>) {
        let Some(genuine) = &self.genuine else { return };
        let _moving = self.metrics.account.read();
        self.metrics.events_in_flight.sub(events.len() as i64);
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
                (*result, metrics.events.with_label_values(&[name, *category, *result]))
            };
            (*category, results.iter().map(result).collect())
        };
        Self {
            received: metrics.events_received.with_label_values(&[name]),
            events: metrics.labels.categories.iter().map(category).collect(),
            identity_missing: metrics.identity_missing.with_label_values(&[name]),
            last_delivery: metrics.last_delivery.with_label_values(&[name]),
        }
    }
}

/// The sets are small and their likeliest members stand first.
fn find<'a, T>(all: &'a [(&'static str, T)], wanted: &str) -> Option<&'a T> {
    all.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
}
