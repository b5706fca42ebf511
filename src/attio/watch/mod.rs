//! Monitors the configured webhooks: polls Attio, logs each change once, and recreates a lost webhook where
//! that is configured.
//!
//! Two instances do no harm: (URL, type, filter) is unique at Attio, so that one of them gets a conflict and
//! changes nothing, including the secret file.
//!
//! A webhook is found by its URL, and by its id once it was found, because Attio may spell the URL differently. One
//! that was created and is then not found is not created again: otherwise each poll would create another one and
//! overwrite the secret of the one before.

mod recreate;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};
use tokio_util::sync::CancellationToken;

use super::bridge::Bridge;
use super::filter::{self, Resolver};
use super::plan::{Action, Plan, Step, Wanted};
use super::{Client, WebhookOptions, slugs};
use crate::metrics::family::{self, Families};
use crate::metrics::samples::Samples;
use recreate::Creation;
pub(crate) use recreate::Hook;

pub(crate) struct Options {
    pub webhooks: Vec<WebhookOptions>,
    pub every: Duration,
    /// The file of slugs to keep up to date.
    pub slugs_file: Option<PathBuf>,
    /// Receives the secrets of recreated webhooks, instead of their secret files.
    pub hook: Option<Hook>,
    /// `/metrics` of each replica of the bridge.
    pub bridge: Vec<String>,
    /// How long the bridge may receive nothing while Attio calls a webhook active.
    pub silent_after: Option<Duration>,
    pub now: fn() -> i64,
}

pub(crate) struct Watch {
    client: Client,
    bridge: Bridge,
    options: Options,
    metrics: Arc<WatchMetrics>,
    state: State,
}

/// What was found, logged or done so far.
#[derive(Default)]
struct State {
    /// The ids of the webhooks that were found or created, by name.
    known: BTreeMap<String, String>,
    /// The last creation of webhooks that were not found since, by name.
    unproven: BTreeMap<String, Creation>,
    /// Last logged state and drift by webhook.
    logged: BTreeMap<String, (&'static str, bool)>,
    /// Why the filters of a webhook cannot be resolved.
    unresolved: BTreeMap<String, String>,
    /// Webhooks that may exist although their secret is lost.
    orphans: BTreeSet<String>,
    /// Sources logged as silent.
    silent: BTreeSet<String>,
    /// When a source without deliveries since the bridge's start was first seen so.
    idle_since: BTreeMap<String, i64>,
    /// Replicas logged as unreadable.
    unreadable: BTreeSet<String>,
    /// The status of the failed polls, while they fail.
    failing: Option<Option<u16>>,
}

/// The states of a webhook: its status at Attio, or why it has none.
const STATES: [&str; 6] = ["active", "degraded", "inactive", "other", "missing", "ambiguous"];

/// The metrics. Labels are names from the configuration and constants.
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
        let counters = |name: &str, help: &str, labels: &[&str]| {
            families.counters(&format!("watch_{name}_total"), help, labels)
        };
        let gauges =
            |name: &str, help: &str, label: &[&str]| families.gauges(&format!("watch_{name}"), help, label);
        let metrics = Self {
            state: gauges(
                "webhook_state",
                "1 for the webhook's current state at Attio.",
                &["webhook", "state"],
            ),
            drift: gauges(
                "webhook_drift",
                "1 if the webhook's URL or subscriptions differ from the configuration.",
                &["webhook"],
            ),
            changes: counters("changes", "Changes of webhooks to a state.", &["webhook", "state"]),
            recreations: counters(
                "recreations",
                "Attempts to recreate a lost webhook; conflict: already recreated by another process.",
                &["webhook", "result"],
            ),
            polls: counters("polls", "Polls of Attio.", &["result"]),
            last_poll: families.gauge(
                "watch_last_poll_timestamp_seconds",
                "Unix time of the last successful poll of Attio.",
            ),
            slugs: counters("slugs_pulls", "Updates of the slugs file.", &["result"]),
            last_delivery: gauges(
                "bridge_last_delivery_timestamp_seconds",
                "Unix time of the bridge's last verified delivery, from its own metrics.",
                &["source"],
            ),
            silent: gauges(
                "bridge_silent",
                "1 while Attio calls a webhook active but the bridge receives nothing.",
                &["source"],
            ),
            families,
        };
        for webhook in webhooks {
            for state in STATES {
                metrics.state.with_label_values(&[webhook, state]);
                metrics.changes.with_label_values(&[webhook, state]);
            }
            for result in ["ok", "failed", "conflict"] {
                metrics.recreations.with_label_values(&[webhook, result]);
            }
            metrics.drift.with_label_values(&[webhook]);
        }
        for result in ["ok", "failed"] {
            metrics.polls.with_label_values(&[result]);
            metrics.slugs.with_label_values(&[result]);
        }
        for source in sources {
            metrics.last_delivery.with_label_values(&[source]);
            metrics.silent.with_label_values(&[source]);
        }
        metrics
    }

    pub fn render(&self) -> Vec<u8> {
        family::text(&self.families.gather())
    }
}

