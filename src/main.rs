//! Parses the command line, runs the verb, and ends with its exit code.

use std::process::ExitCode;

use attio_bridge::cli;

fn main() -> ExitCode {
    cli::run(std::env::args_os(), cli::environment()).into()
}
