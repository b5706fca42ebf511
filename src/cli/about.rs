//! What the program prints about itself: `version`, `completions` and `man`.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

use super::{Exit, Failure, command, print};
use crate::version::{REVISION, VERSION};

const VERSION_HELP: &str = "\
Example: for a bug report
  attio-bridge version";

#[derive(Args)]
#[command(after_help = VERSION_HELP)]
pub struct Version {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn version(arguments: &Version) -> Exit {
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    if arguments.json {
        let json = serde_json::json!({ "version": VERSION, "revision": REVISION, "librdkafka": librdkafka });
        print(format_args!("{json}\n"));
    } else {
        print(format_args!("attio-bridge {VERSION} (revision {REVISION}, librdkafka {librdkafka})\n"));
    }
    Exit::Done
}

const COMPLETIONS_HELP: &str = "\
Example: install for bash, for the current user
  attio-bridge completions bash \\
    > ~/.local/share/bash-completion/completions/attio-bridge";

#[derive(Args)]
#[command(after_help = COMPLETIONS_HELP)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub fn completions(arguments: &Completions) -> Exit {
    let mut out = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "attio-bridge", &mut out);
    print(String::from_utf8_lossy(&out));
    Exit::Done
}

const MAN_HELP: &str = "\
Example: read it
  attio-bridge man | man -l -
Example: install a page for every verb
  attio-bridge man --to /usr/local/share/man/man1";

#[derive(Args)]
#[command(after_help = MAN_HELP)]
pub struct Man {
    /// Write a page for the program and one for every verb to this directory
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

pub fn man(arguments: &Man) -> Result<Exit, Failure> {
    let Some(folder) = &arguments.to else {
        let mut out = Vec::new();
        let rendered = clap_mangen::Man::new(command().disable_help_subcommand(true)).render(&mut out);
        rendered.map_err(|error| format!("cannot render the manual page: {error}"))?;
        print(String::from_utf8_lossy(&out));
        return Ok(Exit::Done);
    };
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command(), folder));
    written.map_err(|error| format!("cannot write manual pages to {}: {error}", folder.display()))?;
    Ok(Exit::Done)
}