impl Watch {
    pub fn new(client: Client, options: Options, metrics: Arc<WatchMetrics>) -> Result<Self, super::Error> {
        Ok(Self { client, bridge: Bridge::new()?, options, metrics, state: State::default() })
    }

    /// Watches until `stop`. Recreating a webhook is finished first.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let Some(polled) = stop.run_until_cancelled(self.poll()).await else { return };
            self.metrics.polls.with_label_values(&[result(polled.is_ok())]).inc();
            match polled {
                Ok((plan, unresolved)) => {
                    self.metrics.last_poll.set((self.options.now)());
                    if self.state.failing.take().is_some() {
                        tracing::info!("Attio answers again");
                    }
                    self.log_unresolved(unresolved);
                    for step in &plan.steps {
                        if let Some(webhook) = step.webhook() {
                            let name = &step.wanted.options.name;
                            self.state.known.insert(name.clone(), webhook.webhook_id().to_owned());
                            self.state.unproven.remove(name);
                        }
                        self.log_change(step);
                        if !plan.is_rotating(step) {
                            self.recreate(&plan, step).await;
                        }
                    }
                    let rest = async {
                        self.compare_with_bridge(&plan).await;
                        self.pull_slugs().await;
                    };
                    if stop.run_until_cancelled(rest).await.is_none() {
                        return;
                    }
                }
                Err(error) => {
                    // Logged once, and again if the status changes.
                    if self.state.failing.replace(error.status()) != Some(error.status()) {
                        tracing::error!(%error, "cannot poll Attio: the metrics keep their last values");
                    }
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(self.options.every)).await.is_none() {
                return;
            }
        }
    }

    /// The plan, and by webhook why its filters cannot be resolved.
    async fn poll(&self) -> Result<(Plan, BTreeMap<String, String>), super::Error> {
        let mut resolver = Resolver::new(&self.client);
        let (mut wanted, mut unresolved) = (Vec::new(), BTreeMap::new());
        for options in &self.options.webhooks {
            wanted.push(match Wanted::resolve(options, &mut resolver).await {
                Ok(resolved) => resolved,
                Err(filter::Error::Attio(error)) => return Err(error),
                // A slug that no longer exists: the webhook is still reported, with drift.
                Err(error @ filter::Error::Invalid { .. }) => {
                    unresolved.insert(options.name.clone(), error.to_string());
                    Wanted { options: options.clone(), subscriptions: Vec::new() }
                }
            });
        }
        Ok((Plan::between(wanted, self.client.webhooks().await?, &self.state.known), unresolved))
    }

    fn log_unresolved(&mut self, unresolved: BTreeMap<String, String>) {
        for (webhook, error) in &unresolved {
            if self.state.unresolved.get(webhook) != Some(error) {
                tracing::error!(
                    webhook,
                    error,
                    "the configured filters cannot be resolved: see `webhooks plan`"
                );
            }
        }
        self.state.unresolved = unresolved;
    }

    /// Logs one line if the webhook's state or drift has changed.
    fn log_change(&mut self, step: &Step) {
        let WebhookOptions { name, target_url, .. } = &step.wanted.options;
        let (state, drift) = state(step);
        for known in STATES {
            self.metrics.state.with_label_values(&[name, known]).set((known == state).into());
        }
        self.metrics.drift.with_label_values(&[name]).set(drift.into());
        let before = self.state.logged.insert(name.clone(), (state, drift));
        if before == Some((state, drift)) {
            return;
        }
        let webhook = name.as_str();
        let was = before.map_or("unknown", |(state, _)| state);
        if was != state {
            self.metrics.changes.with_label_values(&[name, state]).inc();
        }
        if let Some(advice) = advice(state, drift) {
            tracing::warn!(webhook, target_url, state, was, drift, "{advice}");
        } else {
            tracing::info!(webhook, target_url, state, was, drift, "the webhook is active and as configured");
        }
    }

    async fn pull_slugs(&self) {
        let Some(path) = &self.options.slugs_file else { return };
        let file = path.display();
        let written = match slugs::pull(&self.client).await {
            Ok(slugs) => slugs::write(path, &slugs).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        self.metrics.slugs.with_label_values(&[result(written.is_ok())]).inc();
        match written {
            Ok(true) => tracing::info!(%file, "updated the slugs file"),
            Ok(false) => {}
            Err(error) => tracing::error!(%file, error, "cannot update the slugs file"),
        }
    }

    /// Compares Attio's status with the bridge's last deliveries, and logs when a silence begins and ends.
    async fn compare_with_bridge(&mut self, plan: &Plan) {
        let samples = self.read_bridge().await;
        if samples.is_empty() {
            return;
        }
        let sources: BTreeSet<&String> = plan.steps.iter().map(|step| &step.wanted.options.source).collect();
        for source in sources {
            let labels = [("source", &**source)];
            let last = samples.iter().filter_map(|one| one.sum("last_delivery_timestamp_seconds", &labels));
            let Some(last) = last.map(|last| last as i64).max() else {
                tracing::warn!(source, "the bridge has no such source");
                continue;
            };
            let active = plan
                .steps
                .iter()
                .any(|step| step.wanted.options.source == *source && state(step).0 == "active");
            let seconds_ago = self.seconds_since(source, last);
            let silent =
                active && self.options.silent_after.is_some_and(|after| seconds_ago > after.as_secs());
            self.metrics.last_delivery.with_label_values(&[source]).set(last);
            self.metrics.silent.with_label_values(&[source]).set(silent.into());
            if silent && self.state.silent.insert(source.clone()) {
                tracing::warn!(
                    source,
                    seconds_ago,
                    "Attio calls the webhook active, but the bridge receives nothing: does the target URL lead to \
                     this bridge?"
                );
            } else if !silent && self.state.silent.remove(source) {
                tracing::info!(source, "the bridge receives deliveries again");
            }
        }
    }

    /// Seconds since the last delivery; of a bridge without one since its start, since that was first seen.
    fn seconds_since(&mut self, source: &str, last: i64) -> u64 {
        let now = (self.options.now)();
        let since = if last > 0 {
            self.state.idle_since.remove(source);
            last
        } else {
            *self.state.idle_since.entry(source.to_owned()).or_insert(now)
        };
        u64::try_from(now - since).unwrap_or(0)
    }

    async fn read_bridge(&mut self) -> Vec<Samples> {
        let mut all = Vec::new();
        for url in &self.options.bridge {
            match self.bridge.metrics(url).await {
                Ok(samples) => {
                    self.state.unreadable.remove(url);
                    all.push(samples);
                }
                Err(error) if self.state.unreadable.insert(url.clone()) => {
                    tracing::warn!(error, "cannot read the bridge's metrics");
                }
                Err(_) => {}
            }
        }
        all
    }
}

