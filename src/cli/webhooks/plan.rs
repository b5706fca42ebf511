//! `webhooks plan` and `apply`.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IsTerminal};

use clap::Args;
use serde_json::{Value as Json, json};

use super::manage::finish;
use super::secret_output::{self, Fallback, SecretOutput};
use super::{Exit, Failure, Session, confirm, print, say};
use crate::attio::filter::{Resolver, keys};
use crate::attio::plan::{Change, Plan, Step, Wanted};
use crate::attio::{Webhook, WebhookOptions};
use crate::cli::output::{no_color, say_styled};
use crate::paint::Paint;

#[derive(Args)]
#[command(after_help = "\
Example: has anybody changed the webhooks by hand?
  attio-bridge webhooks plan --check --config bridge.toml \\
    || echo \"exit $?: 3 means yes\"")]
pub struct PlanArguments {
    /// Exit 3 if anything differs from the configuration
    #[arg(long)]
    check: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example: in a pipeline, without a terminal
  attio-bridge webhooks apply --yes --config bridge.toml")]
pub struct ApplyArguments {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Overwrite an existing secret_file of a webhook that is created
    #[arg(long)]
    overwrite_secret: bool,
    /// Print the secrets of webhooks without secret_file even if standard output is not a terminal
    #[arg(long)]
    show_secrets: bool,
    /// Print what was done as a JSON object without secrets; the plan goes to stderr
    #[arg(long, conflicts_with = "show_secrets")]
    json: bool,
}

/// A plan, and the slugs of the ids in its filters.
struct Made {
    plan: Plan,
    slugs: HashMap<String, String>,
}

impl Made {
    fn text(&self, terminal: bool) -> String {
        self.plan.to_text(&self.slugs, Paint(terminal && !no_color()))
    }
}

pub async fn plan(session: &Session, arguments: &PlanArguments) -> Result<Exit, Failure> {
    let made = make(session).await?;
    match arguments.json {
        true => print(format_args!("{:#}\n", made.plan.to_json())),
        false => print(made.text(io::stdout().is_terminal())),
    }
    Ok(if arguments.check && !made.plan.is_clean() { Exit::Unexpected } else { Exit::Done })
}

/// Compares the configuration with Attio.
async fn make(session: &Session) -> Result<Made, Failure> {
    if session.config.webhooks.is_empty() {
        say("warning: the configuration has no [[webhooks]], so there is nothing to compare; \
             `attio-bridge webhooks import` prints the existing ones as such tables");
    }
    let mut resolver = Resolver::new(&session.client);
    let mut wanted = Vec::new();
    for options in &session.config.webhooks {
        wanted.push(Wanted::resolve(options, &mut resolver).await?);
    }
    let plan = Plan::between(wanted, session.client.webhooks().await?, &BTreeMap::new());
    for Step { wanted, change } in &plan.steps {
        let WebhookOptions { name, source, secret_file: Some(path), .. } = &wanted.options else { continue };
        let file = path.display();
        if let Some(webhook) = change.webhook()
            && !path.exists()
        {
            say(format_args!(
                "warning: {name}: webhook {} exists, but its secret_file {file} does not: if its secret is lost, \
                 delete the webhook and apply",
                webhook.webhook_id(),
            ));
        }
        if !session.config.is_secret_of(source, path) {
            say(format_args!(
                "warning: {name}: its secret_file {file} is no secret of source {source}, so the bridge would answer \
                 401 to every delivery: add {{ label = \"{name}\", file = \"{file}\" }} to sources.{source}.secrets"
            ));
        }
    }
    Ok(Made { plan, slugs: resolver.slugs() })
}

pub async fn apply(session: &Session, arguments: &ApplyArguments) -> Result<Exit, Failure> {
    let made = make(session).await?;
    match arguments.json {
        true => say_styled(made.text(io::stderr().is_terminal()).trim_end()),
        false => print(made.text(io::stdout().is_terminal())),
    }
    let plan = made.plan;
    if plan.steps.iter().any(|step| matches!(step.change, Change::Ambiguous(_))) {
        let message = "several webhooks share a target_url, see ! above; nothing was changed";
        return Err(Failure::Failed(message.into()));
    }
    let is_rotating = |step: &&Step| matches!(step.change, Change::Create) && plan.is_rotating(step);
    if let Some(Step { wanted, .. }) = plan.steps.iter().find(is_rotating) {
        return Err(Failure::Failed(format!(
            "{0} is being rotated: continue with `webhooks rotate {0}`; nothing was changed",
            wanted.options.name
        )));
    }
    // Every output is checked before the first webhook is created.
    let mut steps = Vec::new();
    for step in &plan.steps {
        steps.push((step, output(step, arguments)?));
    }
    let mut done = Vec::new();
    let mut result = Ok(());
    if !plan.is_clean() {
        if !confirm("Apply these changes?", arguments.yes)? {
            return Ok(Exit::Failed);
        }
        result = perform_all(session, steps, Fallback::for_output(arguments.json), &mut done).await;
    }
    finish(arguments.json, to_json(&plan, &done), result)
}

/// Where the secret goes, if the step creates a webhook.
fn output(step: &Step, arguments: &ApplyArguments) -> Result<Option<SecretOutput>, Failure> {
    let options = &step.wanted.options;
    let may_print = arguments.show_secrets || (!arguments.json && io::stdout().is_terminal());
    match (&step.change, &options.secret_file) {
        (Change::Create, Some(path)) => SecretOutput::file(path, arguments.overwrite_secret).map(Some),
        (Change::Create, None) if may_print => {
            Ok(Some(SecretOutput::Text(format!("secret of {}: ", options.name))))
        }
        (Change::Create, None) => Err(Failure::Usage(format!(
            "webhook {:?} has no secret_file, and standard output is not a terminal: set secret_file, or use \
             --show-secrets (without --json)",
            options.name
        ))),
        _ => Ok(None),
    }
}

/// Performs the steps in order and collects the ids of their webhooks.
async fn perform_all(
    session: &Session,
    steps: Vec<(&Step, Option<SecretOutput>)>,
    fallback: Fallback,
    done: &mut Vec<String>,
) -> Result<(), Failure> {
    let interrupted = secret_output::delay_interrupt(&session.log)?;
    for (step, output) in steps {
        if interrupted.is_cancelled() {
            return Err(Failure::Failed("interrupted; run `webhooks apply` again to continue".into()));
        }
        done.push(perform(session, step, output, fallback).await?);
    }
    Ok(())
}

/// Performs a step; returns the id of its webhook.
async fn perform(
    session: &Session,
    step: &Step,
    output: Option<SecretOutput>,
    fallback: Fallback,
) -> Result<String, Failure> {
    let (options, subscriptions) = (&step.wanted.options, &step.wanted.subscriptions);
    let (client, name) = (&session.client, &options.name);
    match (&step.change, output) {
        (Change::Create, Some(output)) => {
            let url = &options.target_url;
            let created = secret_output::create(client, url, subscriptions, output, fallback).await?;
            let shown = created.webhook.shown_id();
            let output = options.secret_file.as_ref().map(|path| format!("in {}", path.display()));
            let output = output.unwrap_or_else(|| "on standard output".into());
            say(format_args!("{name}: created webhook {shown}, its secret is {output}"));
            Ok(created.webhook.id.webhook_id)
        }
        (Change::Update { webhook, .. }, _) => {
            let id = &webhook.id.webhook_id;
            // The list replaces what is there: nothing that the plan did not show may be lost.
            if keys(&client.webhook(id).await?.subscriptions) != keys(&webhook.subscriptions) {
                return Err(Failure::Failed(format!(
                    "{name}: somebody else has just changed webhook {id}: run `webhooks plan` again"
                )));
            }
            client.update_webhook(id, None, Some(subscriptions)).await?;
            say(format_args!("{name}: changed webhook {id}"));
            Ok(id.clone())
        }
        (Change::Keep(webhook), _) => Ok(webhook.id.webhook_id.clone()),
        (Change::Create | Change::Ambiguous(_), _) => {
            Err(Failure::Failed(format!("{name}: this step cannot be performed")))
        }
    }
}

/// Each step and whether it is done; one without a change is done from the start.
fn to_json(plan: &Plan, done: &[String]) -> Json {
    let change = |(at, Step { wanted, change }): (usize, &Step)| {
        let id = change.webhook().map(Webhook::webhook_id).or(done.get(at).map(String::as_str));
        json!({
            "name": wanted.options.name,
            "target_url": wanted.options.target_url,
            "action": change.action(),
            "done": matches!(change, Change::Keep(_)) || at < done.len(),
            "webhook_id": id,
            "secret_file": wanted.options.secret_file,
        })
    };
    let changes: Vec<Json> = plan.steps.iter().enumerate().map(change).collect();
    json!({ "changes": changes })
}
