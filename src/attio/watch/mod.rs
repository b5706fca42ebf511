//! Watches the wanted webhooks: asks Attio now and then, tells each change in one line, and makes a lost
//! webhook again where that is wanted.
//!
//! Two that run by mistake do no harm: Attio takes (URL, type, filter) once, so that one of them is told
//! of a conflict and changes nothing, the secret file included.

mod recreate;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::bridge::Bridge;
use super::filter::{self, Resolver};
use super::plan::{Change, Plan, Step, Wanted};
use super::rotate::is_successor;
use super::{Client, Status, WebhookOptions, slugs};
use crate::metrics::watch::WatchMetrics;
pub use recreate::Hook;

/// What is watched, and how.
pub struct Options {
    /// The webhooks that should exist.
    pub webhooks: Vec<WebhookOptions>,
    /// How often Attio is asked.
    pub every: Duration,
    /// Where the map of slugs is kept.
    pub slugs_file: Option<PathBuf>,
    /// Takes secrets that no file takes.
    pub hook: Option<Hook>,
    /// `/metrics` of the bridge.
    pub bridge: Option<String>,
    /// How long the bridge may hear nothing while Attio calls a webhook of its active.
    pub silent_after: Option<Duration>,
    /// Unix time.
    pub now: fn() -> i64,
}

/// A watch.
pub struct Watch {
    client: Client,
    bridge: Bridge,
    options: Options,
    metrics: Arc<WatchMetrics>,
    /// What was told last of each webhook.
    told: BTreeMap<String, (&'static str, bool)>,
    silent: BTreeSet<String>,
    failing: bool,
}

impl Watch {
    /// Nothing is asked yet.
    pub fn new(client: Client, options: Options, metrics: Arc<WatchMetrics>) -> Result<Self, super::Error> {
        let (told, silent) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self { client, bridge: Bridge::new()?, options, metrics, told, silent, failing: false })
    }

    /// Watches until it is told to stop. A webhook that is being made again is finished first.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let looked = stop.run_until_cancelled(self.look()).await;
            let Some(looked) = looked else { return };
            self.metrics.polled(looked.is_ok().then(self.options.now));
            match looked {
                Ok(plan) => {
                    self.back();
                    for step in &plan.steps {
                        self.tell(step);
                        // Between its last two steps a rotation has no webhook at the URL itself.
                        if !is_rotating(&plan, step) {
                            self.recreate(step).await;
                        }
                    }
                    let rest = async {
                        self.compare(&plan).await;
                        self.pull().await;
                    };
                    if stop.run_until_cancelled(rest).await.is_none() {
                        return;
                    }
                }
                Err(error) => {
                    self.failing = true;
                    tracing::error!(%error, "Attio cannot be asked: what follows is what was known before");
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(self.options.every)).await.is_none() {
                return;
            }
        }
    }

    async fn look(&self) -> Result<Plan, filter::Error> {
        let mut resolver = Resolver::new(&self.client);
        let mut wanted = Vec::new();
        for options in &self.options.webhooks {
            wanted.push(Wanted::resolve(options, &mut resolver).await?);
        }
        Ok(Plan::between(wanted, self.client.webhooks().await?))
    }

    fn back(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!("Attio can be asked again");
        }
    }

    /// One line where a webhook is not what it was.
    fn tell(&mut self, step: &Step) {
        let WebhookOptions { name, target_url, .. } = &step.wanted.options;
        let (state, drift) = state(&step.change);
        self.metrics.is(name, state, drift);
        let before = self.told.insert(name.clone(), (state, drift));
        if before == Some((state, drift)) {
            return;
        }
        let webhook = name.as_str();
        let was = before.map_or("unknown", |(state, _)| state);
        if was != state {
            self.metrics.changed(name, state);
        }
        if let Some(does) = advice(state, drift) {
            tracing::warn!(webhook, target_url, state, was, drift, "{does}");
        } else {
            tracing::info!(webhook, target_url, state, was, drift, "the webhook is active and as configured");
        }
    }

    /// Holds Attio's word against the bridge's own.
    async fn compare(&mut self, plan: &Plan) {
        let Some(url) = self.options.bridge.clone() else { return };
        let samples = match self.bridge.metrics(&url).await {
            Ok(samples) => samples,
            Err(error) => return tracing::warn!(%error, "the bridge cannot be read"),
        };
        let sources: BTreeSet<&String> = plan.steps.iter().map(|step| &step.wanted.options.source).collect();
        for source in sources {
            let labels = [("source", &**source)];
            let Some(last) = samples.sum("last_delivery_timestamp_seconds", &labels) else {
                tracing::warn!(source, url, "the bridge knows no such source");
                continue;
            };
            let last = last as i64;
            let active = plan.steps.iter().any(|step| {
                step.wanted.options.source == *source && state(&step.change).0 == Status::Active.as_str()
            });
            let ago = u64::try_from((self.options.now)() - last).unwrap_or(0);
            let silent = active && self.options.silent_after.is_some_and(|after| ago > after.as_secs());
            self.metrics.bridge(source, last, silent);
            if silent && self.silent.insert(source.clone()) {
                tracing::warn!(
                    source,
                    seconds_ago = ago,
                    "Attio calls the webhook active, and the bridge hears nothing: does the target URL lead to \
                     this bridge?"
                );
            } else if !silent && self.silent.remove(source) {
                tracing::info!(source, "the bridge hears of Attio again");
            }
        }
    }

    /// Keeps the map of slugs fresh.
    async fn pull(&self) {
        let Some(path) = &self.options.slugs_file else { return };
        let file = path.display();
        let written = match slugs::pull(&self.client).await {
            Ok(slugs) => slugs::write(path, &slugs).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        self.metrics.slugs(written.is_ok());
        match written {
            Ok(true) => tracing::info!(%file, "the map of slugs is new"),
            Ok(false) => {}
            Err(error) => tracing::error!(%file, error, "the map of slugs stays as it was"),
        }
    }
}

fn is_rotating(plan: &Plan, step: &Step) -> bool {
    let target_url = &step.wanted.options.target_url;
    plan.unmanaged.iter().any(|webhook| is_successor(&webhook.target_url, target_url))
}

/// What a webhook is, and whether its subscriptions are others.
fn state(change: &Change) -> (&'static str, bool) {
    match change {
        Change::Create => ("missing", false),
        Change::Ambiguous(_) => ("ambiguous", false),
        Change::Update { webhook, .. } => (status(&webhook.status), true),
        Change::Keep(webhook) => (status(&webhook.status), false),
    }
}

fn status(status: &Status) -> &'static str {
    match status {
        Status::Active => "active",
        Status::Degraded => "degraded",
        Status::Inactive => "inactive",
        Status::Other(_) => "other",
    }
}

/// What is to be done about it; none where all is well.
fn advice(state: &str, drift: bool) -> Option<&'static str> {
    match state {
        "degraded" => Some(
            "Attio's deliveries have failed for about three days and still go on; in seven days they end: look \
             at what the bridge answers",
        ),
        "inactive" => Some("Attio sends nothing any more: the webhook has to be made again"),
        "missing" => Some("Attio has no such webhook: `webhooks apply` makes it, or recreate = true"),
        "ambiguous" => Some("several webhooks have this URL: keep one, see `webhooks list`"),
        "other" => Some("Attio calls it something that this build does not know"),
        _ if drift => Some("its subscriptions are not as configured: see `webhooks plan`"),
        _ => None,
    }
}