fn result(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

/// The state, and whether URL or subscriptions differ from the configuration.
fn state(step: &Step) -> (&'static str, bool) {
    let drift = |url: &str| {
        step.action == Action::Update || !step.webhook().is_some_and(|webhook| webhook.is_at(url))
    };
    match step.webhook() {
        None if step.action == Action::Create => ("missing", false),
        None => ("ambiguous", false),
        Some(webhook) => {
            let known = STATES[..3].iter().find(|state| **state == webhook.status);
            (known.unwrap_or(&"other"), drift(&step.wanted.options.target_url))
        }
    }
}

fn advice(state: &str, drift: bool) -> Option<&'static str> {
    match state {
        "degraded" => Some(
            "deliveries have failed for about three days; Attio stops sending in seven days: check what the bridge \
             answers",
        ),
        "inactive" => Some("Attio no longer sends: the webhook must be recreated"),
        "missing" => {
            Some("the webhook does not exist: create it with `webhooks apply`, or set recreate = true")
        }
        "ambiguous" => Some("several webhooks have this URL: keep one, see `webhooks list`"),
        "other" => Some("the webhook has a status that this build does not know"),
        _ if drift => Some(
            "its URL or subscriptions differ from the configuration: see `webhooks list` and `webhooks plan`",
        ),
        _ => None,
    }
}
