//! The files that a configuration is read from: secrets in files, and whether a file has changed.

use std::io;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use crate::bounded_file::{MAX_SECRET_BYTES, read_text};

/// Reads a secret from a file; one line end at its end is not part of it.
pub fn read_secret(path: &Path) -> Result<SecretString, String> {
    let text = read_text(path, MAX_SECRET_BYTES).map_err(|error| unreadable(path, &error))?;
    let text = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(SecretString::from(text))
}

/// Refuses a secret that is empty (a variable or a file that was meant to be filled), and what an editor or a shell
/// makes of a text: nobody has such a secret.
pub fn usable_secret(secret: &SecretString) -> Result<(), String> {
    let text = secret.expose_secret();
    let problem = if text.is_empty() {
        "is empty"
    } else if text.starts_with('\u{feff}') {
        "begins with a byte order mark, which is no part of the secret: save it as UTF-8 without one"
    } else if text.contains('\0') {
        "contains a NUL character, as UTF-16 text does: save it as UTF-8"
    } else if text.trim_end().contains(['\n', '\r']) {
        "has more than one line"
    } else {
        return Ok(());
    };
    Err(problem.into())
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
