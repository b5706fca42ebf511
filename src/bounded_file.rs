//! Reading files within bounds of time and size: a name may lead to a pipe that nobody writes to, to a device
//! without an end, or to a file of gigabytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

/// The largest configuration file, slugs file or file of certificates.
pub const MAX_BYTES: u64 = 16 << 20;

/// The largest file with a secret, a private key or credentials.
pub const MAX_SECRET_BYTES: u64 = 64 << 10;

/// How long reading may wait for the writer of a pipe, such as a shell's `<(command)`.
const PIPE_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause before a pipe without data is read again.
const PIPE_PAUSE: Duration = Duration::from_millis(5);

pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PIPE_TIMEOUT;
    let mut file = open(path)?.take(limit + 1);
    let mut bytes = Vec::new();
    while let Err(error) = file.read_to_end(&mut bytes) {
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(error);
        }
        if Instant::now() >= deadline {
            let message = format!("nothing was written to it within {} s", PIPE_TIMEOUT.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        std::thread::sleep(PIPE_PAUSE);
    }
    if bytes.len() as u64 > limit { Err(too_large(limit)) } else { Ok(bytes) }
}

pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    let bytes = read(path, limit)?;
    let invalid = |message: &str| Err(io::Error::new(io::ErrorKind::InvalidData, message));
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => match error.as_bytes() {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => invalid("it is UTF-16 text; save it as UTF-8"),
            _ => invalid("not UTF-8 text"),
        },
    }
}

/// Reads a regular file of at most `limit` bytes; a pipe or a device is refused.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    check(path, limit)?;
    read(path, limit)
}

/// Checks a file that a library reads by itself, and more than once: a regular file of at most `limit` bytes.
pub fn check(path: &Path, limit: u64) -> io::Result<()> {
    let found = open(path)?.metadata()?;
    let invalid = |message: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    match found.is_file() {
        true if found.len() > limit => Err(too_large(limit)),
        true => Ok(()),
        false if found.is_dir() => invalid("it is a directory, not a file"),
        false => invalid("it is a pipe or a device, not a file"),
    }
}

/// Opens a file for reading. Never blocks on a FIFO.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn too_large(limit: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {} KiB", limit / 1024))
}
