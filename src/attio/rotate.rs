//! Rotates the secret of a webhook in steps, each of which may be the last before an interruption.
//!
//! Attio has no API call for it, and (URL, type, filter) must be unique. So a successor is created at the same URL
//! with a query string and with a filter that matches no event (*disabled*). Its secret goes into the webhook's
//! secret file, the old one into the file of a second secret of the source, so that the bridge accepts both.
//! Once the bridge accepts the new one, the successor gets the subscriptions; from then until the old webhook is
//! deleted both send, and consumers see those events twice, with two webhook ids. Then the successor gets the
//! URL without the query string, and the second file the new secret too.
//!
//! The next step follows from Attio and the two files; a [`Journal`] next to the secret file says that a rotation
//! is in progress, and for which webhook.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::secret::{self, SecretFile};
use super::types::{is_same_url, normalized};
use super::{Client, Created, Subscription, Webhook};
use crate::files;
use crate::files::PendingFile;

const NO_WORKSPACE: &str = "00000000-0000-0000-0000-000000000000";

const SUCCESSOR_OF: &str = "successor-of=";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretPaths {
    pub current: PathBuf,
    pub previous: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    /// Delete a successor whose secret was not stored.
    Discard,
    /// Once the bridge accepts the new secret: give the successor its subscriptions.
    Enable,
    /// Once a delivery of the successor is verified: delete the old webhook.
    Delete,
    Rename,
    /// Once no delivery signed with the old secret is in flight: remove that secret.
    Finish,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    #[serde(rename = "step")]
    pub action: Action,
    /// The webhook that it acts on; none for the one it creates.
    pub webhook_id: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Attio(#[from] super::Error),
    #[error(transparent)]
    Create(#[from] secret::Error),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Another process is at work, a file is not writable, or the webhooks at Attio are in no state of a rotation.
    #[error("{0}")]
    State(String),
}

/// What a rotation is about: the file `<secret file>.rotation`. It contains no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// Of the webhook whose secret is replaced.
    pub webhook_id: String,
    pub target_url: String,
    pub subscriptions: Vec<Subscription>,
}

/// Whether a URL is that of a successor for a target URL: a rotation is in progress there.
pub(crate) fn is_successor(url: &str, target_url: &str) -> bool {
    let url = normalized(url);
    let end = url.rfind(SUCCESSOR_OF).and_then(|at| url[..at].strip_suffix(['?', '&']));
    end.is_some_and(|url| is_same_url(url, target_url))
}

impl Journal {
    /// The successor's URL during the rotation. The bridge ignores the query string.
    fn successor_url(&self) -> String {
        let join = if self.target_url.contains('?') { '&' } else { '?' };
        format!("{}{join}{SUCCESSOR_OF}{}", self.target_url, self.webhook_id)
    }

    fn path(secret_file: &Path) -> PathBuf {
        let mut path = OsString::from(secret_file);
        path.push(".rotation");
        path.into()
    }

    fn read(secret_file: &Path) -> Result<Option<Self>, Error> {
        let path = Self::path(secret_file);
        match files::read(&path, files::MAX_BYTES) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
        .map_err(|source| Error::File { path, source })
    }

    /// Fails if there is a journal already.
    fn write(&self, secret_file: &Path) -> Result<(), Error> {
        let path = Self::path(secret_file);
        let write = || PendingFile::create(&path, 0o600)?.commit(&serde_json::to_vec_pretty(self)?, false);
        write().map_err(|source| Error::File { path: path.clone(), source })
    }
}

pub struct Rotation<'a> {
    client: &'a Client,
    paths: SecretPaths,
    journal: Journal,
    _lock: File,
}

impl<'a> Rotation<'a> {
    /// Continues the rotation of these files, if one is in progress.
    pub fn resume(client: &'a Client, paths: &SecretPaths) -> Result<Option<Self>, Error> {
        let Some(journal) = Journal::read(&paths.current)? else { return Ok(None) };
        Self::locked(client, paths, journal).map(Some)
    }

    /// Begins one: both files have the webhook's secret now.
    pub fn begin(client: &'a Client, paths: &SecretPaths, webhook: &Webhook) -> Result<Self, Error> {
        copy_current(paths)?;
        let Webhook { id, target_url, subscriptions, .. } = webhook.clone();
        let journal = Journal { webhook_id: id.webhook_id, target_url, subscriptions };
        journal.write(&paths.current)?;
        Self::locked(client, paths, journal)
    }

