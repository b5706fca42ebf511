//! A file for a secret, known to be writable before there is a secret to write.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use tempfile::{NamedTempFile, TempPath};

/// More than a secret takes: Attio's are 64 hex digits.
const ROOM: [u8; 256] = [b' '; 256];

/// A place for a secret: a blank file beside the one it will become, with mode 0600.
#[derive(Debug)]
pub struct Reserved {
    file: File,
    beside: TempPath,
    path: PathBuf,
    overwrite: bool,
}

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is a file already, with some other secret.
    #[error("{} exists already and is not overwritten: move it away, or say --overwrite-secret", .0.display())]
    Exists(PathBuf),
    /// The folder cannot be written to.
    #[error("{} cannot be written: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Reserved {
    /// Reserves a place. What stands there stays unless it may be overwritten, and until it is.
    pub fn at(path: &Path, overwrite: bool) -> Result<Self, Error> {
        if !overwrite && fs::symlink_metadata(path).is_ok() {
            return Err(Error::Exists(path.to_owned()));
        }
        let unwritable = |source| Error::Unwritable { path: path.to_owned(), source };
        if path.file_name().is_none() || path.is_dir() {
            return Err(unwritable(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let (mut file, beside) = NamedTempFile::new_in(folder(path)).map_err(unwritable)?.into_parts();
        // The disk has room for it now, and keeps it.
        file.write_all(&ROOM).and_then(|()| file.sync_all()).map_err(unwritable)?;
        Ok(Self { file, beside, path: path.to_owned(), overwrite })
    }

    /// Where the secret will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the secret with a line end, to the disk, and gives the file its name at once.
    pub fn write(mut self, secret: &SecretString) -> io::Result<()> {
        let text = format!("{}\n", secret.expose_secret());
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_all()?;
        match self.overwrite {
            true => self.beside.persist(&self.path),
            false => self.beside.persist_noclobber(&self.path),
        }
        .map_err(|error| error.error)?;
        File::open(folder(&self.path))?.sync_all()
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
