//! What people give on the command line in the same way to several verbs.

use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A time, such as 2026-11-24T10:00:00Z.
pub fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "expects a time such as 2026-11-24T10:00:00Z".into())
}

/// An `Idempotency-Key`, as the bridge takes it for an identity.
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
    read.map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    Ok(bytes.into())
}
