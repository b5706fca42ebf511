//! `slugs`: what Attio's objects and lists are called, for `route.slugs_file`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, fail, load_attio, print, say, warn};
use crate::app::logging;
use crate::attio::{Client, Error, slugs};
use crate::config::{Input, LogFormat, LogOptions};

/// What an operator types.
const AFTER_HELP: &str = "\
Example:
  attio-bridge slugs pull --to slugs.json";

/// The verbs of `slugs`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Ask Attio for the slugs of objects and lists, and write them where events take them from
    #[command(after_help = AFTER_HELP)]
    Pull(Pull),
}

#[derive(Args)]
struct Pull {
    /// The file [default: route.slugs_file; without either, standard output]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// Runs a verb of `slugs`.
pub fn run(input: &Input, arguments: Arguments) -> Result<Exit, Exit> {
    let Verb::Pull(Pull { to }) = arguments.verb;
    let config = load_attio(input)?;
    warn(&config.warnings);
    // What is tried again is said meanwhile.
    let log = logging::start(LogOptions { level: "warn", format: LogFormat::Text }, &input.environment)
        .map_err(|error| fail(format_args!("the thread that logs cannot be started: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| fail(format_args!("the verb cannot be started: {error}")))?;
    let pulled = runtime.block_on(async { slugs::pull(&Client::new(&config.options)?).await });
    runtime.shutdown_background();
    drop(log);
    let map = pulled.map_err(|error| {
        let exit = fail(&error);
        if matches!(error, Error::NoKey | Error::Setup(_)) { Exit::Configuration } else { exit }
    })?;
    let Some(path) = to.or(config.slugs_file) else {
        print(slugs::text(&map));
        return Ok(Exit::Done);
    };
    let file = path.display();
    let written = slugs::write(&path, &map);
    let new = written.map_err(|error| fail(format_args!("{file} cannot be written: {error}")))?;
    let (objects, lists) = (map.objects.len(), map.lists.len());
    let new = if new { "written" } else { "as before" };
    say(format_args!("{file}: {objects} objects and {lists} lists, {new}"));
    Ok(Exit::Done)
}
