//! New secrets and slugs while the bridge serves: on SIGHUP, and when their files have changed.
//!
//! The files are looked at, not watched through the system: that works alike for plain files, for
//! the links that Kubernetes swaps and for systemd's credentials. A configuration that is not good
//! changes nothing at all, and whatever is neither a secret of a source nor a
//! slug needs a restart. A map of slugs that is not good keeps the old one, and secrets are taken with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::systemd;
use crate::config::{Config, Files, Problems};
use crate::delivery::SourceName;
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;

/// How often the files are looked at. A change is taken once it has lasted from one look to the
/// next, so that no secret is taken half written.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the secrets of a running bridge up to date.
pub struct Reloader {
    /// What the bridge was started with: all but its secrets is in force until it ends.
    started: Arc<Config>,
    /// What was loaded last: its secrets are in force.
    current: Arc<Config>,
    pipeline: Arc<Pipeline>,
    metrics: Arc<Metrics>,
}

/// What a reload made of the map of slugs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SlugsNow {
    Same,
    New,
    Bad,
}

impl Reloader {
    /// For a bridge of this configuration.
    pub fn new(config: Config, pipeline: Arc<Pipeline>, metrics: Arc<Metrics>) -> Self {
        let started = Arc::new(config);
        Self { current: Arc::clone(&started), started, pipeline, metrics }
    }

    /// Reloads whenever it is asked to, or a file has changed, until `end`.
    pub async fn run(mut self, asked: Arc<Notify>, end: CancellationToken) {
        let mut seen = self.current.files().clone();
        loop {
            let cause = tokio::select! {
                biased;
                () = end.cancelled() => return,
                () = asked.notified() => "asked",
                () = changed(&seen) => "files changed",
            };
            systemd::reloading();
            seen = self.reload(seen, cause).await;
            systemd::ready();
        }
    }

    /// Loads again and puts the secrets in force; gives back the files as they were then.
    async fn reload(&mut self, seen: Files, cause: &'static str) -> Files {
        let old = Arc::clone(&self.current);
        let looked = seen.clone();
        let load = tokio::task::spawn_blocking(move || (looked.again(), old.reload()));
        let files = match load.await {
            Ok((_, Ok(config))) => {
                let files = config.files().clone();
                let slugs = self.take(config, cause);
                self.metrics.config_reload(if slugs == SlugsNow::Bad { "failed" } else { "ok" });
                return files;
            }
            Ok((files, Err(problems))) => {
                say(&problems, cause);
                files
            }
            // A bug, which the panic has described.
            Err(error) => {
                tracing::error!(cause, %error, "reload failed: the secrets stay as they were");
                seen
            }
        };
        self.metrics.config_reload("failed");
        files
    }

    /// Puts in force what may change while the bridge serves.
    fn take(&mut self, new: Config, cause: &'static str) -> SlugsNow {
        let is_secret = |key: &String| self.secret_of(key).is_some();
        let secrets: Vec<_> = self.current.changed(&new).into_iter().filter(is_secret).collect();
        let others: Vec<_> = self.started.changed(&new).into_iter().filter(|key| !is_secret(key)).collect();
        let sources: BTreeSet<_> = secrets.iter().filter_map(|key| self.secret_of(key)).collect();
        for source in new.sources.iter().filter(|source| sources.contains(&source.name)) {
            for secret in &source.verify.secrets {
                self.metrics.secret(source.name.as_str(), &secret.label);
            }
            self.pipeline.set_secrets(&source.name, &source.verify.secrets);
        }
        for warning in &new.warnings {
            tracing::warn!("{warning}");
        }
        let slugs = self.take_slugs(&new, cause);
        if slugs == SlugsNow::Same || !secrets.is_empty() {
            tracing::info!(cause, changed = secrets.join(", "), "secrets reloaded");
        }
        if !others.is_empty() {
            tracing::warn!(keys = others.join(", "), "changed, and needs a restart");
        }
        self.current = Arc::new(new);
        slugs
    }

    /// Puts a new map in force; one that is not good leaves the old one there.
    fn take_slugs(&self, new: &Config, cause: &'static str) -> SlugsNow {
        if new.slugs_file.is_none() || new.slugs_file != self.started.slugs_file {
            return SlugsNow::Same;
        }
        match &new.slugs {
            None => {
                tracing::error!(cause, "reload failed: the slugs stay as they were");
                SlugsNow::Bad
            }
            slugs if *slugs == self.current.slugs => SlugsNow::Same,
            Some(slugs) => {
                self.pipeline.set_slugs(slugs);
                let (objects, lists) = (slugs.objects.len(), slugs.lists.len());
                tracing::info!(cause, objects, lists, "slugs reloaded");
                SlugsNow::New
            }
        }
    }

    /// The running source that a key is a secret of.
    fn secret_of(&self, key: &str) -> Option<&SourceName> {
        let mut words = key.strip_prefix("sources.")?.splitn(3, '.');
        let (name, member, _label) = (words.next()?, words.next()?, words.next()?);
        if member == "secrets" { self.pipeline.source(name) } else { None }
    }
}

/// Ends when the files are no longer as they were seen, and have come to rest.
async fn changed(seen: &Files) {
    let mut last = seen.clone();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let files = last.clone();
        // A look that panicked saw nothing.
        let Ok(now) = tokio::task::spawn_blocking(move || files.again()).await else { continue };
        if now != *seen && now == last {
            return;
        }
        last = now;
    }
}

fn say(problems: &Problems, cause: &'static str) {
    for problem in &problems.problems {
        tracing::error!(cause, %problem, "reload failed: the secrets stay as they were");
    }
}
