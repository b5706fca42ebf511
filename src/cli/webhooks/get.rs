//! `webhooks get`.

use clap::Args;

use super::{Exit, Failure, Session, show};

/// What an operator types.
const AFTER_HELP: &str = "\
Example:
  attio-bridge webhooks get 23e42eaf-323a-41da-b5bb-fd67eebda553";

/// The flags of `webhooks get`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Its id
    #[arg(value_name = "WEBHOOK_ID")]
    webhook_id: String,
    /// Print a JSON object, as Attio has it
    #[arg(long)]
    json: bool,
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    show::one(&session.client.webhook(&arguments.webhook_id).await?, arguments.json);
    Ok(Exit::Done)
}
