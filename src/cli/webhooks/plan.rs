//! `webhooks plan`.

use clap::Args;

use super::{Exit, Failure, Session, print, say};
use crate::attio::filter::Resolver;
use crate::attio::plan::{Change, Plan, Step, Wanted};

/// What an operator types.
const AFTER_HELP: &str = "\
Example: has anybody changed them by hand?
  attio-bridge webhooks plan --check --config bridge.toml || echo \"exit $?: 3 means yes\"";

/// The flags of `webhooks plan`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Exit 3 if anything is not as configured
    #[arg(long)]
    check: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let plan = make(session).await?;
    match arguments.json {
        true => print(format_args!("{:#}\n", plan.to_json())),
        false => print(&plan),
    }
    Ok(if arguments.check && !plan.is_clean() { Exit::Unexpected } else { Exit::Done })
}

/// Compares what is configured with what exists.
pub async fn make(session: &Session) -> Result<Plan, Failure> {
    if session.config.webhooks.is_empty() {
        say("warning: the configuration has no [[webhooks]], so there is nothing to compare; \
             `attio-bridge webhooks import` prints those of the workspace as such tables");
    }
    let mut resolver = Resolver::new(&session.client);
    let mut wanted = Vec::new();
    for options in &session.config.webhooks {
        wanted.push(Wanted::resolve(options, &mut resolver).await?);
    }
    let plan = Plan::between(wanted, session.client.webhooks().await?);
    for Step { wanted, change } in &plan.steps {
        if let (Change::Keep(webhook) | Change::Update { webhook, .. }, Some(path)) =
            (change, &wanted.options.secret_file)
            && !path.exists()
        {
            say(format_args!(
                "warning: {}: webhook {} exists, and its secret_file {} is not here: if nobody has its secret, \
                 delete the webhook and apply",
                wanted.options.name,
                webhook.id.webhook_id,
                path.display()
            ));
        }
    }
    Ok(plan)
}
