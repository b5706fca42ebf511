//! `state`: topics with the newest state of each entity.

mod backfill;
mod diff;
mod get;
mod run;
mod writer;

use clap::{Args, Subcommand};

use super::{Exit, Failure};
use crate::config::Input;

const AFTER_HELP: &str = "\
It runs beside `serve`, with the same configuration, and needs ATTIO_API_KEY.

Example: keep the states, and print those that come
  attio-bridge state run --config config.toml
  attio-bridge tail --state --config config.toml";

/// The flags of `state`.
#[derive(Args)]
#[command(after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Follow the bridge's events, read what has changed from Attio, and publish its state, until stopped
    Run(run::Arguments),
    /// Publish every entity that exists now, beside `state run`
    Backfill(backfill::Arguments),
    /// Compare Attio with the states, and publish the difference
    Diff(diff::Arguments),
    /// Print the state that is kept of a record, list entry, note, task or comment
    Get(get::Arguments),
}

pub fn run(input: &Input, arguments: Arguments) -> Result<Exit, Failure> {
    match arguments.verb {
        Verb::Run(arguments) => run::run(input, &arguments),
        Verb::Backfill(arguments) => backfill::run(input, &arguments),
        Verb::Diff(arguments) => diff::run(input, &arguments),
        Verb::Get(arguments) => get::run(input, &arguments),
    }
}
