//! Files: read within bounds of time and size (a name may lead to a pipe that nobody writes to, to a device without an
//! end, or to a file of gigabytes), watched for changes, and written atomically: a temporary file next to the final
//! one, renamed onto it.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use secrecy::SecretString;
use tempfile::TempPath;

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

/// Reads a secret from a file; one line end at its end is not part of it.
pub fn read_secret(path: &Path) -> Result<SecretString, String> {
    let text = read_text(path, MAX_SECRET_BYTES).map_err(|error| unreadable(path, &error))?;
    let text = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(SecretString::from(text))
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

/// A temporary file next to its final path, which is untouched until [`PendingFile::commit`].
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    temporary: TempPath,
    path: PathBuf,
}

impl PendingFile {
    pub fn create(path: &Path, mode: u32) -> io::Result<Self> {
        if path.file_name().is_none() || path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut builder = tempfile::Builder::new();
        let builder = builder.permissions(Permissions::from_mode(mode));
        let (file, temporary) = builder.tempfile_in(folder(path))?.into_parts();
        Ok(Self { file, temporary, path: path.to_owned() })
    }

    /// Allocates disk space with blanks, so that as many bytes can be committed even if the disk fills up.
    pub fn reserve(&mut self, bytes: usize) -> io::Result<()> {
        self.file.write_all(&vec![b' '; bytes])?;
        self.file.sync_all()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the contents to disk and renames the file. An existing file is an error unless `overwrite`.
    pub fn commit(mut self, contents: &[u8], overwrite: bool) -> io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(contents)?;
        self.file.set_len(contents.len() as u64)?;
        self.file.sync_all()?;
        match overwrite {
            true => self.temporary.persist(&self.path),
            false => self.temporary.persist_noclobber(&self.path),
        }
        .map_err(|error| error.error)?;
        File::open(folder(&self.path))?.sync_all()
    }
}

pub fn replace(path: &Path, mode: u32, contents: &[u8]) -> io::Result<()> {
    PendingFile::create(path, mode)?.commit(contents, true)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
