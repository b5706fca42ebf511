//! `webhooks delete`.

use clap::Args;
use serde_json::json;

use super::{Exit, Failure, Session, confirm, say, show};

/// What an operator types.
const AFTER_HELP: &str = "\
Example:
  attio-bridge webhooks delete 23e42eaf-323a-41da-b5bb-fd67eebda553";

/// The flags of `webhooks delete`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Their ids
    #[arg(value_name = "WEBHOOK_ID", required = true)]
    webhook_ids: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print what was deleted as a JSON object
    #[arg(long)]
    json: bool,
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let Arguments { webhook_ids, yes, json } = arguments;
    confirm(&format!("Delete {}?", webhook_ids.join(", ")), *yes)?;
    let mut deleted = Vec::new();
    let done = delete(session, webhook_ids, &mut deleted).await;
    show::outcome(*json, json!({ "deleted": deleted }), done)
}

async fn delete<'a>(
    session: &Session,
    webhook_ids: &'a [String],
    deleted: &mut Vec<&'a str>,
) -> Result<(), Failure> {
    for webhook_id in webhook_ids {
        session.client.delete_webhook(webhook_id).await?;
        say(format_args!("deleted webhook {webhook_id}"));
        deleted.push(webhook_id);
    }
    Ok(())
}
