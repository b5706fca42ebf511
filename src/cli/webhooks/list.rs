//! `webhooks list`.

use clap::Args;

use super::{Exit, Failure, Session, show};

/// What an operator types.
const AFTER_HELP: &str = "\
Example: which of them does Attio not deliver to as it should?
  attio-bridge webhooks list
  attio-bridge webhooks list --json | jq '.[] | select(.status != \"active\")'";

/// The flags of `webhooks list`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Print a JSON list, as Attio has it
    #[arg(long)]
    json: bool,
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    show::many(&session.client.webhooks().await?, arguments.json);
    Ok(Exit::Done)
}
