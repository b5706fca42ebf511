//! `slugs`: the slugs of Attio's objects and lists, for `route.slugs_file`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, fail, load_attio, print, say, warn};
use crate::app::logging;
use crate::attio::{Client, Error, slugs};
use crate::config::{Input, LogFormat, LogOptions};

const AFTER_HELP: &str = "\
Example:
  attio-bridge slugs pull --to slugs.json";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Read the slugs of objects and lists from Attio, and write the file that the bridge reads
    Pull(Pull),
}

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
struct Pull {
    /// The file [default: route.slugs_file; without either, standard output]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

pub fn run(input: &Input, arguments: Arguments) -> Result<Exit, Exit> {
    let Verb::Pull(Pull { to }) = arguments.verb;
    let config = load_attio(input)?;
    warn(&config.warnings);
    let cannot_start = |error| fail(format_args!("cannot start a thread: {error}"));
    // For the client's warnings about retries.
    let log = logging::start(LogOptions { level: "warn", format: LogFormat::Text }, &input.environment)
        .map_err(cannot_start)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot_start)?;
    let pulled = runtime.block_on(async { slugs::pull(&Client::new(&config.options)?).await });
    runtime.shutdown_background();
    drop(log);
    let slugs = pulled.map_err(|error| {
        let exit = fail(&error);
        if matches!(error, Error::NoKey | Error::Setup(_)) { Exit::Configuration } else { exit }
    })?;
    let Some(path) = to.or(config.slugs_file) else {
        print(slugs::text(&slugs));
        return Ok(Exit::Done);
    };
    let file = path.display();
    let changed = slugs::write(&path, &slugs);
    let changed = changed.map_err(|error| fail(format_args!("cannot write {file}: {error}")))?;
    let (objects, lists) = (slugs.objects.len(), slugs.lists.len());
    let result = if changed { "written" } else { "unchanged" };
    say(format_args!("{file}: {objects} objects and {lists} lists, {result}"));
    Ok(Exit::Done)
}
