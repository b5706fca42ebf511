//! `webhooks list`.

use clap::Args;

use super::{Exit, Failure, Session, show};

/// The flags of `webhooks list`.
#[derive(Args)]
pub struct Arguments {
    /// Print a JSON list, as Attio has it
    #[arg(long)]
    json: bool,
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    show::many(&session.client.webhooks().await?, arguments.json);
    Ok(Exit::Done)
}
