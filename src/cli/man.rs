//! `man`: the manual pages.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, command, fail, print};

const AFTER_HELP: &str = "\
Example: read it
  attio-bridge man | man -l -
Example: install a page for every verb
  attio-bridge man --to /usr/local/share/man/man1";

/// The flags of `man`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Write a page for the program and one for every verb to this directory
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Prints the page of the program, or writes all pages.
pub fn run(arguments: &Arguments) -> Result<Exit, Exit> {
    let Some(folder) = &arguments.to else {
        let mut out = Vec::new();
        let made = clap_mangen::Man::new(command()).render(&mut out);
        made.map_err(|error| fail(format_args!("the manual page cannot be made: {error}")))?;
        print(String::from_utf8_lossy(&out));
        return Ok(Exit::Done);
    };
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command(), folder));
    let unwritten = |error| format!("the manual pages cannot be written to {}: {error}", folder.display());
    written.map_err(|error| fail(unwritten(error)))?;
    Ok(Exit::Done)
}
