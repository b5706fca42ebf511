//! `config`: the effective configuration.

use clap::Args;

use super::{Exit, load, print, warn};
use crate::config::Input;

const AFTER_HELP: &str = "\
Example: where a value comes from
  attio-bridge config --config config.toml | grep http.listen";

/// The flags of `config`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Print a JSON object by key
    #[arg(long)]
    json: bool,
}

/// Prints every key with its value and origin.
pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Exit> {
    let config = load(input)?;
    warn(&config.warnings);
    if arguments.json {
        print(format_args!("{:#}\n", config.to_json()));
    } else {
        print(config.to_text());
    }
    Ok(Exit::Done)
}
