//! `serve`: receives webhooks and publishes their events until SIGTERM.

use clap::Args;

use super::{Exit, fail, load_for_serving};
use crate::app;
use crate::app::logging;
use crate::config::{Config, Flag, Input};

const AFTER_HELP: &str = "\
Example: to a Kafka on this machine, with everything else at its default
  export ATTIO_WEBHOOK_SECRET=...
  export ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS=localhost:9092
  attio-bridge serve --bus kafka
Example: with a file
  attio-bridge serve --config /etc/attio-bridge/config.toml";

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

pub fn run(input: Input) -> Result<Exit, Exit> {
    let config = load_for_serving(&input)?;
    let log = logging::start(config.log, &input.environment)
        .map_err(|error| fail(format_args!("cannot start the log thread: {error}")))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime =
        runtime(&config).map_err(|error| fail(format_args!("cannot start the worker threads: {error}")))?;
    let result = runtime.block_on(app::run(config, log.last_words()));
    // Dropping the runtime would wait for blocking tasks, such as a name resolution that hangs.
    runtime.shutdown_background();
    match result {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            tracing::error!("{error}");
            Err(if error.is_configuration() { Exit::Configuration } else { Exit::Failed })
        }
    }
}

fn runtime(config: &Config) -> std::io::Result<tokio::runtime::Runtime> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let workers = config.workers.unwrap_or_else(cores);
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}
