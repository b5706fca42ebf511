//! Parses the command line, runs the verb, and ends with its exit code.

use std::process::ExitCode;

use attio_bridge::cli;

/// A delivery makes some fifty small allocations and frees most of them on another thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(std::env::args_os(), cli::environment()).into()
}
