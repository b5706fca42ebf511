//! `webhooks update`.

use clap::Args;

use super::{Exit, Failure, Session, show, subscriptions, target};

/// What an operator types.
const AFTER_HELP: &str = "\
Example: other events at the same place
  attio-bridge webhooks update 23e42eaf-323a-41da-b5bb-fd67eebda553 \\
    --event record.created --event record.updated";

/// The flags of `webhooks update`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Its id
    #[arg(value_name = "WEBHOOK_ID")]
    webhook_id: String,
    /// Where to send from now on
    #[arg(long, value_name = "URL", value_parser = target)]
    target_url: Option<String>,
    /// What to send from now on, in the place of what is sent now
    #[command(flatten)]
    subscriptions: subscriptions::Subscribing,
    /// Print a JSON object, as Attio has it
    #[arg(long)]
    json: bool,
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let Arguments { webhook_id, target_url, subscriptions, json } = arguments;
    let subscriptions = match subscriptions.are_absent() {
        true if target_url.is_none() => {
            return Err(Failure::Usage("nothing to change: give --target-url or --event".into()));
        }
        true => None,
        false => Some(subscriptions.resolve(&session.client).await?),
    };
    let changed =
        session.client.update_webhook(webhook_id, target_url.as_deref(), subscriptions.as_deref()).await?;
    show::one(&changed, *json);
    Ok(Exit::Done)
}
