//! What the verbs that read the bus have in common: how they start and stop, where to begin, colours.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{Exit, fail, given, load, no_color, say, warn};
use crate::app::logging;
use crate::bus::ReadError;
use crate::bus::read::Begin;
use crate::config::{Config, Input, LogFormat, LogOptions};
use crate::paint::Paint;
use crate::shutdown;

/// What these verbs say beside their own messages: only trouble, and that for people.
const QUIET: LogOptions = LogOptions { level: "warn", format: LogFormat::Text };

/// What such a verb works with.
pub struct Session {
    /// The configuration, its warnings said.
    pub config: Config,
    /// Told to stop; whoever is told twice ends at once.
    pub stop: CancellationToken,
}

/// Runs such a verb.
pub fn run(input: &Input, verb: impl AsyncFnOnce(&Session) -> Result<Exit, Exit>) -> Result<Exit, Exit> {
    let config = load(input)?;
    warn(&config.warnings);
    let log = logging::start(QUIET, &input.environment).map_err(fail)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(fail)?;
    let exit = runtime.block_on(async {
        let told = shutdown::stop_signal(log.last_words()).map_err(fail)?;
        let session = Session { config, stop: CancellationToken::new() };
        let stop = session.stop.clone();
        tokio::spawn(async move {
            told.await;
            stop.cancel();
        });
        verb(&session).await
    });
    // What still waits for the network is left behind.
    runtime.shutdown_background();
    exit
}

/// `beginning`, `now`, a time, or how long ago.
pub fn begin(text: &str) -> Result<Begin, String> {
    match text {
        "beginning" => Ok(Begin::Beginning),
        "now" => Ok(Begin::Now),
        text => moment(text).map(Begin::At).map_err(|_| {
            "expects beginning, now, a time such as 2026-11-24T10:00:00Z, or how long ago, such as 15m".into()
        }),
    }
}

/// A time, or how long ago.
pub fn moment(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(time) = given::time(text) {
        return Ok(time);
    }
    let ago: Option<Duration> = humantime::parse_duration(text).ok();
    let time = ago.and_then(|ago| SystemTime::now().checked_sub(ago)).map(OffsetDateTime::from);
    time.ok_or_else(|| "expects a time such as 2026-11-24T10:00:00Z, or how long ago, such as 15m".into())
}

/// How to paint for standard output.
pub fn paint() -> Paint {
    Paint(io::stdout().is_terminal() && !no_color())
}

/// How wide standard output is; `usual` where it is no terminal, or one that does not tell.
pub fn columns(usual: usize) -> usize {
    terminal_size::terminal_size_of(io::stdout()).map_or(usual, |(width, _)| width.0.into())
}

/// Writes a line of data; false once nobody reads it any more.
pub fn write(line: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says why the bus cannot be read.
pub fn refuse(error: ReadError) -> Exit {
    say(format_args!("error: {error}"));
    match error {
        ReadError::Stdout => Exit::Usage,
        ReadError::Start(_) | ReadError::Broker { .. } => Exit::Failed,
    }
}
