//! `serve`: receives webhooks and publishes their events until SIGTERM.

use std::{io, panic, thread};

use clap::Args;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::SignalKind;

use super::{Exit, fail, load_for_serving};
use crate::app::{self, logging};
use crate::config::{Flag, Input};
use crate::shutdown;

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
    // Before anything that takes time. Until the bridge can reload, SIGHUP has nothing to do.
    shutdown::survive([SignalKind::hangup()])
        .map_err(|error| fail(format_args!("cannot listen for signals: {error}")))?;
    let config = load_for_serving(&input)?;
    let log = logging::start(config.log, &input.environment)
        .map_err(|error| fail(format_args!("cannot start the log thread: {error}")))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let workers = config.workers.unwrap_or_else(cores);
    let runtime = runtime(workers).map_err(|error| {
        tracing::error!(
            %error,
            "cannot start {workers} worker threads and {SPARE_THREADS} others: raise the limit of processes \
             (ulimit -u, TasksMax=, pids.max), or lower runtime.workers"
        );
        Exit::Failed
    })?;
    exit_after_panic(log.last_words());
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

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads that the bridge starts besides its workers: for signals, the bus client, name resolution, the stop.
const SPARE_THREADS: usize = 8;

/// Starts the workers. tokio panics if the system cannot start one, and then waits for it for ever, so this starts as
/// many threads first.
fn runtime(workers: usize) -> io::Result<Runtime> {
    let parked = || thread::Builder::new().spawn(thread::park);
    let tried: io::Result<Vec<_>> = (0..workers + SPARE_THREADS).map(|_| parked()).collect();
    for thread in tried? {
        thread.thread().unpark();
        // It cannot have panicked.
        let _ = thread.join();
    }
    Builder::new_multi_thread().worker_threads(workers).enable_all().build()
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
