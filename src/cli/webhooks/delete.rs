//! `webhooks delete`.

use clap::Args;

use super::{Exit, Failure, Session, confirm, say};

/// The flags of `webhooks delete`.
#[derive(Args)]
pub struct Arguments {
    /// Their ids
    #[arg(value_name = "WEBHOOK_ID", required = true)]
    webhook_ids: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let Arguments { webhook_ids, yes } = arguments;
    confirm(&format!("Delete {}?", webhook_ids.join(", ")), *yes)?;
    for webhook_id in webhook_ids {
        session.client.delete_webhook(webhook_id).await?;
        say(format_args!("deleted webhook {webhook_id}"));
    }
    Ok(Exit::Done)
}
