//! Parsers of arguments that several verbs take, and reading of files that are named on the command line.

use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::bus::read::Begin;

pub fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "expects a time such as 2026-11-24T10:00:00Z".into())
}

/// A time, or how long ago.
pub fn moment(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(time) = time(text) {
        return Ok(time);
    }
    let ago: Option<Duration> = humantime::parse_duration(text).ok();
    let time = ago.and_then(|ago| SystemTime::now().checked_sub(ago)).map(OffsetDateTime::from);
    time.ok_or_else(|| "expects a time such as 2026-11-24T10:00:00Z, or an age such as 15m".into())
}

/// `beginning`, `now`, a time, or how long ago.
pub fn begin(text: &str) -> Result<Begin, String> {
    match text {
        "beginning" => Ok(Begin::Beginning),
        "now" => Ok(Begin::Now),
        text => moment(text).map(Begin::At).map_err(|_| {
            "expects beginning, now, a time such as 2026-11-24T10:00:00Z, or an age such as 15m".into()
        }),
    }
}

/// An `Idempotency-Key` that the bridge accepts as part of an identity.
pub fn key(text: &str) -> Result<String, String> {
    let usable = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if usable { Ok(text.to_owned()) } else { Err("expects 1 to 255 visible ASCII characters".into()) }
}

/// The bytes of a file; `-` is standard input.
pub fn read(path: &Path) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(path).map(|read| bytes = read)
    };
    read.map_err(|error| unreadable(path, error))?;
    Ok(bytes.into())
}

pub fn unreadable(path: &Path, error: io::Error) -> String {
    format!("{} cannot be read: {error}", path.display())
}
