//! What the verbs that read the bus share: start and stop, output, and errors of the reader.

use std::io::{self, ErrorKind, IsTerminal, Write};

use tokio_util::sync::CancellationToken;

use super::{Exit, fail, load, no_color, runtime, say, warn};
use crate::app::logging;
use crate::bus::ReadError;
use crate::config::{Config, Input, LogFormat, LogOptions};
use crate::paint::Paint;
use crate::shutdown;

/// These verbs print their own messages; the log has warnings only, as text.
const LOG: LogOptions = LogOptions { level: "warn", format: LogFormat::Text };

/// What such a verb works with.
pub struct Session {
    /// The configuration; its warnings are printed.
    pub config: Config,
    /// Cancelled by the first stop signal. A second one ends the process.
    pub stop: CancellationToken,
}

/// Runs such a verb.
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

/// Colours for standard output.
pub fn paint() -> Paint {
    Paint(io::stdout().is_terminal() && !no_color())
}

/// The columns of standard output; `default` if it is not a terminal.
pub fn columns(default: usize) -> usize {
    terminal_size::terminal_size_of(io::stdout()).map_or(default, |(width, _)| width.0.into())
}

/// Writes a line of data. False once the reader is gone.
pub fn write_line(line: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Prints why the bus cannot be read.
pub fn fail_read(error: ReadError) -> Exit {
    say(format_args!("error: {error}"));
    match error {
        ReadError::Stdout => Exit::Usage,
        ReadError::Start(_) | ReadError::Broker { .. } => Exit::Failed,
    }
}
