//! `serve`: receives webhooks and publishes their events until SIGTERM.

use std::{panic, thread};

use clap::Args;
use parking_lot::Mutex;
use tokio::signal::unix::SignalKind;

use super::{Exit, Failure, block_on, cores, invalid_configuration};
use crate::app::{self, logging};
use crate::config::{self, Flag, Input};
use crate::{open_files, shutdown};

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

pub fn run(input: &Input) -> Result<Exit, Failure> {
    // Before anything that takes time. Until the bridge can reload, SIGHUP has nothing to do.
    shutdown::survive([SignalKind::hangup()])
        .map_err(|error| format!("cannot listen for signals: {error}"))?;
    let config = config::load_for_serving(input).map_err(invalid_configuration)?;
    let log = logging::start(config.log, &input.environment)
        .map_err(|error| format!("cannot start the log thread: {error}"))?;
    if let Err(error) = open_files::raise_limit() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    exit_after_panic(log.last_words());
    let workers = config.workers.unwrap_or_else(cores);
    let ended = block_on(Some(workers), app::run(config, log.last_words()));
    let ended =
        ended.map_err(|error| Failure::from(format!("{error}, or lower runtime.workers")).logged())?;
    ended.map(|()| Exit::Done).map_err(|error| {
        let exit = if error.is_configuration() { Exit::Configuration } else { Exit::Failed };
        Failure::new(exit, error).logged()
    })
}

/// Ends the process after a panic of this thread, once it is logged. Unwinding would drop the runtime, which waits for
/// its threads.
fn exit_after_panic(flush_log: impl FnOnce() + Send + 'static) {
    let (this, log_panic) = (thread::current().id(), panic::take_hook());
    let flush_log = Mutex::new(Some(flush_log));
    panic::set_hook(Box::new(move |panicked| {
        log_panic(panicked);
        if thread::current().id() == this {
            if let Some(flush) = flush_log.lock().take() {
                flush();
            }
            std::process::exit(Exit::Failed as i32);
        }
    }));
}
