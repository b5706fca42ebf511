//! The metrics of `watch`, which runs as its own process.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

use crate::metrics::family::{self, Families};

/// The states of a webhook: its status at Attio, or why it has none.
pub const STATES: [&str; 6] = ["active", "degraded", "inactive", "other", "missing", "ambiguous"];

/// Handles of the metrics. Labels are names from the configuration and constants.
pub struct WatchMetrics {
    families: Families,
    state: IntGaugeVec,
    drift: IntGaugeVec,
    changes: IntCounterVec,
    recreations: IntCounterVec,
    polls: IntCounterVec,
    last_poll: IntGauge,
    slugs: IntCounterVec,
    last_delivery: IntGaugeVec,
    silent: IntGaugeVec,
}

impl WatchMetrics {
    /// Creates every label set, at 0, for the webhooks and sources of these names.
    pub fn new(webhooks: &[String], sources: &[String]) -> Self {
        let families = Families::default();
        let metrics = Self {
            state: families.gauges(
                "watch_webhook_state",
                "1 for the webhook's current state at Attio.",
                &["webhook", "state"],
            ),
            drift: families.gauges(
                "watch_webhook_drift",
                "1 if the webhook's URL or subscriptions differ from the configuration.",
                &["webhook"],
            ),
            changes: families.counters(
                "watch_changes_total",
                "Changes of webhooks to a state.",
                &["webhook", "state"],
            ),
            recreations: families.counters(
                "watch_recreations_total",
                "Attempts to recreate a lost webhook; conflict: already recreated by another process.",
                &["webhook", "result"],
            ),
            polls: families.counters("watch_polls_total", "Polls of Attio.", &["result"]),
            last_poll: families.gauge(
                "watch_last_poll_timestamp_seconds",
                "Unix time of the last successful poll of Attio.",
            ),
            slugs: families.counters("watch_slugs_pulls_total", "Updates of the slugs file.", &["result"]),
            last_delivery: families.gauges(
                "watch_bridge_last_delivery_timestamp_seconds",
                "Unix time of the bridge's last verified delivery, from its own metrics.",
                &["source"],
            ),
            silent: families.gauges(
                "watch_bridge_silent",
                "1 while Attio calls a webhook active but the bridge receives nothing.",
                &["source"],
            ),
            families,
        };
        metrics.initialise(webhooks, sources);
        metrics
    }

    fn initialise(&self, webhooks: &[String], sources: &[String]) {
        for webhook in webhooks {
            for state in STATES {
                self.state.with_label_values(&[webhook, state]);
                self.changes.with_label_values(&[webhook, state]);
            }
            for result in ["ok", "failed", "conflict"] {
                self.recreations.with_label_values(&[webhook, result]);
            }
            self.drift.with_label_values(&[webhook]);
        }
        for result in ["ok", "failed"] {
            self.polls.with_label_values(&[result]);
            self.slugs.with_label_values(&[result]);
        }
        for source in sources {
            self.last_delivery.with_label_values(&[source]);
            self.silent.with_label_values(&[source]);
        }
    }

    pub(crate) fn set_state(&self, webhook: &str, state: &str, drift: bool) {
        for known in STATES {
            self.state.with_label_values(&[webhook, known]).set((known == state).into());
        }
        self.drift.with_label_values(&[webhook]).set(drift.into());
    }

    pub(crate) fn changed(&self, webhook: &str, state: &str) {
        self.changes.with_label_values(&[webhook, state]).inc();
    }

    /// An attempt to recreate a webhook: `ok`, `failed` or `conflict`.
    pub(crate) fn recreated(&self, webhook: &str, result: &str) {
        self.recreations.with_label_values(&[webhook, result]).inc();
    }

    /// A poll of Attio, with the time of its success.
    pub(crate) fn polled(&self, succeeded_at: Option<i64>) {
        self.polls.with_label_values(&[result(succeeded_at.is_some())]).inc();
        if let Some(at) = succeeded_at {
            self.last_poll.set(at);
        }
    }

    pub(crate) fn slugs_pulled(&self, ok: bool) {
        self.slugs.with_label_values(&[result(ok)]).inc();
    }

    /// The bridge's last delivery, and whether that is too long ago.
    pub(crate) fn bridge(&self, source: &str, last_delivery: i64, silent: bool) {
        self.last_delivery.with_label_values(&[source]).set(last_delivery);
        self.silent.with_label_values(&[source]).set(silent.into());
    }

    /// All metrics in the Prometheus text format 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        family::text(&self.families.gather())
    }
}

fn result(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}
