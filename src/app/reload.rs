//! Reloads secrets, slugs and logins while the bridge serves: on SIGHUP, and when a file has changed.
//!
//! Files are polled. That works alike for plain files, for the symbolic links that Kubernetes swaps, for
//! systemd's credentials and on network file systems. An invalid configuration changes nothing, and the
//! reload is retried until it succeeds. Everything but the secrets of sources, the slugs and the login at the broker
//! needs a restart.
//! An invalid slugs file keeps the old slugs; the secrets are reloaded all the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::systemd::Notifier;
use crate::bus::{self, Renew};
use crate::config::{Config, Files};
use crate::delivery::SourceName;
use crate::metrics::Metrics;
use crate::pipeline::Pipeline;

/// How often files are polled. A change counts once it has lasted from one poll to the next, so that no
/// secret is read half written.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Delay before a failed reload is retried; doubles up to [`MAX_RETRY_DELAY`].
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);

/// How long file access may take. Opening a FIFO, or a file on a network file system that is gone, can block
/// for ever.
const FILE_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps the secrets and slugs of a running bridge up to date.
pub struct Reloader {
    /// What the bridge was started with. Everything in it but secrets and slugs stays in force.
    started: Arc<Config>,
    /// What was loaded last. Its secrets are in force.
    current: Arc<Config>,
    pipeline: Arc<Pipeline>,
    metrics: Arc<Metrics>,
    systemd: Notifier,
    files: FileAccess,
    /// Gives the bus its login.
    renewal: Option<Renew>,
}

impl Reloader {
    pub fn new(config: Config, pipeline: Arc<Pipeline>, metrics: Arc<Metrics>, systemd: Notifier) -> Self {
        let started = Arc::new(config);
        let files = FileAccess::default();
        Self { current: Arc::clone(&started), started, pipeline, metrics, systemd, files, renewal: None }
    }

    /// The same, which also renews the login of the bus.
    pub fn renewing(self, renewal: Option<Renew>) -> Self {
        Self { renewal, ..self }
    }

