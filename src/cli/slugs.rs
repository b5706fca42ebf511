//! `slugs`: what Attio's objects and lists are called, for `route.slugs_file`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, logging, print, say, warn};
use crate::attio::{Client, Error, slugs};
use crate::config::{self, Input, LogFormat, LogOptions};

/// What an operator types.
const AFTER_HELP: &str = "\
Example:
  attio-bridge slugs pull --to slugs.json";

/// The verbs of `slugs`.
#[derive(Args)]
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
pub fn run(input: &Input, arguments: Arguments) -> Exit {
    let Verb::Pull(Pull { to }) = arguments.verb;
    let config = match config::attio(input) {
        Ok(config) => config,
        Err(problems) => {
            say(format_args!("error: {problems}"));
            return Exit::Configuration;
        }
    };
    warn(&config.warnings);
    // What is tried again is said meanwhile.
    let log = match logging::start(LogOptions { level: "warn", format: LogFormat::Text }, &input.environment)
    {
        Ok(log) => log,
        Err(error) => {
            say(format_args!("error: the thread that logs cannot be started: {error}"));
            return Exit::Failed;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("error: the verb cannot be started: {error}"));
            return Exit::Failed;
        }
    };
    let pulled = runtime.block_on(async { slugs::pull(&Client::new(&config.options)?).await });
    runtime.shutdown_background();
    drop(log);
    let map = match pulled {
        Ok(map) => map,
        Err(error) => {
            say(format_args!("error: {error}"));
            let setup = matches!(error, Error::NoKey | Error::Setup(_));
            return if setup { Exit::Configuration } else { Exit::Failed };
        }
    };
    let Some(path) = to.or(config.slugs_file) else {
        print(slugs::text(&map));
        return Exit::Done;
    };
    let file = path.display();
    match slugs::write(&path, &map) {
        Ok(new) => {
            let (objects, lists) = (map.objects.len(), map.lists.len());
            let new = if new { "written" } else { "as before" };
            say(format_args!("{file}: {objects} objects and {lists} lists, {new}"));
            Exit::Done
        }
        Err(error) => {
            say(format_args!("error: {file} cannot be written: {error}"));
            Exit::Failed
        }
    }
}
