//! The note that a rotation is under way: `<secret file>.rotation`. It holds no secret.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::attio::{Subscription, Webhook};

/// What a rotation is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// The webhook whose secret is old.
    pub webhook_id: String,
    /// Where it sends.
    pub target_url: String,
    /// What it sends.
    pub subscriptions: Vec<Subscription>,
}

/// What a successor's query begins with.
const SUCCESSOR_OF: &str = "successor-of=";

/// Whether a URL is that of a successor at a target URL: a rotation is under way there.
pub fn is_successor(url: &str, target_url: &str) -> bool {
    url.strip_prefix(target_url)
        .is_some_and(|query| query.get(1..).is_some_and(|q| q.starts_with(SUCCESSOR_OF)))
}

impl Journal {
    /// For a webhook as it is.
    pub fn of(webhook: &Webhook) -> Self {
        let Webhook { id, target_url, subscriptions, .. } = webhook.clone();
        Self { webhook_id: id.webhook_id, target_url, subscriptions }
    }

    /// Where the successor sends meanwhile: the same path, for the bridge reads no query.
    pub fn successor_url(&self) -> String {
        let join = if self.target_url.contains('?') { '&' } else { '?' };
        format!("{}{join}{SUCCESSOR_OF}{}", self.target_url, self.webhook_id)
    }

    /// Reads the note beside a secret file.
    pub fn read(secret_file: &Path) -> Result<Option<Self>, Error> {
        let path = beside(secret_file);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| Error::File { path, source: io::Error::from(error) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    /// Writes the note at once, unless there is one.
    pub fn write(&self, secret_file: &Path) -> Result<(), Error> {
        let path = beside(secret_file);
        let write = || {
            let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.as_file().sync_all()?;
            file.persist_noclobber(&path).map_err(|error| error.error).map(drop)
        };
        write().map_err(|source| Error::File { path: path.clone(), source })
    }

    /// Holds the note as long as the file is open: two that work on one rotation would undo each other's
    /// steps. Where the file system has no locks it is not held.
    pub fn hold(secret_file: &Path) -> Result<File, Error> {
        let path = beside(secret_file);
        let file = File::open(&path).map_err(|source| Error::File { path: path.clone(), source })?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::Lost(format!(
                "another `webhooks rotate` is at work on {}: wait for it, or end it",
                path.display()
            ))),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        }
    }

    /// It is over.
    pub fn remove(secret_file: &Path) -> Result<(), Error> {
        let path = beside(secret_file);
        std::fs::remove_file(&path).map_err(|source| Error::File { path, source })
    }
}

fn beside(secret_file: &Path) -> PathBuf {
    let mut path = OsString::from(secret_file);
    path.push(".rotation");
    path.into()
}
