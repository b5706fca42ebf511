//! The files that a configuration is read from: reading them within bounds, and whether they have changed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use secrecy::{ExposeSecret, SecretString};

pub const MAX_FILE_BYTES: u64 = 16 << 20;

const MAX_SECRET_FILE_BYTES: u64 = 64 * 1024;

/// How long reading may wait for the writer of a pipe, such as a shell's `<(command)`.
const PIPE_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause before a pipe without data is read again.
const PIPE_PAUSE: Duration = Duration::from_millis(5);

/// Opens a file for reading. Never blocks on a FIFO.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Reads a text file of at most `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
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
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {} KiB", limit / 1024)));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8 text"))
}

/// Reads a secret from a file; one line end at its end is not part of it.
pub fn read_secret(path: &Path) -> Result<SecretString, String> {
    let text = read_text(path, MAX_SECRET_FILE_BYTES).map_err(|error| unreadable(path, &error))?;
    let text = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(SecretString::from(text))
}

/// Refuses an empty secret: a variable or a file that was meant to be filled.
pub fn not_empty(secret: &SecretString) -> Result<(), String> {
    if secret.expose_secret().is_empty() { Err("is empty".into()) } else { Ok(()) }
}

/// The message about a file that cannot be read, without the number of the system's error.
pub fn unreadable(path: &Path, error: &io::Error) -> String {
    let error = error.to_string();
    let reason = error.split(" (os error").next().unwrap_or(&error);
    format!("the file {} cannot be read: {reason}", path.display())
}

/// Detects changes of a file. A file that is replaced, by a rename or by swapping a symlink in its path, has
/// another inode; one that is written in place has another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Files, each with its state when it was added; none if there was no file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(Vec<(PathBuf, Option<Stamp>)>);

impl Files {
    /// Adds a file as it is now. Add it before reading it, so that no change is missed.
    pub fn add(&mut self, path: &Path) {
        self.0.push((path.to_owned(), stamp(path)));
    }

    /// The same files as they are now. Reads metadata only.
    pub fn again(&self) -> Self {
        Self(self.0.iter().map(|(path, _)| (path.clone(), stamp(path))).collect())
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: found.dev(),
        inode: found.ino(),
        bytes: found.len(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}