    /// Reloads on request, when a file has changed, and after a failure until a reload succeeds. Ends with
    /// `stop`, also in the middle of a reload.
    pub async fn run(mut self, requested: Arc<Notify>, stop: CancellationToken) {
        let mut seen = self.current.files().clone();
        let mut retry_delay = None;
        loop {
            let cause = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = requested.notified() => "requested",
                () = self.files.changed(&seen) => "files changed",
                () = self.files.settled(&seen, retry_delay) => "retry",
            };
            self.systemd.reloading();
            let reloaded = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                reloaded = self.reload(&mut seen, cause) => reloaded,
            };
            self.metrics.config_reload(if reloaded { "ok" } else { "failed" });
            self.systemd.ready();
            retry_delay = match retry_delay {
                _ if reloaded => None,
                Some(delay) if cause == "retry" => Some(MAX_RETRY_DELAY.min(2 * delay)),
                _ => Some(FIRST_RETRY_DELAY),
            };
        }
    }

    /// Loads the configuration and applies it; whether all of it was valid. `seen` becomes the state of the
    /// files just before they were read.
    async fn reload(&mut self, seen: &mut Files, cause: &'static str) -> bool {
        let old = Arc::clone(&self.current);
        let watched = seen.clone();
        match self.files.access(move || (watched.again(), old.reload())).await {
            Ok((_, Ok(config))) => {
                *seen = config.files().clone();
                self.apply(config, cause)
            }
            Ok((files, Err(problems))) => {
                *seen = files;
                for problem in &problems.problems {
                    tracing::error!(cause, %problem, "reload failed: the secrets stay as they were");
                }
                false
            }
            Err(error) => {
                tracing::error!(cause, %error, "reload failed: the secrets stay as they were");
                let watched = seen.clone();
                // Else the same change would count as a new one, and reset the delay before the next retry.
                if error == FileAccessError::Panicked
                    && let Ok(files) = self.files.access(move || watched.again()).await
                {
                    *seen = files;
                }
                false
            }
        }
    }

    /// Applies what may change while the bridge serves; whether the slugs are valid.
    fn apply(&mut self, new: Config, cause: &'static str) -> bool {
        let is_secret = |key: &String| self.secret_of(key).is_some();
        let secrets: Vec<_> = self.current.changed(&new).into_iter().filter(is_secret).collect();
        let is_renewable = |key: &String| self.renewal.is_some() && bus::is_renewable(key);
        let others = self.started.changed(&new).into_iter();
        let others: Vec<_> = others.filter(|key| !is_secret(key) && !is_renewable(key)).collect();
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
        // The bus compares: a file may have another content under the same name.
        self.renewal.iter().for_each(|renew| renew(&new.bus.kind));
        let slugs = self.apply_slugs(&new, cause);
        if slugs.is_none() || !secrets.is_empty() {
            let changed = (!secrets.is_empty()).then(|| secrets.join(", "));
            tracing::info!(cause, changed, "secrets reloaded");
        }
        if !others.is_empty() {
            tracing::warn!(keys = others.join(", "), "changed, and needs a restart");
        }
        self.current = Arc::new(new);
        slugs != Some(false)
    }

    /// Replaces the slugs if there are new ones and they are valid; none if they are as they were.
    fn apply_slugs(&self, new: &Config, cause: &'static str) -> Option<bool> {
        if new.slugs_file.is_none() || new.slugs_file != self.started.slugs_file {
            return None;
        }
        let Some(slugs) = &new.slugs else {
            tracing::error!(cause, "reload failed: the slugs stay as they were");
            return Some(false);
        };
        if self.current.slugs.as_ref() == Some(slugs) {
            return None;
        }
        self.pipeline.set_slugs(slugs);
        let (objects, lists) = (slugs.objects.len(), slugs.lists.len());
        tracing::info!(cause, objects, lists, "slugs reloaded");
        Some(true)
    }

    /// The running source that a key is a secret of.
    fn secret_of(&self, key: &str) -> Option<&SourceName> {
        let mut words = key.strip_prefix("sources.")?.splitn(3, '.');
        let (name, member, _label) = (words.next()?, words.next()?, words.next()?);
        if member == "secrets" { self.pipeline.source(name) } else { None }
    }
}

/// Why file access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum FileAccessError {
    #[error("a file could not be read within {} s", FILE_TIMEOUT.as_secs())]
    Timeout,
    /// A bug, which the log describes.
    #[error("reading the files panicked")]
    Panicked,
}

/// Accesses files on a blocking thread, one access at a time, so that an access that hangs holds one thread
/// and no more.
#[derive(Clone, Default)]
struct FileAccess(Arc<Mutex<()>>);

impl FileAccess {
    async fn access<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, FileAccessError> {
        let access = async {
            let turn = Arc::clone(&self.0).lock_owned().await;
            let blocking = move || {
                let done = work();
                drop(turn);
                done
            };
            tokio::task::spawn_blocking(blocking).await.map_err(|_| FileAccessError::Panicked)
        };
        tokio::time::timeout(FILE_TIMEOUT, access).await.unwrap_or(Err(FileAccessError::Timeout))
    }

    /// Waits for a delay, and then until the files have stopped changing or cannot be accessed; for ever where
    /// there is no delay.
    async fn settled(&self, files: &Files, delay: Option<Duration>) {
        let Some(delay) = delay else { return std::future::pending().await };
        tokio::time::sleep(delay).await;
        let mut last = None;
        loop {
            let files = files.clone();
            let Ok(now) = self.access(move || files.again()).await else { return };
            if last.as_ref() == Some(&now) {
                return;
            }
            last = Some(now);
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until the files are no longer as they were seen, and have stopped changing.
    async fn changed(&self, seen: &Files) {
        let mut last = seen.clone();
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let files = last.clone();
            let Ok(now) = self.access(move || files.again()).await else { continue };
            if now != *seen && now == last {
                return;
            }
            last = now;
        }
    }
}
