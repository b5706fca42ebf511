//! `slugs`: the slugs of Attio's objects and lists, for `route.slugs_file`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, Failure, print, say, with_session};
use crate::attio::slugs;
use crate::config::Input;

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

pub fn run(input: &Input, Arguments { verb: Verb::Pull(Pull { to }) }: Arguments) -> Exit {
    with_session(input, async |session| {
        let slugs = slugs::pull(&session.client).await?;
        let Some(path) = to.as_ref().or(session.config.slugs_file.as_ref()) else {
            print(slugs::text(&slugs));
            return Ok(Exit::Done);
        };
        let file = path.display();
        let changed = slugs::write(path, &slugs);
        let changed = changed.map_err(|error| Failure::Failed(format!("cannot write {file}: {error}")))?;
        let (objects, lists) = (slugs.objects.len(), slugs.lists.len());
        let result = if changed { "written" } else { "unchanged" };
        say(format_args!("{file}: {objects} objects and {lists} lists, {result}"));
        Ok(Exit::Done)
    })
}
