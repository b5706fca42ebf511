//! `webhooks rotate`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::{Exit, Failure, Session, keep, say, show};
use crate::attio::WebhookOptions;
use crate::attio::bridge::Bridge;
use crate::attio::rotate::{Places, Rotation, Step};
use crate::config::SecretFile;

/// How often the bridge is asked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// So many deliveries in a row the bridge must take, each on a connection of its own: replicas reload one
/// by one.
const IN_A_ROW: u32 = 5;

/// The label of the secret before, where a source has more than two.
const PREVIOUS: &str = "previous";

/// What an operator types.
const AFTER_HELP: &str = "\
The source needs two secrets with files; the webhook's secret_file is that of the first. At the start the
second may hold the same as the first; it is written over, so it must not be another webhook's:
  secrets = [{ label = \"current\", file = \"attio.secret\" }, { label = \"previous\", file = \"attio.previous\" }]
Interrupted at any point, the same command goes on where it was.
Example:
  attio-bridge webhooks rotate production --metrics http://127.0.0.1:8081/metrics --config bridge.toml";

/// The flags of `webhooks rotate`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Its name in the configuration, or its id
    #[arg(value_name = "NAME|ID")]
    webhook: String,
    /// What to wait for before the old webhook is deleted
    #[arg(long, value_enum, default_value = "traffic")]
    wait: Wait,
    /// /metrics of the bridge; of each replica where there are several
    #[arg(long, value_name = "URL")]
    metrics: Vec<String>,
    /// Where to ask whether the bridge takes the new secret, instead of the webhook's target URL
    #[arg(long, value_name = "URL")]
    probe_url: Option<String>,
    /// How long to wait at each step before giving up for now
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// How long what was signed with the old secret may be on its way, and a reload may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Print the steps that were taken and how it ended as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// A delivery that the new secret verifies, as the bridge counts it
    Traffic,
    /// Nothing but --grace: what is refused meanwhile Attio sends again
    None,
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    if arguments.wait == Wait::Traffic && arguments.metrics.is_empty() {
        return Err(Failure::Usage("say with --metrics where the bridge counts, or say --wait none".into()));
    }
    let (places, label, rotation) = take_up(session, arguments).await?;
    let mut taken = Vec::new();
    let done = carry(session, arguments, &places, label, &rotation, &mut taken).await;
    show::outcome(arguments.json, to_json(&rotation, &places, &taken), done)
}

/// What was done, and the webhook that is there at the end.
fn to_json(rotation: &Rotation<'_>, places: &Places, taken: &[Step]) -> Json {
    let id = |step: &Step| step.webhook().map(|webhook| webhook.id.webhook_id.clone());
    let new = taken.iter().rfind(|step| matches!(step, Step::Awaken(_) | Step::Rename(_) | Step::Forget(_)));
    let step = |step: &Step| json!({ "step": step.word(), "webhook_id": id(step) });
    json!({
        "rotated": matches!(taken.last(), Some(Step::Forget(_))),
        "target_url": rotation.journal().target_url,
        "old_webhook_id": rotation.journal().webhook_id,
        "webhook_id": new.and_then(id),
        "secret_file": places.current,
        "steps": taken.iter().map(step).collect::<Vec<_>>(),
    })
}

/// Takes step after step, and notes those that are taken.
async fn carry(
    session: &Session,
    arguments: &Arguments,
    places: &Places,
    label: &SecretFile,
    rotation: &Rotation<'_>,
    taken: &mut Vec<Step>,
) -> Result<(), Failure> {
    let told = keep::undisturbed(&session.log)?;
    let watch = Watch { bridge: Bridge::new()?, arguments, source: &label.source, label: &label.label };
    let mut before = None;
    loop {
        let step = rotation.next().await?;
        if told.is_cancelled() {
            return Err(Failure::Refused("stopped; the same command goes on where it was".into()));
        }
        let before_step = match &step {
            Step::Awaken(_) => watch.takes(rotation).await?,
            Step::Delete(_) => watch.traffic(before.take()).await?,
            Step::Forget(_) => {
                tokio::time::sleep(arguments.grace).await;
                None
            }
            Step::Create | Step::Discard(_) | Step::Rename(_) => None,
        };
        before = before_step.or(before);
        let over = matches!(step, Step::Forget(_));
        rotation.perform(&step).await?;
        say(describe(&step, places));
        taken.push(step);
        if over {
            return Ok(());
        }
    }
}

fn describe(step: &Step, places: &Places) -> String {
    match step {
        Step::Create => {
            format!("the successor is made, its secret is in {}", places.current.display())
        }
        Step::Discard(webhook) => {
            format!("deleted {}: its secret was lost on its way", webhook.id.webhook_id)
        }
        Step::Awaken(webhook) => format!("webhook {} sends", webhook.id.webhook_id),
        Step::Delete(webhook) => format!("deleted the old webhook {}", webhook.id.webhook_id),
        Step::Rename(webhook) => format!("webhook {} has the target URL now", webhook.id.webhook_id),
        Step::Forget(_) => "rotated; the old secret is no longer taken".into(),
    }
}

/// The rotation that is under way, or a new one.
async fn take_up<'s>(
    session: &'s Session,
    arguments: &Arguments,
) -> Result<(Places, &'s SecretFile, Rotation<'s>), Failure> {
    let (client, wanted) = (&session.client, &arguments.webhook);
    let existing = client.webhooks().await?;
    let by_id = existing.iter().find(|webhook| webhook.id.webhook_id == *wanted);
    let is_meant = |options: &&WebhookOptions| {
        options.name == *wanted || by_id.is_some_and(|webhook| webhook.target_url == options.target_url)
    };
    let options = session.config.webhooks.iter().find(is_meant).ok_or_else(|| {
        Failure::Refused(format!(
            "no [[webhooks]] of the configuration is called {wanted:?} or has its URL; {}",
            called(&session.config.webhooks)
        ))
    })?;
    let (places, label) = places(options, &session.config.webhooks, &session.config.secret_files)?;
    if let Some(rotation) = Rotation::resume(client, &places)? {
        say(format_args!("going on with the rotation of webhook {}", rotation.journal().webhook_id));
        return Ok((places, label, rotation));
    }
    let mut at = existing.iter().filter(|webhook| webhook.target_url == options.target_url);
    let (Some(webhook), None) = (at.next(), at.next()) else {
        let url = &options.target_url;
        return Err(Failure::Refused(format!(
            "there must be one webhook at {url}: look with `webhooks plan`"
        )));
    };
    let rotation = Rotation::begin(client, &places, webhook)?;
    Ok((places, label, rotation))
}

