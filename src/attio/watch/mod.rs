//! Watches the wanted webhooks: asks Attio now and then, tells each change in one line, and makes a lost
//! webhook again where that is wanted.
//!
//! Two that run by mistake do no harm: Attio takes (URL, type, filter) once, so that one of them is told
//! of a conflict and changes nothing, the secret file included.

mod compare;
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
    /// `/metrics` of the bridge, of each replica.
    pub bridge: Vec<String>,
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
    /// Why the filters of a webhook cannot be had.
    unresolved: BTreeMap<String, String>,
    /// Webhooks that may be there while nobody has their secret.
    behind: BTreeSet<String>,
    heard: compare::Heard,
    /// How Attio refuses to be asked, while it does.
    failing: Option<Option<u16>>,
}

impl Watch {
    /// Nothing is asked yet.
    pub fn new(client: Client, options: Options, metrics: Arc<WatchMetrics>) -> Result<Self, super::Error> {
        let (told, unresolved, behind) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let (bridge, heard) = (Bridge::new()?, compare::Heard::default());
        Ok(Self { client, bridge, options, metrics, told, unresolved, behind, heard, failing: None })
    }

    /// Watches until it is told to stop. A webhook that is being made again is finished first.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let looked = stop.run_until_cancelled(self.look()).await;
            let Some(looked) = looked else { return };
            self.metrics.polled(looked.is_ok().then(self.options.now));
            match looked {
                Ok((plan, unresolved)) => {
                    self.back();
                    self.tell_unresolved(unresolved);
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
                    // Told once, and again where it is for another reason.
                    if self.failing.replace(error.status()) != Some(error.status()) {
                        tracing::error!(%error, "Attio cannot be asked: what is counted is what was known before");
                    }
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(self.options.every)).await.is_none() {
                return;
            }
        }
    }

    async fn look(&self) -> Result<(Plan, BTreeMap<String, String>), super::Error> {
        let mut resolver = Resolver::new(&self.client);
        let (mut wanted, mut unresolved) = (Vec::new(), BTreeMap::new());
        for options in &self.options.webhooks {
            wanted.push(match Wanted::resolve(options, &mut resolver).await {
                Ok(resolved) => resolved,
                Err(filter::Error::Attio(error)) => return Err(error),
                // A slug that Attio knows no more: what is there is told all the same, as not what is wanted.
                Err(error @ filter::Error::Refused { .. }) => {
                    unresolved.insert(options.name.clone(), error.to_string());
                    Wanted { options: options.clone(), subscriptions: Vec::new() }
                }
            });
        }
        Ok((Plan::between(wanted, self.client.webhooks().await?), unresolved))
    }

    fn tell_unresolved(&mut self, unresolved: BTreeMap<String, String>) {
        for (webhook, error) in &unresolved {
            if self.unresolved.get(webhook) != Some(error) {
                tracing::error!(
                    webhook,
                    error,
                    "what is configured cannot be had at Attio: see `webhooks plan`"
                );
            }
        }
        self.unresolved = unresolved;
    }

    fn back(&mut self) {
        if self.failing.take().is_some() {
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
