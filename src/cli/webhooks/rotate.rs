//! `webhooks rotate`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::manage::finish;
use super::{Exit, Failure, Session, say};
use crate::attio::bridge::Bridge;
use crate::attio::rotate::{Action, Rotation, SecretPaths, Step};
use crate::attio::{Webhook, WebhookOptions};
use crate::cli::output::{Waiting, wait_until};
use crate::config::SecretFile;

/// Consecutive deliveries that the bridge must accept, each on its own connection, because replicas
/// reload one by one.
const IN_A_ROW: u32 = 5;

/// The label of the previous secret, needed if a source has more than two.
const PREVIOUS: &str = "previous";

#[derive(Args)]
#[command(after_help = "\
The source needs two secrets with files; the webhook's secret_file is the first one's. At the start the \
second file may have the same contents; it is overwritten, so it must not be another webhook's:
  secrets = [
    { label = \"current\", file = \"attio.secret\" },
    { label = \"previous\", file = \"attio.previous\" },
  ]
After an interruption the same command resumes.
Example:
  attio-bridge webhooks rotate production --config bridge.toml \\
    --metrics http://127.0.0.1:8081/metrics")]
pub struct Arguments {
    /// The webhook's name in the configuration, or its id
    #[arg(value_name = "NAME|ID")]
    webhook: String,
    /// What to wait for before the old webhook is deleted
    #[arg(long, value_enum, default_value = "traffic")]
    wait: Wait,
    /// /metrics of the bridge; repeat it for each replica
    #[arg(long, value_name = "URL")]
    metrics: Vec<String>,
    /// Where to check whether the bridge accepts the new secret, instead of the webhook's target URL
    #[arg(long, value_name = "URL")]
    probe_url: Option<String>,
    /// Time limit of each step
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How long deliveries signed with the old secret may be in flight, and a reload may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Print the steps and the result as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// A delivery verified with the new secret, by the bridge's metrics
    Traffic,
    /// Only --grace: Attio retries deliveries refused meanwhile
    None,
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    if arguments.wait == Wait::Traffic && arguments.metrics.is_empty() {
        return Err(Failure::usage("give the bridge's --metrics, or use --wait none"));
    }
    let (secret, rotation) = resume_or_begin(session, arguments).await?;
    let conditions = Conditions { bridge: Bridge::new()?, arguments, secret, rotation: &rotation };
    let mut performed = Vec::new();
    let done = perform_all(session, &conditions, &mut performed).await;
    let journal = rotation.journal();
    let is_new = |step: &&Step| matches!(step.action, Action::Enable | Action::Rename | Action::Finish);
    // What was done, and the webhook that exists at the end.
    let result = json!({
        "rotated": performed.last().is_some_and(|step| step.action == Action::Finish),
        "target_url": journal.target_url,
        "old_webhook_id": journal.webhook_id,
        "webhook_id": performed.iter().rfind(is_new).map(|step| &step.webhook_id),
        "secret_file": secret.path,
        "steps": performed,
    });
    finish(arguments.json, result, done)
}

/// Performs the remaining steps, each after its condition holds.
async fn perform_all(
    session: &Session,
    conditions: &Conditions<'_>,
    performed: &mut Vec<Step>,
) -> Result<(), Failure> {
    let interrupted = session.delay_interrupt()?;
    let Conditions { rotation, secret, .. } = conditions;
    let mut verified = None;
    loop {
        let step = rotation.next().await?;
        if interrupted.is_cancelled() {
            return Err("interrupted; the same command resumes".into());
        }
        match step.action {
            Action::Enable => verified = conditions.accepted().await?,
            Action::Delete => conditions.verified_more_than(verified.take()).await?,
            Action::Finish => {
                conditions.grace("for deliveries signed with the old secret (--grace)").await;
            }
            Action::Create | Action::Discard | Action::Rename => {}
        }
        rotation.perform(&step).await?;
        let id = step.webhook_id.as_deref().unwrap_or_default();
        say(match step.action {
            Action::Create => format!("created the successor, its secret is in {}", secret.path.display()),
            Action::Discard => format!("deleted webhook {id}, whose secret was not stored"),
            Action::Enable => format!("webhook {id} sends"),
            Action::Delete => format!("deleted the old webhook {id}"),
            Action::Rename => format!("webhook {id} has the target URL"),
            Action::Finish => "rotated; the old secret is no longer accepted".into(),
        });
        let finished = step.action == Action::Finish;
        performed.push(step);
        if finished {
            return Ok(());
        }
    }
}

async fn resume_or_begin<'s>(
    session: &'s Session,
    arguments: &Arguments,
) -> Result<(&'s SecretFile, Rotation<'s>), Failure> {
    let (client, wanted, configured) = (&session.client, &arguments.webhook, &session.config.webhooks);
    let existing = client.webhooks().await?;
    let by_id = existing.iter().find(|webhook| webhook.id.webhook_id == *wanted);
    let is_wanted = |options: &&WebhookOptions| {
        options.name == *wanted || by_id.is_some_and(|webhook| webhook.is_at(&options.target_url))
    };
    let options = configured.iter().find(is_wanted).ok_or_else(|| {
        let names: Vec<_> = configured.iter().map(|webhook| webhook.name.as_str()).collect();
        let known = match &names[..] {
            [] => "there are none: `attio-bridge webhooks import` prints those of the workspace".into(),
            names => format!("there are: {}", names.join(", ")),
        };
        format!("no [[webhooks]] of the configuration has the name or URL of {wanted:?}; {known}")
    })?;
    let (paths, secret) = secret_paths(options, configured, &session.config.secret_files)?;
    if let Some(rotation) = Rotation::resume(client, &paths)? {
        say(format_args!("resuming the rotation of webhook {}", rotation.journal().webhook_id));
        return Ok((secret, rotation));
    }
    let mut at = existing.iter().filter(|webhook| webhook.is_at(&options.target_url));
    let (Some(webhook), None) = (at.next(), at.next()) else {
        let url = &options.target_url;
        return Err(format!("there must be exactly one webhook at {url}: see `webhooks plan`").into());
    };
    // As configured, however Attio spells it.
    let webhook = Webhook { target_url: options.target_url.clone(), ..webhook.clone() };
    Ok((secret, Rotation::begin(client, &paths, &webhook)?))
}

/// The two files, and the source's entry for the first. The second is overwritten: it must be no other
/// webhook's, and either the only such file or labelled [`PREVIOUS`].
fn secret_paths<'s>(
    options: &WebhookOptions,
    webhooks: &[WebhookOptions],
    all: &'s [SecretFile],
) -> Result<(SecretPaths, &'s SecretFile), Failure> {
    let own = || all.iter().filter(|secret| secret.source == options.source);
    let is_of = |secret: &SecretFile, webhook: &WebhookOptions| {
        webhook.secret_file.as_deref().is_some_and(|path| secret.is(&secret.source, path))
    };
    let current = own().find(|secret| is_of(secret, options));
    let free: Vec<&SecretFile> =
        own().filter(|secret| !webhooks.iter().any(|webhook| is_of(secret, webhook))).collect();
    let previous = match free[..] {
        [one] => Some(one),
        _ => free.into_iter().find(|secret| secret.label == PREVIOUS),
    };
    let (Some(current), Some(previous)) = (current, previous) else {
        return Err(format!(
            "sources.{}.secrets needs two entries with `file`, so that both the old and the new secret are \
             accepted: the secret_file of webhook {:?}, and one that is no other webhook's (if there are several, \
             label it {PREVIOUS:?}): see --help",
            options.source, options.name
        )
        .into());
    };
    let paths = SecretPaths { current: current.path.clone(), previous: previous.path.clone() };
    Ok((paths, current))
}

