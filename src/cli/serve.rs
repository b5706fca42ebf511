//! `serve`: receives webhooks and publishes their events until told to stop.

use clap::Args;

use super::{Exit, load, logging, say};
use crate::app;
use crate::config::{Config, Flag, Input};

const AFTER_HELP: &str = "\
Example: to a Kafka on this machine, with everything else at its default
  export ATTIO_WEBHOOK_SECRET=... ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS=localhost:9092
  attio-bridge serve --bus kafka
Example: with a file
  attio-bridge serve --config /etc/attio-bridge/config.toml";

/// The flags of `serve`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Address of the public listener, http.listen
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of the admin listener, admin.listen
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// Where events go, bus.type
    #[arg(long, value_name = "BUS", value_parser = ["kafka", "nats", "stdout"])]
    bus: Option<String>,
}

impl Arguments {
    /// What the flags set.
    pub fn flags(&self) -> Vec<Flag> {
        let flag = |name, key, value: &Option<String>| Some(Flag { name, key, value: value.clone()? });
        let flags = [
            flag("--listen", "http.listen", &self.listen),
            flag("--admin-listen", "admin.listen", &self.admin_listen),
            flag("--bus", "bus.type", &self.bus),
        ];
        flags.into_iter().flatten().collect()
    }
}

/// Runs the bridge.
pub fn run(input: Input) -> Exit {
    let config = match load(&input) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let log = match logging::start(config.log, &input.environment) {
        Ok(log) => log,
        Err(error) => {
            say(format_args!("error: the thread that logs cannot be started: {error}"));
            return Exit::Failed;
        }
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match runtime(&config) {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("error: the threads that serve cannot be started: {error}"));
            return Exit::Failed;
        }
    };
    match runtime.block_on(app::run(config, log.last_words())) {
        Ok(()) => Exit::Done,
        Err(error) => {
            tracing::error!("{error}");
            Exit::Failed
        }
    }
}

fn runtime(config: &Config) -> std::io::Result<tokio::runtime::Runtime> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let workers = config.workers.unwrap_or_else(cores);
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}
