//! Holds Attio's word against what the bridge hears.

use std::collections::{BTreeMap, BTreeSet};

use super::{Watch, state};
use crate::attio::Status;
use crate::attio::plan::Plan;
use crate::metrics::samples::Samples;

/// What was heard of the bridge so far.
#[derive(Default)]
pub(super) struct Heard {
    /// Sources that are silent, as was told.
    silent: BTreeSet<String>,
    /// Since when a bridge that was started anew has heard nothing of a source.
    since: BTreeMap<String, i64>,
    /// Replicas that could not be read, as was told.
    unreadable: BTreeSet<String>,
}

impl Watch {
    /// Compares, and tells each silence and its end.
    pub(super) async fn compare(&mut self, plan: &Plan) {
        let samples = self.read().await;
        if samples.is_empty() {
            return;
        }
        let sources: BTreeSet<&String> = plan.steps.iter().map(|step| &step.wanted.options.source).collect();
        for source in sources {
            let labels = [("source", &**source)];
            let last = samples.iter().filter_map(|one| one.sum("last_delivery_timestamp_seconds", &labels));
            let Some(last) = last.map(|last| last as i64).max() else {
                tracing::warn!(source, "the bridge knows no such source");
                continue;
            };
            let active = plan.steps.iter().any(|step| {
                step.wanted.options.source == *source && state(&step.change).0 == Status::Active.as_str()
            });
            let ago = self.ago(source, last);
            let silent = active && self.options.silent_after.is_some_and(|after| ago > after.as_secs());
            self.metrics.bridge(source, last, silent);
            if silent && self.heard.silent.insert(source.clone()) {
                tracing::warn!(
                    source,
                    seconds_ago = ago,
                    "Attio calls the webhook active, and the bridge hears nothing: does the target URL lead to \
                     this bridge?"
                );
            } else if !silent && self.heard.silent.remove(source) {
                tracing::info!(source, "the bridge hears of Attio again");
            }
        }
    }

    /// How many seconds nothing has been heard. One that was started anew knows of nothing before that:
    /// it counts from when it was first seen so.
    fn ago(&mut self, source: &str, last: i64) -> u64 {
        let now = (self.options.now)();
        let since = if last > 0 {
            self.heard.since.remove(source);
            last
        } else {
            *self.heard.since.entry(source.to_owned()).or_insert(now)
        };
        u64::try_from(now - since).unwrap_or(0)
    }

    /// The metrics of every replica that can be read.
    async fn read(&mut self) -> Vec<Samples> {
        let mut all = Vec::new();
        for url in &self.options.bridge {
            match self.bridge.metrics(url).await {
                Ok(samples) => {
                    self.heard.unreadable.remove(url);
                    all.push(samples);
                }
                Err(error) if self.heard.unreadable.insert(url.clone()) => {
                    tracing::warn!(error, "the bridge cannot be read");
                }
                Err(_) => {}
            }
        }
        all
    }
}
