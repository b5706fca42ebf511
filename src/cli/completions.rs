//! `completions`: what makes a shell complete verbs and flags.

use clap::Args;
use clap_complete::Shell;

use super::{Exit, command, print};

const AFTER_HELP: &str = "\
Example: for every bash of this user
  attio-bridge completions bash > ~/.local/share/bash-completion/completions/attio-bridge";

/// The arguments of `completions`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Prints them.
pub fn run(arguments: &Arguments) -> Exit {
    let mut out = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "attio-bridge", &mut out);
    print(String::from_utf8_lossy(&out));
    Exit::Done
}
