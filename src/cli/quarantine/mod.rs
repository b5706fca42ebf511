//! `quarantine`: lists, shows, exports and replays what is in the dead-letter topic.

mod inspect;
mod replay;
mod select;

use clap::{Args, Subcommand};

use super::Exit;
use super::bus_session;
use crate::config::Input;

const AFTER_HELP: &str = "\
Example: what is quarantined and why, and a replay once the cause is fixed
  attio-bridge quarantine list --from 24h
  attio-bridge quarantine show 9d5ee6c0
  attio-bridge quarantine replay 9d5ee6c0 --dry-run
  attio-bridge quarantine replay 9d5ee6c0";

/// What is said if no record is selected.
const NOTHING: &str = "no quarantined events";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List what is in quarantine, and why
    List(inspect::ListArguments),
    /// Show one record: its raw body, why it was quarantined, and what to do about it
    Show(inspect::ShowArguments),
    /// Write records to files: the raw body, and all metadata
    Export(inspect::ExportArguments),
    /// Process records again, under the ids that their events would have had
    Replay(replay::Arguments),
}

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Exit> {
    bus_session::run(input, async |session| match &arguments.verb {
        Verb::List(arguments) => inspect::list(session, arguments).await,
        Verb::Show(arguments) => inspect::show(session, arguments).await,
        Verb::Export(arguments) => inspect::export(session, arguments).await,
        Verb::Replay(arguments) => replay::run(session, arguments).await,
    })
}
