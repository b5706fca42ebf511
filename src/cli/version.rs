//! `version`: what this build is.

use clap::Args;

use super::{Exit, print};
use crate::version::{REVISION, VERSION};

const AFTER_HELP: &str = "\
Example: for a bug report
  attio-bridge version";

/// The flags of `version`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the version, the revision and the version of librdkafka.
pub fn run(arguments: &Arguments) -> Exit {
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    if arguments.json {
        let json = serde_json::json!({ "version": VERSION, "revision": REVISION, "librdkafka": librdkafka });
        print(format_args!("{json}\n"));
    } else {
        print(format_args!("attio-bridge {VERSION} (revision {REVISION}, librdkafka {librdkafka})\n"));
    }
    Exit::Done
}
