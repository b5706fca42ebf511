//! A new login for a running bus: a client tries it beside the one in use, and takes over once it is connected. Until
//! then, and if it never works, the former connection stays.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::config::ClientConfig;
use rdkafka::producer::Producer as _;
use secrecy::ExposeSecret;

use super::callbacks::Callbacks;
use super::errors::{advise, without_suffix};
use super::options::{self, Options};
use super::producer::Producer;
use super::topics;
use crate::bus::error::StartError;
use crate::bus::inspect::Requirements;
use crate::files::Files;

/// One request of a client that is tried; the monitor does nothing else meanwhile.
const PROBE: Duration = Duration::from_millis(100);
/// How long one client is tried.
const TRIAL: Duration = Duration::from_secs(10);
/// Between two of them.
const PAUSE: Duration = Duration::from_secs(5);

/// The configuration that a bus is to log in with, where it is another one than that in use.
#[derive(Clone, Default)]
pub(super) struct Wanted(Arc<Mutex<Option<ClientConfig>>>);

impl Wanted {
    pub(super) fn set(&self, config: ClientConfig) {
        *self.0.lock() = Some(config);
    }

    pub(super) fn take(&self) -> Option<ClientConfig> {
        self.0.lock().take()
    }
}

/// What a bus logs in with.
pub(super) struct Login {
    options: Options,
    requirements: Requirements,
    /// What librdkafka reads when a client is created.
    files: Files,
}

impl Login {
    pub(super) fn new(options: Options, requirements: Requirements) -> Self {
        let files = files(&options);
        Self { options, requirements, files }
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// Takes over the login of other options. The configuration of a client that uses it, if it needs another client.
    pub(super) fn renew(&mut self, other: &Options) -> Result<Option<ClientConfig>, StartError> {
        let files = files(other);
        let options = Options {
            sasl_username: other.sasl_username.clone(),
            sasl_password: other.sasl_password.clone(),
            ca_file: other.ca_file.clone(),
            cert_file: other.cert_file.clone(),
            key_file: other.key_file.clone(),
            oauth: other.oauth.clone(),
            ..self.options.clone()
        };
        let renewed = Self { options, requirements: self.requirements.clone(), files };
        let config = options::producer_config(&renewed.options, &renewed.requirements)?;
        let is_same =
            credentials(&renewed.options) == credentials(&self.options) && renewed.files == self.files;
        *self = renewed;
        Ok((!is_same).then_some(config))
    }
}

/// What a client is created with, other than the files.
fn credentials(options: &Options) -> (Option<&str>, Option<&str>) {
    (options.sasl_username.as_deref(), options.sasl_password.as_ref().map(ExposeSecret::expose_secret))
}

fn files(options: &Options) -> Files {
    let mut files = Files::default();
    let named = [&options.ca_file, &options.cert_file, &options.key_file];
    named.into_iter().flatten().for_each(|path| files.add(path));
    files
}

/// A client that tries a configuration.
pub(super) struct Trial {
    pub config: ClientConfig,
    pub producer: Arc<Producer>,
    began: Instant,
}

/// The trials of a configuration, one after the other until one succeeds.
#[derive(Default)]
pub(super) struct Trials {
    wanted: Option<ClientConfig>,
    trial: Option<Trial>,
    next: Option<Instant>,
}

impl Trials {
    /// Begins with a configuration; what was tried before is given up.
    pub(super) fn begin(&mut self, config: ClientConfig) {
        tracing::info!("kafka: the login has changed: connecting with the new one");
        self.end();
        *self = Self { wanted: Some(config), trial: None, next: None };
    }

    pub(super) fn are_due(&self) -> bool {
        self.wanted.is_some()
    }

    /// The configuration, whether it works or not: there is no connection to keep.
    pub(super) fn give_in(&mut self) -> Option<ClientConfig> {
        self.end();
        self.wanted.take()
    }

    /// One step; the client that is to take over, if it is connected. `successor` makes the callbacks of a client.
    pub(super) fn step(
        &mut self,
        successor: impl FnOnce() -> Callbacks,
        addresses: &[Arc<str>],
    ) -> Option<Trial> {
        let config = self.wanted.as_ref()?;
        if self.next.is_some_and(|at| Instant::now() < at) {
            return None;
        }
        let Some(trial) = &self.trial else {
            match Producer::new(config, successor()) {
                Ok(producer) => {
                    let (config, producer) = (config.clone(), Arc::new(producer));
                    self.trial = Some(Trial { config, producer, began: Instant::now() });
                }
                Err(error) => self.failed(&error.to_string()),
            }
            return None;
        };
        if trial.producer.confirm(PROBE).unwrap_or(false) {
            let context = trial.producer.get().context();
            // What it publishes will be stored behind these ends.
            context.set_baseline(topics::end_offsets(trial.producer.get().client(), addresses).0);
            self.wanted = None;
            return self.trial.take();
        }
        if trial.began.elapsed() > TRIAL {
            let context = trial.producer.get().context();
            let text = context.last_error.lock().clone().unwrap_or_else(|| "no broker has answered".into());
            let reason = advise(without_suffix(&text), &context.health.bootstrap).1;
            self.end();
            self.failed(&reason);
        }
        None
    }

    fn failed(&mut self, reason: &str) {
        tracing::error!(
            reason,
            "kafka: the new login does not work; the former connection stays, trying again"
        );
        self.next = Some(Instant::now() + PAUSE);
    }

    pub(super) fn end(&mut self) {
        if let Some(trial) = self.trial.take() {
            trial.producer.retire();
        }
    }
}
