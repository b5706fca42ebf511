//! The metrics of `watch`, a process of its own: what Attio says of each configured webhook.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

use super::family::{self, Families};

/// What a webhook can be at Attio: its status there, and what keeps it from having one.
pub const STATES: [&str; 6] = ["active", "degraded", "inactive", "other", "missing", "ambiguous"];

/// Handles; the labels are the names in the configuration and these words.
pub struct WatchMetrics {
    families: Families,
    webhooks: Vec<String>,
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
    /// For webhooks and sources of these names; everything that can be counted is there, as 0.
    pub fn new(webhooks: Vec<String>, sources: &[String]) -> Self {
        let r = Families::default();
        let metrics = Self {
            state: r.gauges(
                "watch_webhook_state",
                "1 for what the webhook is at Attio.",
                &["webhook", "state"],
            ),
            drift: r.gauges("watch_webhook_drift", "1 while its subscriptions are others.", &["webhook"]),
            changes: r.counters("watch_changes_total", "Changes to a state.", &["webhook", "state"]),
            recreations: r.counters(
                "watch_recreations_total",
                "Lost webhooks made again; conflict: somebody else was first.",
                &["webhook", "result"],
            ),
            polls: r.counters("watch_polls_total", "Times that Attio was asked.", &["result"]),
            last_poll: r
                .gauge("watch_last_poll_timestamp_seconds", "Unix time of the last answer of Attio's."),
            slugs: r.counters(
                "watch_slugs_pulls_total",
                "Times that the map of slugs was made.",
                &["result"],
            ),
            last_delivery: r.gauges(
                "watch_bridge_last_delivery_timestamp_seconds",
                "Unix time of the bridge's last genuine delivery, as it says itself.",
                &["source"],
            ),
            silent: r.gauges(
                "watch_bridge_silent",
                "1 while Attio calls a webhook active and the bridge hears nothing.",
                &["source"],
            ),
            webhooks,
            families: r,
        };
        metrics.initialise(sources);
        metrics
    }

    fn initialise(&self, sources: &[String]) {
        for webhook in &self.webhooks {
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

    /// What a webhook is now.
    pub fn is(&self, webhook: &str, state: &str, drift: bool) {
        for known in STATES {
            self.state.with_label_values(&[webhook, known]).set((known == state).into());
        }
        self.drift.with_label_values(&[webhook]).set(drift.into());
    }

    /// It was something else before.
    pub fn changed(&self, webhook: &str, state: &str) {
        self.changes.with_label_values(&[webhook, state]).inc();
    }

    /// It was to be made again: `ok`, `failed` or `conflict`.
    pub fn recreated(&self, webhook: &str, result: &str) {
        self.recreations.with_label_values(&[webhook, result]).inc();
    }

    /// Attio was asked, and answered at that time; or it did not.
    pub fn polled(&self, answered: Option<i64>) {
        self.polls.with_label_values(&[result(answered.is_some())]).inc();
        if let Some(at) = answered {
            self.last_poll.set(at);
        }
    }

    /// The map of slugs was made, or not.
    pub fn slugs(&self, made: bool) {
        self.slugs.with_label_values(&[result(made)]).inc();
    }

    /// When the bridge had its last delivery, and whether that is too long ago.
    pub fn bridge(&self, source: &str, last_delivery: i64, silent: bool) {
        self.last_delivery.with_label_values(&[source]).set(last_delivery);
        self.silent.with_label_values(&[source]).set(silent.into());
    }

    /// Everything in the Prometheus text format 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        family::text(&self.families.gather())
    }
}

fn result(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}
