//! What the verbs that read the bus share: start and stop, and errors of the reader.

use tokio_util::sync::CancellationToken;

use super::{Exit, fail, load, runtime, say, warn};
use crate::app::logging;
use crate::bus::ReadError;
use crate::config::{Config, Input, LogFormat, LogOptions};
use crate::shutdown;

/// These verbs print their own messages; the log has warnings only, as text.
const LOG: LogOptions = LogOptions { level: "warn", format: LogFormat::Text };

pub struct Session {
    /// The configuration; its warnings are printed.
    pub config: Config,
    /// Cancelled by the first stop signal. A second one ends the process.
    pub stop: CancellationToken,
}

pub fn run(input: &Input, verb: impl AsyncFnOnce(&Session) -> Result<Exit, Exit>) -> Result<Exit, Exit> {
    let config = load(input)?;
    warn(&config.warnings);
    let log = logging::start(LOG, &input.environment).map_err(fail)?;
    let runtime = runtime(1).map_err(fail)?;
    let exit = runtime.block_on(async {
        let signal = shutdown::stop_signal(log.last_words()).map_err(fail)?;
        let session = Session { config, stop: CancellationToken::new() };
        let stop = session.stop.clone();
        tokio::spawn(async move {
            signal.await;
            stop.cancel();
        });
        verb(&session).await
    });
    // Does not wait for name resolution that hangs.
    runtime.shutdown_background();
    exit
}

pub fn fail_read(error: ReadError) -> Exit {
    say(format_args!("error: {error}"));
    match error {
        ReadError::Stdout => Exit::Usage,
        ReadError::Start(_) | ReadError::Broker { .. } => Exit::Failed,
    }
}
