//! `webhooks apply`.

use std::io::{self, IsTerminal};

use clap::Args;
use serde_json::{Value as Json, json};

use super::keep::{self, Keep, Told};
use super::{Exit, Failure, Session, confirm, plan, print, say, show};
use crate::attio::plan::{Change, Plan, Step};
use crate::attio::rotate::is_successor;

/// What an operator types.
const AFTER_HELP: &str = "\
Example: in a pipeline, where nobody can be asked
  attio-bridge webhooks apply --yes --config bridge.toml";

/// The flags of `webhooks apply`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Write over a secret_file that exists, where its webhook has to be made
    #[arg(long)]
    overwrite_secret: bool,
    /// Print the secrets of webhooks that have no secret_file, though nobody is at a terminal
    #[arg(long)]
    show_secrets: bool,
    /// Print what was done as a JSON object, which never has a secret; the plan goes to stderr
    #[arg(long, conflicts_with = "show_secrets")]
    json: bool,
}

impl Arguments {
    /// Whether secrets may go to standard output.
    fn shows(&self) -> bool {
        self.show_secrets || (!self.json && io::stdout().is_terminal())
    }
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let plan = plan::make(session).await?;
    match arguments.json {
        true => say(plan.to_string().trim_end()),
        false => print(&plan),
    }
    if plan.steps.iter().any(|step| matches!(step.change, Change::Ambiguous(_))) {
        let message = "webhooks that share a target_url with another are marked ! above; nothing was changed";
        return Err(Failure::Refused(message.into()));
    }
    let rotating = |step: &&Step| {
        let at = &step.wanted.options.target_url;
        matches!(step.change, Change::Create)
            && plan.unmanaged.iter().any(|webhook| is_successor(&webhook.target_url, at))
    };
    if let Some(Step { wanted, .. }) = plan.steps.iter().find(rotating) {
        let message =
            format!("{0} is being rotated: `webhooks rotate {0}` goes on with it", wanted.options.name);
        return Err(Failure::Refused(message + "; nothing was changed"));
    }
    // Every place for a secret is found good before the first webhook is made.
    let mut ready = Vec::new();
    for step in &plan.steps {
        ready.push((step, place(step, arguments)?));
    }
    let mut done = Vec::new();
    let outcome = match plan.is_clean() {
        true => Ok(()),
        false => {
            confirm("Make it so?", arguments.yes)?;
            carry_out(session, ready, Told::beside(arguments.json), &mut done).await
        }
    };
    show::outcome(arguments.json, to_json(&plan, &done), outcome)
}

/// Takes the steps one after the other and notes the webhook of each that is done.
async fn carry_out(
    session: &Session,
    steps: Vec<(&Step, Option<Keep>)>,
    told: Told,
    done: &mut Vec<String>,
) -> Result<(), Failure> {
    let stop = keep::undisturbed(&session.log)?;
    for (step, keep) in steps {
        if stop.is_cancelled() {
            return Err(Failure::Refused(
                "stopped before it was all done; apply goes on where it was".into(),
            ));
        }
        done.push(perform(session, step, keep, told).await?);
    }
    Ok(())
}

/// Where the secret goes, if one will be made.
fn place(step: &Step, arguments: &Arguments) -> Result<Option<Keep>, Failure> {
    let options = &step.wanted.options;
    match (&step.change, &options.secret_file) {
        (Change::Create, Some(path)) => Keep::file(path, arguments.overwrite_secret).map(Some),
        (Change::Create, None) if arguments.shows() => {
            Ok(Some(Keep::Show(format!("secret of {}: ", options.name))))
        }
        (Change::Create, None) => Err(Failure::Usage(format!(
            "webhook {:?} has no secret_file, and its secret would go to no terminal: set secret_file, or \
             say --show-secrets (without --json)",
            options.name
        ))),
        _ => Ok(None),
    }
}

/// Does a step; then the id of its webhook.
async fn perform(session: &Session, step: &Step, keep: Option<Keep>, told: Told) -> Result<String, Failure> {
    let (options, subscriptions) = (&step.wanted.options, &step.wanted.subscriptions);
    let name = &options.name;
    match (&step.change, keep) {
        (Change::Create, Some(keep)) => {
            let created =
                keep::create(&session.client, &options.target_url, subscriptions, keep, told).await?;
            let id = created.webhook.id.webhook_id;
            match &options.secret_file {
                Some(path) => {
                    say(format_args!("{name}: created webhook {id}, its secret is in {}", path.display()));
                }
                None => say(format_args!("{name}: created webhook {id}, its secret is on standard output")),
            }
            Ok(id)
        }
        (Change::Update { webhook, .. }, _) => {
            let id = &webhook.id.webhook_id;
            session.client.update_webhook(id, None, Some(subscriptions)).await?;
            say(format_args!("{name}: changed webhook {id}"));
            Ok(id.clone())
        }
        (Change::Keep(webhook), _) => Ok(webhook.id.webhook_id.clone()),
        (Change::Create | Change::Ambiguous(_), _) => {
            Err(Failure::Refused(format!("{name}: nothing can be done for it")))
        }
    }
}

/// The steps with what became of each. Those of a clean plan are done before they begin.
fn to_json(plan: &Plan, done: &[String]) -> Json {
    let change = |(at, Step { wanted, change }): (usize, &Step)| {
        let id = match change {
            Change::Update { webhook, .. } | Change::Keep(webhook) => Some(&webhook.id.webhook_id),
            Change::Create | Change::Ambiguous(_) => done.get(at),
        };
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
