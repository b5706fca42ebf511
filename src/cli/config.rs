//! `config`: the effective configuration, or its JSON Schema.

use clap::Args;

use super::{Exit, load, print, warn};
use crate::config::{self, Input};

const AFTER_HELP: &str = "\
Example: where a value comes from
  attio-bridge config --config config.toml | grep http.listen

Example: an editor that completes and checks the file, by `#:schema ./schema.json` in its first line
  attio-bridge config --schema > schema.json";

/// The flags of `config`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Print a JSON object by key
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of the file, for editors. Reads no configuration
    #[arg(long, conflicts_with = "json")]
    schema: bool,
}

/// Prints every key with its value and origin.
pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Exit> {
    if arguments.schema {
        print(format_args!("{:#}\n", config::schema()));
        return Ok(Exit::Done);
    }
    let config = load(input)?;
    warn(&config.warnings);
    if arguments.json {
        print(format_args!("{:#}\n", config.to_json()));
    } else {
        print(config.to_text());
    }
    Ok(Exit::Done)
}
