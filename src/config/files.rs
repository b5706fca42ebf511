//! The files that a configuration was read from, and whether they are still the same.

use std::path::{Path, PathBuf};

/// What tells one state of a file from another. A file that is replaced, by a rename or by swapping
/// a link on its way, is another file; one that is written in place has another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Files, each with its state when it was looked at; none where it could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(Vec<(PathBuf, Option<Stamp>)>);

impl Files {
    /// Adds a file as it is now: before it is read, so that no change goes unnoticed.
    pub fn add(&mut self, path: &Path) {
        self.0.push((path.to_owned(), stamp(path)));
    }

    /// The same files as they are now. Looks at the file system, and nothing is read.
    pub fn again(&self) -> Self {
        Self(self.0.iter().map(|(path, _)| (path.clone(), stamp(path))).collect())
    }
}

/// Of the file that links lead to.
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
