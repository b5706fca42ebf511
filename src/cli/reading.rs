//! What the verbs that read the bus have in common: where to begin, colours, signals.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Exit, say};
use crate::bus::read::{Begin, ReadError};
use crate::config::{LogFormat, LogOptions};
use crate::dev::paint::Paint;

/// What these verbs say beside their own messages: only trouble, and that for people.
pub const QUIET: LogOptions = LogOptions { level: "warn", format: LogFormat::Text };

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
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(time);
    }
    let ago: Option<Duration> = humantime::parse_duration(text).ok();
    let time = ago.and_then(|ago| SystemTime::now().checked_sub(ago)).map(OffsetDateTime::from);
    time.ok_or_else(|| "expects a time such as 2026-11-24T10:00:00Z, or how long ago, such as 15m".into())
}

/// How to paint for standard output.
pub fn paint() -> Paint {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Paint(io::stdout().is_terminal() && !plain)
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
pub fn refuse(error: &ReadError) -> Exit {
    say(format_args!("error: {error}"));
    match error {
        ReadError::Stdout => Exit::Usage,
        ReadError::Kafka(_) | ReadError::Nats(_) | ReadError::Broker { .. } => Exit::Failed,
    }
}

/// Says what went wrong on this side.
pub fn fail(error: impl std::fmt::Display) -> Exit {
    say(format_args!("error: {error}"));
    Exit::Failed
}
