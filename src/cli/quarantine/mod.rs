//! `quarantine`: what lies there and why, and after a fix the same path again.

mod export;
mod list;
mod replay;
mod selection;
mod show;

use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

use super::reading::{QUIET, fail, refuse};
use super::{Exit, load, logging, warn};
use crate::config::{Config, Input};
use crate::shutdown;
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

/// What every verb works with.
struct Session {
    config: Config,
    /// Told to stop; whoever is told twice ends at once.
    stop: CancellationToken,
}

/// Runs the verb.
pub fn run(input: &Input, arguments: &Arguments) -> Exit {
    let config = match load(input) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    warn(&config.warnings);
    let log = match logging::start(QUIET, &input.environment) {
        Ok(log) => log,
        Err(error) => return fail(error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error),
    };
    let exit = runtime.block_on(async {
        let told = match shutdown::stop_signal(log.last_words()) {
            Ok(told) => told,
            Err(error) => return fail(error),
        };
        let session = Session { config, stop: CancellationToken::new() };
        let stop = session.stop.clone();
        tokio::spawn(async move {
            told.await;
            stop.cancel();
        });
        verb(&session, &arguments.verb).await
    });
    // What still waits for the network is left behind.
    runtime.shutdown_background();
    exit
}

async fn verb(session: &Session, verb: &Verb) -> Exit {
    match verb {
        Verb::List(arguments) => list::run(session, arguments).await,
        Verb::Show(arguments) => show::run(session, arguments).await,
        Verb::Export(arguments) => export::run(session, arguments).await,
        Verb::Replay(arguments) => replay::run(session, arguments).await,
    }
}
