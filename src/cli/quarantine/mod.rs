//! `quarantine`: what lies there and why, and after a fix the same path again.

mod export;
mod list;
mod replay;
mod selection;
mod show;

use clap::{Args, Subcommand};

use super::Exit;
use super::reading::{self, Session};
use crate::config::Input;
use selection::Selection;

const AFTER_HELP: &str = "\
Example: what lies there, why, and after the fix back on its way
  attio-bridge quarantine list --from 24h
  attio-bridge quarantine show 9d5ee6c0
  attio-bridge quarantine replay 9d5ee6c0 --dry-run
  attio-bridge quarantine replay 9d5ee6c0";

/// The verbs of `quarantine`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List what lies in quarantine, and why
    List(list::Arguments),
    /// Show one piece: its raw bytes, why it is here, what to do about it
    Show(show::Arguments),
    /// Write pieces to files: the raw bytes, and all that is known of them
    Export(export::Arguments),
    /// Take pieces through the pipeline again, under the ids that they would have had
    Replay(replay::Arguments),
}

/// Runs the verb.
pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Exit> {
    reading::run(input, async |session| match &arguments.verb {
        Verb::List(arguments) => list::run(session, arguments).await,
        Verb::Show(arguments) => show::run(session, arguments).await,
        Verb::Export(arguments) => export::run(session, arguments).await,
        Verb::Replay(arguments) => replay::run(session, arguments).await,
    })
}