/// What could have been meant.
fn called(webhooks: &[WebhookOptions]) -> String {
    let names: Vec<_> = webhooks.iter().map(|webhook| webhook.name.as_str()).collect();
    match &names[..] {
        [] => "there is none: `attio-bridge webhooks import` prints those of the workspace".into(),
        names => format!("there is: {}", names.join(", ")),
    }
}

/// The files of the two secrets, and the label of the one that will be new. The second file is written
/// over: it must be no other webhook's, and be the only one there is, or be labelled so.
fn places<'s>(
    options: &WebhookOptions,
    webhooks: &[WebhookOptions],
    all: &'s [SecretFile],
) -> Result<(Places, &'s SecretFile), Failure> {
    let own = || all.iter().filter(|secret| secret.source == options.source);
    let is_of =
        |secret: &SecretFile, webhook: &WebhookOptions| Some(&secret.path) == webhook.secret_file.as_ref();
    let current = own().find(|secret| is_of(secret, options));
    let free: Vec<&SecretFile> =
        own().filter(|secret| !webhooks.iter().any(|webhook| is_of(secret, webhook))).collect();
    let previous = match free[..] {
        [one] => Some(one),
        _ => free.into_iter().find(|secret| secret.label == PREVIOUS),
    };
    let (Some(current), Some(previous)) = (current, previous) else {
        return Err(Failure::Refused(format!(
            "sources.{}.secrets needs two entries with `file`, so that the old secret and the new one are taken \
             side by side: the secret_file of webhook {:?}, and one that is no other webhook's (of several, the \
             one labelled {PREVIOUS:?}): see --help",
            options.source, options.name
        )));
    };
    let places = Places { current: current.path.clone(), previous: previous.path.clone() };
    Ok((places, current))
}

/// Looks at the bridge.
struct Watch<'a> {
    bridge: Bridge,
    arguments: &'a Arguments,
    source: &'a str,
    label: &'a str,
}

impl Watch<'_> {
    /// Waits until the bridge takes the new secret; then what it has counted under its label.
    async fn takes(&self, rotation: &Rotation<'_>) -> Result<Option<f64>, Failure> {
        if self.arguments.wait == Wait::None {
            tokio::time::sleep(self.arguments.grace).await;
            return Ok(None);
        }
        let url = self.arguments.probe_url.as_ref().unwrap_or(&rotation.journal().target_url);
        let secret = rotation.secret()?;
        let mut in_a_row = 0;
        self.until("the bridge takes the new secret", async || {
            let taken = self.bridge.accepts(url, &secret).await;
            in_a_row = if taken == Ok(true) { in_a_row + 1 } else { 0 };
            taken.map(|_| in_a_row >= IN_A_ROW)
        })
        .await?;
        let mut counted = 0.0;
        self.until("the bridge can be read", async || {
            counted = self.count().await?;
            Ok(true)
        })
        .await?;
        Ok(Some(counted))
    }

    /// Waits until more is counted under the label than before.
    async fn traffic(&self, before: Option<f64>) -> Result<Option<f64>, Failure> {
        if self.arguments.wait == Wait::None {
            tokio::time::sleep(self.arguments.grace).await;
            return Ok(None);
        }
        let mut before = before;
        self.until("a delivery is verified with the new secret", async || {
            let now = self.count().await?;
            // A bridge that was started anew counts from 0.
            let least = before.map_or(now, |before| before.min(now));
            before = Some(least);
            Ok(now > least)
        })
        .await?;
        Ok(None)
    }

    async fn count(&self) -> Result<f64, String> {
        let labels = [("source", self.source), ("secret", self.label), ("result", "ok")];
        let mut sum = 0.0;
        for url in &self.arguments.metrics {
            let samples = self.bridge.metrics(url).await?;
            let missing = || format!("{url} counts no secret {:?} of source {:?}", self.label, self.source);
            sum += samples.sum("signature_verifications_total", &labels).ok_or_else(missing)?;
        }
        Ok(sum)
    }

    async fn until(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<bool, String>,
    ) -> Result<(), Failure> {
        say(format_args!("waiting until {what}"));
        let begun = Instant::now();
        loop {
            let looked = look().await;
            if looked == Ok(true) {
                return Ok(());
            }
            if begun.elapsed() > self.arguments.timeout {
                let why = looked.err().map_or(String::new(), |error| format!(" ({error})"));
                return Err(Failure::Refused(format!(
                    "not within {}: {what}{why}; nothing is lost, the same command goes on here, and with \
                     --wait none it does not wait",
                    humantime::format_duration(self.arguments.timeout)
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
