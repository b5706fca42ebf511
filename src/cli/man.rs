//! `man`: the manual pages.

use std::io;
use std::path::PathBuf;

use clap::Args;

use super::{Exit, command, print, say};

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
pub fn run(arguments: &Arguments) -> Exit {
    let Some(folder) = &arguments.to else {
        let mut out = Vec::new();
        return match clap_mangen::Man::new(command()).render(&mut out) {
            Ok(()) => {
                print(String::from_utf8_lossy(&out));
                Exit::Done
            }
            Err(error) => failed(&format!("the manual page cannot be made: {error}")),
        };
    };
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command(), folder));
    match written {
        Ok(()) => Exit::Done,
        Err(error) => failed(&unwritten(folder, &error)),
    }
}

fn unwritten(folder: &std::path::Path, error: &io::Error) -> String {
    format!("the manual pages cannot be written to {}: {error}", folder.display())
}

fn failed(message: &str) -> Exit {
    say(format_args!("error: {message}"));
    Exit::Failed
}
