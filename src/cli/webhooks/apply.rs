//! `webhooks apply`.

use std::io::{self, IsTerminal};

use clap::Args;

use super::keep::{self, Keep};
use super::{Exit, Failure, Session, confirm, plan, print, say};
use crate::attio::plan::{Change, Step};
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
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let plan = plan::make(session).await?;
    print(&plan);
    if plan.is_clean() {
        return Ok(Exit::Done);
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
    confirm("Make it so?", arguments.yes)?;
    let told = keep::undisturbed(&session.log)?;
    for (step, keep) in ready {
        if told.is_cancelled() {
            return Err(Failure::Refused(
                "stopped before it was all done; apply goes on where it was".into(),
            ));
        }
        perform(session, step, keep).await?;
    }
    Ok(Exit::Done)
}

/// Where the secret goes, if one will be made.
fn place(step: &Step, arguments: &Arguments) -> Result<Option<Keep>, Failure> {
    let options = &step.wanted.options;
    match (&step.change, &options.secret_file) {
        (Change::Create, Some(path)) => Keep::file(path, arguments.overwrite_secret).map(Some),
        (Change::Create, None) if arguments.show_secrets || io::stdout().is_terminal() => {
            Ok(Some(Keep::Show(format!("secret of {}: ", options.name))))
        }
        (Change::Create, None) => Err(Failure::Usage(format!(
            "webhook {:?} has no secret_file, and its secret would go to no terminal: set secret_file, or \
             say --show-secrets",
            options.name
        ))),
        _ => Ok(None),
    }
}

async fn perform(session: &Session, step: &Step, keep: Option<Keep>) -> Result<(), Failure> {
    let options = &step.wanted.options;
    let name = &options.name;
    match (&step.change, keep) {
        (Change::Create, Some(keep)) => {
            let created =
                keep::create(&session.client, &options.target_url, &step.wanted.subscriptions, keep).await?;
            let id = &created.webhook.id.webhook_id;
            match &options.secret_file {
                Some(path) => {
                    say(format_args!("{name}: created webhook {id}, its secret is in {}", path.display()));
                }
                None => say(format_args!("{name}: created webhook {id}, its secret is on standard output")),
            }
        }
        (Change::Update { webhook, .. }, _) => {
            let id = &webhook.id.webhook_id;
            session.client.update_webhook(id, None, Some(&step.wanted.subscriptions)).await?;
            say(format_args!("{name}: changed webhook {id}"));
        }
        _ => {}
    }
    Ok(())
}