struct Conditions<'a> {
    bridge: Bridge,
    arguments: &'a Arguments,
    secret: &'a SecretFile,
    rotation: &'a Rotation<'a>,
}

impl Conditions<'_> {
    /// Waits until the bridge accepts the new secret; returns how many signatures it has verified with it.
    async fn accepted(&self) -> Result<Option<f64>, Failure> {
        if self.arguments.wait == Wait::None {
            self.grace("for the bridge to load the new secret (--grace)").await;
            return Ok(None);
        }
        let url = self.arguments.probe_url.as_ref().unwrap_or(&self.rotation.journal().target_url);
        let secret = self.rotation.secret()?;
        let mut in_a_row = 0;
        self.wait("the bridge accepts the new secret", async || {
            let accepted = self.bridge.accepts(url, &secret).await;
            in_a_row = if accepted == Ok(true) { in_a_row + 1 } else { 0 };
            accepted.map(|_| in_a_row >= IN_A_ROW)
        })
        .await?;
        let mut verified = 0.0;
        self.wait("the bridge's metrics can be read", async || {
            verified = self.count_verified().await?;
            Ok(true)
        })
        .await?;
        Ok(Some(verified))
    }

    /// Waits until the bridge has verified more signatures with the new secret than before.
    async fn verified_more_than(&self, before: Option<f64>) -> Result<(), Failure> {
        if self.arguments.wait == Wait::None {
            self.grace("for deliveries of the new webhook (--grace)").await;
            return Ok(());
        }
        let mut before = before;
        self.wait("a delivery is verified with the new secret", async || {
            let now = self.count_verified().await?;
            // The counter of a restarted bridge begins at 0.
            let least = before.map_or(now, |before| before.min(now));
            before = Some(least);
            Ok(now > least)
        })
        .await
    }

    async fn count_verified(&self) -> Result<f64, String> {
        let SecretFile { source, label, .. } = self.secret;
        let labels = [("source", &**source), ("secret", &**label), ("result", "ok")];
        let mut sum = 0.0;
        for url in &self.arguments.metrics {
            let samples = self.bridge.metrics(url).await?;
            let missing = || format!("{url} has no secret {label:?} of source {source:?}");
            sum += samples.sum("signature_verifications_total", &labels).ok_or_else(missing)?;
        }
        Ok(sum)
    }

    async fn wait(
        &self,
        what: &str,
        holds: impl AsyncFnMut() -> Result<bool, String>,
    ) -> Result<(), Failure> {
        let held = wait_until(what, self.arguments.timeout, holds).await;
        Ok(held.map_err(|error| {
            format!(
                "{error}; nothing is lost: the same command resumes, and with --wait none it does not wait"
            )
        })?)
    }

    async fn grace(&self, what: &str) {
        let _waiting = Waiting::new(what);
        tokio::time::sleep(self.arguments.grace).await;
    }
}
