//! Parsers of arguments that several verbs take, and reading of files that are named on the command line.

use std::fs::File;
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

/// The largest body or capture that is read.
const MAX_READ_BYTES: u64 = 256 << 20;

/// The bytes of a file; `-` is standard input. Waits for the writer of a pipe, as a person would want.
pub fn read(path: &Path) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(MAX_READ_BYTES + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(MAX_READ_BYTES + 1).read_to_end(&mut bytes))
    };
    match read {
        Ok(count) if count as u64 > MAX_READ_BYTES => {
            Err(format!("{} cannot be read: larger than {} MiB", path.display(), MAX_READ_BYTES >> 20))
        }
        Ok(_) => Ok(bytes.into()),
        Err(error) => Err(unreadable(path, error)),
    }
}

pub fn unreadable(path: &Path, error: io::Error) -> String {
    format!("{} cannot be read: {error}", path.display())
}