    /// Locks the journal as long as the file is open: two processes would undo each other's steps. On file
    /// systems without locks it stays unlocked.
    fn locked(client: &'a Client, paths: &SecretPaths, journal: Journal) -> Result<Self, Error> {
        let path = Journal::path(&paths.current);
        let lock = File::open(&path).map_err(|source| Error::File { path: path.clone(), source })?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            let path = path.display();
            return Err(Error::State(format!(
                "another `webhooks rotate` is using {path}: wait for it, or stop it"
            )));
        }
        Ok(Self { client, paths: paths.clone(), journal, _lock: lock })
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub fn secret(&self) -> Result<SecretString, Error> {
        read(&self.paths.current)
    }

    pub async fn next(&self) -> Result<Step, Error> {
        let new = read(&self.paths.current)?.expose_secret() != read(&self.paths.previous)?.expose_secret();
        next(&self.journal, self.client.webhooks().await?, new)
    }

    pub async fn perform(&self, Step { action, webhook_id }: &Step) -> Result<(), Error> {
        let Journal { target_url, subscriptions, .. } = &self.journal;
        let (client, id) = (self.client, webhook_id.as_deref().unwrap_or_default());
        match action {
            Action::Create => {
                let file = SecretFile::reserve(&self.paths.current, true).map_err(Error::State)?;
                let store = |created: &Created| file.write(&created.secret);
                let disabled = [disabled(subscriptions)];
                secret::create(client, &self.journal.successor_url(), &disabled, store).await?;
            }
            Action::Discard | Action::Delete => match client.delete_webhook(id).await {
                Err(error) if error.is_not_found() => {}
                done => done?,
            },
            Action::Enable => drop(client.update_webhook(id, None, Some(subscriptions)).await?),
            Action::Rename => drop(client.update_webhook(id, Some(target_url), None).await?),
            Action::Finish => {
                copy_current(&self.paths)?;
                let path = Journal::path(&self.paths.current);
                std::fs::remove_file(&path).map_err(|source| Error::File { path, source })?;
            }
        }
        Ok(())
    }
}

fn copy_current(SecretPaths { current, previous }: &SecretPaths) -> Result<(), Error> {
    let secret = read(current)?;
    let written = SecretFile::reserve(previous, true).map_err(Error::State)?.write(&secret);
    written.map_err(|source| Error::File { path: previous.clone(), source })
}

/// `new` is whether the files differ, which they do once the new secret is stored.
fn next(journal: &Journal, webhooks: Vec<Webhook>, new: bool) -> Result<Step, Error> {
    let (mut old, mut successors, mut renamed) = (None, Vec::new(), None);
    for webhook in webhooks {
        if webhook.id.webhook_id == journal.webhook_id {
            old = Some(webhook);
        } else if webhook.is_at(&journal.successor_url()) {
            successors.push(webhook);
        } else if webhook.is_at(&journal.target_url) {
            renamed = Some(webhook);
        }
    }
    let step = |action, webhook: Webhook| Ok(Step { action, webhook_id: Some(webhook.id.webhook_id) });
    if successors.len() > 1 || (!successors.is_empty() && !new) {
        return step(Action::Discard, successors.swap_remove(0));
    }
    match (old, successors.pop(), renamed) {
        (_, Some(successor), _) if is_disabled(&successor) => step(Action::Enable, successor),
        (Some(old), Some(_), _) => step(Action::Delete, old),
        (Some(_), None, _) if !new => Ok(Step { action: Action::Create, webhook_id: None }),
        (None, Some(successor), None) => step(Action::Rename, successor),
        // If the files are equal already, a Finish was interrupted.
        (None, None, Some(webhook)) => step(Action::Finish, webhook),
        (old, successor, _) => {
            let state = |exists: bool| if exists { "exists" } else { "does not exist" };
            let (old, successor) = (state(old.is_some()), state(successor.is_some()));
            Err(Error::State(format!(
                "the rotation of webhook {} cannot continue: at Attio the old webhook {old}, its successor \
                 {successor}; check with `webhooks list`, correct the files, and remove the .rotation file to start \
                 over",
                journal.webhook_id
            )))
        }
    }
}

fn disabled(subscriptions: &[Subscription]) -> Subscription {
    let event_type = subscriptions.first().map_or("record.created", |first| &first.event_type).to_owned();
    Subscription { event_type, filter: Some(matches_nothing()) }
}

fn matches_nothing() -> Json {
    json!({ "$and": [{ "field": "id.workspace_id", "operator": "equals", "value": NO_WORKSPACE }] })
}

fn is_disabled(webhook: &Webhook) -> bool {
    webhook.subscriptions.iter().all(|subscription| subscription.filter == Some(matches_nothing()))
}

fn read(path: &Path) -> Result<SecretString, Error> {
    let text = files::read_text(path, files::MAX_SECRET_BYTES);
    let text = text.map_err(|source| Error::File { path: path.to_owned(), source })?;
    Ok(SecretString::from(secret::without_line_end(&text).to_owned()))
}
