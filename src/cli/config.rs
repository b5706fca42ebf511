//! `config`: the effective configuration.

use clap::Args;

use super::{Exit, load, print, warn};
use crate::config::Input;

/// The flags of `config`.
#[derive(Args)]
pub struct Arguments {
    /// Print a JSON object by key
    #[arg(long)]
    json: bool,
}

/// Prints every key with its value and origin.
pub fn run(input: &Input, arguments: &Arguments) -> Exit {
    match load(input) {
        Ok(config) => {
            warn(&config.warnings);
            if arguments.json {
                print(format_args!("{:#}\n", config.to_json()));
            } else {
                print(config.to_text());
            }
            Exit::Done
        }
        Err(exit) => exit,
    }
}
