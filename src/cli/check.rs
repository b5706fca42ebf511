//! `check`: checks the configuration, and with `--connect` whether the broker accepts its events.

use clap::Args;

use super::{Exit, fail, load_for_serving, print, say, warn};
use crate::app;
use crate::bus::Kind;
use crate::bus::inspect::{Level, Report};
use crate::config::{Config, Input};

const AFTER_HELP: &str = "\
Example: before a change of the configuration goes out
  attio-bridge check --config config.toml --connect";

/// The flags of `check`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Reach the broker too: TLS, login, each topic, the right to write. Nothing is published
    #[arg(long)]
    connect: bool,
    /// Print what --connect finds as a JSON object
    #[arg(long, requires = "connect")]
    json: bool,
}

/// Checks the configuration, and the broker if asked to.
pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Exit> {
    let config = load_for_serving(input)?;
    warn(&config.warnings);
    if arguments.connect {
        return connect(config, arguments.json);
    }
    print(summary(&config));
    Ok(Exit::Done)
}

fn summary(config: &Config) -> String {
    let bus = match &config.bus.kind {
        Kind::Kafka(options) => format!("kafka at {}", options.bootstrap_servers),
        Kind::Nats(options) => {
            format!("nats at {}, stream {}", options.servers.join(","), options.stream.name)
        }
        Kind::Stdout => "stdout".into(),
    };
    let many = if config.sources.len() == 1 { "source" } else { "sources" };
    format!("the configuration is good: {many} {}, bus {bus}\n", config.source_names())
}

fn connect(config: Config, json: bool) -> Result<Exit, Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| fail(format_args!("the check cannot be started: {error}")))?;
    let found = runtime.block_on(app::inspect(config));
    // Does not wait for what still waits for the network.
    runtime.shutdown_background();
    match found {
        Ok(report) => Ok(show(&report, json)),
        Err(error) => {
            say(format_args!("error: {error}"));
            Err(Exit::Configuration)
        }
    }
}

fn show(report: &Report, json: bool) -> Exit {
    if json {
        print(format_args!("{:#}\n", report.to_json()));
    } else {
        print(report.to_text());
    }
    match report.worst() {
        Level::Failed => Exit::Unexpected,
        Level::Ok | Level::Warning => Exit::Done,
    }
}
