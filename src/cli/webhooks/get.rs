//! `webhooks get`.

use clap::Args;

use super::{Exit, Failure, Session, show};

/// The flags of `webhooks get`.
#[derive(Args)]
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
