//! Files that are written atomically: a temporary file next to the final one, renamed onto it.

use std::fs::{File, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

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
